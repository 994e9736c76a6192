"""One line of the result."""

import math
from dataclasses import dataclass, field
from typing import Any

from geotdm_fast.scores.md.resampling import Estimate


@dataclass(frozen=True)
class Row:
    """A score of drawn trajectories, beside its floor.

    score: of `MD_SCORES`; quantity: what of it, in words; unit: of the numbers, '' for none
    better: `lower` or `higher`
    detail: what a reader of the JSON may want besides, plain values
    """

    score: str
    quantity: str
    estimate: Estimate
    unit: str = ""
    better: str = "lower"
    detail: dict[str, Any] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """Plain values; None for a number that there is none of."""
        numbers = {name: plain_number(value) for name, value in self.estimate._asdict().items()}
        about = {"score": self.score, "quantity": self.quantity, "unit": self.unit, "better": self.better}
        return {**about, **numbers, **({"detail": self.detail} if self.detail else {})}


def plain_number(value: float) -> float | None:
    """A number for JSON, which has no NaN and no infinity."""
    return float(value) if math.isfinite(value) else None
