"""How much an edge counts by its length: 1 where its ends meet, 0 from a cutoff on, smooth between."""

import math

import torch
from torch import Tensor

from geotdm_fast.runtime.choices import check_choice

# The names that `envelope` may have.
ENVELOPES = ("polynomial",)


def polynomial_envelope(square: Tensor, cutoff: float) -> Tensor:
    """u(t) = 1 - 28 t^6 + 48 t^7 - 21 t^8 of t = sqrt(square) / cutoff, 0 from t = 1 on.

    u and its first two derivatives are 0 at the cutoff, so nothing jumps where an edge appears, nor do forces or their
    slopes; at distance 0 its first five derivatives are. Source: Klicpera et al. 2020 (DimeNet, arXiv 2003.03123),
    Eq. 8 with p = 6. It is computed as (1 - t)^3 (1 + 3 t + 6 t^2 + 10 t^3 + 15 t^4 + 21 t^5), which loses no digits
    near the cutoff.
    """
    apart = square > 0  # where the root has a derivative
    t = torch.where(apart, torch.where(apart, square, 1).sqrt() / cutoff, 0).clamp(max=1)
    rest = 1 - t
    return rest * rest * rest * (((((21 * t + 15) * t + 10) * t + 6) * t + 3) * t + 1)


def smooth_count(total: Tensor) -> Tensor:
    """sqrt(1 + total^2): a stand-in for max(total, 1) without a kink, near it from 2 or 3 on."""
    return (1 + total * total).sqrt()


def check_cutoff(where: str, cutoff: float | None, envelope: str) -> None:
    """Raise TypeError/ValueError unless `cutoff` is None or a finite number over 0, and `envelope` a known name."""
    check_choice(f"{where}: envelope", envelope, ENVELOPES)
    if cutoff is None:
        return
    if isinstance(cutoff, bool) or not isinstance(cutoff, int | float):
        raise TypeError(f"{where}: cutoff must be a number or None, got {type(cutoff).__name__}")
    if not (math.isfinite(cutoff) and cutoff > 0):
        raise ValueError(f"{where}: cutoff must be finite and over 0, got {cutoff}")
