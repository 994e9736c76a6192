"""The one table of tolerances. Errors are ||ours - expected|| / ||expected|| unless a test says otherwise."""

import numpy as np
import torch

# A fused op against float64: at most so many times the error of plain PyTorch in the same precision.
from geotdm_fast.scores.verification import TIMES_PLAIN, TIMES_PLAIN_FP32_GPU

# Float32 against numbers that the official implementation computed in float32.
GOLDEN = {"forward": 2e-5, "step": 2e-4, "gradient": 2e-4, "chain": 2e-3, "exact": 1e-12}

# Float64 against float64 by another route: rounding only, a whole sampling chain included.
SAME = 1e-9

# Half a unit in the last place of the matrix products' inputs, relative.
ROUNDOFF = {"fp32": 2.0**-24, "tf32": 2.0**-11, "bf16": 2.0**-8}

# A layer or a small network in a precision against float64: this many roundoffs.
ROUNDOFFS = 16

# Statistics of seeded draws: the chance that a correct program exceeds the bound with another seed.
FALSE_ALARM = 1e-6


def relative_error(ours, expected, floor: float = 1e-8) -> float:
    """||ours - expected|| / max(||expected||, floor); infinite when a shape differs or ours is not finite."""
    a, b = (_float64(value) for value in (ours, expected))
    if a.shape != b.shape or not np.isfinite(a).all():
        return float("inf")
    return float(np.linalg.norm(a - b) / max(np.linalg.norm(b), floor))


def assert_same(ours, expected, bound: float = SAME, floor: float = 1e-8, what: str = "result") -> None:
    """Raise AssertionError unless the relative error is within `bound`."""
    error = relative_error(ours, expected, floor)
    assert error <= bound, f"{what}: relative error {error:.2e} is over {bound:.0e}"


def assert_as_accurate(ours, plain, exact, precision: str, what: str = "result") -> None:
    """Raise AssertionError unless `ours` is as near to `exact` as `plain` PyTorch in the same precision, nearly.

    The floor, one roundoff, is for results that plain PyTorch happens to hit.
    """
    times = TIMES_PLAIN_FP32_GPU if precision == "fp32" and ours.is_cuda else TIMES_PLAIN
    allowed = times * relative_error(plain, exact) + ROUNDOFF[precision]
    assert_same(ours, exact, allowed, what=what)


def _float64(value) -> np.ndarray:
    return np.asarray(value.detach().cpu().double() if torch.is_tensor(value) else value, dtype=np.float64)
