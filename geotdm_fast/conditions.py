"""Numbers of a trajectory that a network is told: a temperature, the time between two frames."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from geotdm_fast.runtime.shown import listed, shown

# What the trained range is stretched to: at frequency 1 the sinusoid turns 1.6 times within it, and never jumps.
SPAN = 10.0
# Conditions are float32: so much of the largest number is rounding.
_ROUNDING = 1e-5
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*")


@dataclass(frozen=True)
class Conditions:
    """Which numbers a network is told, by name, and within which ranges it was trained.

    names: in alphabetical order; low, high: the smallest and the largest number of each in the training data

    Raises ValueError for no names, names that are no words, and ranges that are none.
    """

    names: tuple[str, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]

    @classmethod
    def parse(cls, value: Mapping | None, where: str = "conditions") -> "Conditions | None":
        """{name: [low, high]} of a configuration; None for None or nothing."""
        if value is None or (isinstance(value, Mapping) and not value):
            return None
        if not isinstance(value, Mapping):
            raise ValueError(f"{where} must be {{name: [low, high]}}, got {shown(value)}")
        names = tuple(sorted(check_name(where, name) for name in value))
        for name in names:
            pair = value[name]
            numbers = isinstance(pair, (list, tuple)) and len(pair) == 2 and all(map(is_number, pair))
            if not numbers or not pair[0] <= pair[1]:
                raise ValueError(f"{where}.{name} must be [low, high], two finite numbers, got {shown(pair)}")
        low, high = (tuple(float(value[name][i]) for name in names) for i in (0, 1))
        return cls(names, low, high)

    @classmethod
    def of(cls, names: Sequence[str], values: Tensor) -> "Conditions":
        """The ranges of values [M, C], rounded to the 7 digits that float32 has."""
        ends = (values.double().amin(0).tolist(), values.double().amax(0).tolist())
        low, high = (tuple(float(f"{number:.7g}") for number in numbers) for numbers in ends)
        return cls(tuple(names), low, high)

    def as_config(self) -> dict[str, list[float]]:
        """{name: [low, high]}, plain values."""
        return {name: [low, high] for name, low, high in zip(self.names, self.low, self.high, strict=True)}

    def scaled(self, values: Tensor) -> Tensor:
        """`SPAN` (v - low) / (high - low) of values [G, C], which is 0 ... `SPAN` in the trained range.

        Where low and high are equal, a width of |low|, or of 1 if that is 0, stands for their difference.
        """
        # Python's numbers: a tensor made here would be copied to the device, which no CUDA graph captures.
        ranges = zip(values.unbind(1), self.low, self.high, strict=True)
        return torch.stack([(v - low) * (SPAN / (high - low or abs(low) or 1.0)) for v, low, high in ranges], dim=1)

    def check_names(self, where: str, names: Sequence[str]) -> None:
        """ValueError naming the first condition that is missing, or that the network is not told."""
        for name in self.names:
            if name not in names:
                raise ValueError(f"{where}: the condition {name} is missing; {self._hint(name)}")
        for name in names:
            if name not in self.names:
                raise ValueError(f"{where}: unknown condition '{name}', the model is told {', '.join(self.names)}")

    def check_range(self, where: str, values: Tensor) -> None:
        """ValueError for the first condition of values [M, C] that is outside of the trained range."""
        for i, (name, low, high) in enumerate(zip(self.names, self.low, self.high, strict=True)):
            room = _ROUNDING * max(abs(low), abs(high))
            outside = values[:, i][(values[:, i] < low - room) | (values[:, i] > high + room)]
            if len(outside):
                raise ValueError(
                    f"{where}: the condition {name} must be in the trained range {low:g} ... {high:g}, got "
                    f"{float(outside[0]):g}; --extrapolate (extrapolate=True) goes on all the same"
                )

    def _hint(self, name: str) -> str:
        return f"--set conditions.{name}=... (conditions={{'{name}': ...}}) gives it"


def check_name(where: str, name: object) -> str:
    """`name`, or ValueError unless it is a word of letters, digits and _."""
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ValueError(f"{where}: a condition's name must be a word of letters, digits and _, got {shown(name)}")
    return name


def check_finite_conditions(where: str, names: Sequence[str], values: Tensor) -> None:
    """ValueError naming the first condition of values [M, C] that is not finite."""
    for i, name in enumerate(names):
        if not bool(values[:, i].isfinite().all()):
            raise ValueError(f"{where}: the condition {name} must be finite, got NaN or Inf")


def is_number(value: object) -> bool:
    """Whether a value of a configuration is a finite number."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def check_untold(where: str, names: Sequence[str]) -> None:
    """ValueError where there are conditions for a model that is told none."""
    if names:
        raise ValueError(f"{where}: the model is told no conditions, got {listed(names)}; leave them out")
