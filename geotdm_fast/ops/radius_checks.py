"""Checks of what both forms of the radius graph are given; none waits for the device."""

import math
import numbers

import torch
from torch import Tensor

from geotdm_fast.reference.radius_graph import computed_in
from geotdm_fast.runtime.checks import check_same_device, check_tensor


def check_search(where: str, x: Tensor, cutoff: float, batch: Tensor | None, loop: bool) -> None:
    """Raise ValueError / TypeError unless shapes, dtypes and devices fit and the dtype holds the cutoff's square."""
    three = isinstance(x, Tensor) and x.dim() == 3
    check_tensor(where, "x", x, ("N", "T", "D") if three else ("N", "D"), integer=False)
    if x.shape[-1] == 0:
        raise ValueError(f"{where}: x must have at least one coordinate, got {list(x.shape)}")
    check_batch(where, x, batch)
    _check_cutoff(where, cutoff, x.dtype)
    if not isinstance(loop, bool):
        raise TypeError(f"{where}: loop must be True or False, got {loop!r}")


def check_batch(where: str, x: Tensor, batch: Tensor | None) -> None:
    """Raise ValueError / TypeError unless `batch` is None, or [N] on the device of x [N, ...]."""
    if batch is not None:
        check_tensor(where, "batch", batch, (x.shape[0],), integer=True)
        check_same_device(where, x=x, batch=batch)


def check_no_pbc(where: str, pbc: Tensor | None) -> None:
    """Raise ValueError for directions that are periodic, without a cell."""
    if pbc is not None:
        raise ValueError(f"{where}: pbc must come with a cell, got no cell")


def _check_cutoff(where: str, cutoff: float, dtype: torch.dtype) -> None:
    if isinstance(cutoff, bool) or not isinstance(cutoff, numbers.Real):
        raise TypeError(f"{where}: cutoff must be a number, got {cutoff!r}")
    if not cutoff > 0:
        raise ValueError(f"{where}: cutoff must be positive, got {cutoff}")
    # Where squares neither overflow nor lose digits at the lower end.
    limits = torch.finfo(computed_in(dtype))
    low, high = math.sqrt(limits.tiny / limits.eps), min(math.sqrt(limits.max), torch.finfo(dtype).max)
    if not low <= cutoff <= high:
        raise ValueError(f"{where}: cutoff must be from {low:.1e} to {high:.1e} for {dtype}, got {cutoff}")
