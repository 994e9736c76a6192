"""`pytest --inexact`: Triton's interpreter with the GPU's approximations in place of exact functions.

float32 exp, division and square root are off by a unit in the last place, up or down by the bits of the result, so that
every run gives the same; tanh, in low precision, has 11 bits (tanh.approx). 0 and powers of two stay, as on a GPU: the
exponential of 0 is 1 there, and a half of 1 is 0.5.
"""

import sys

import interpreter
import numpy as np
import triton
import triton.language as tl
from triton.runtime.interpreter import InterpreterBuilder

from geotdm_fast.kernels.arithmetic import _without_low_bits

APPROXIMATE = ("create_exp", "create_exp2", "create_fdiv", "create_sqrt")


def install() -> None:
    """From now on every interpreted launch is inexact."""
    from geotdm_fast.kernels import egcl, egcl_backward, egcl_edges_backward  # noqa: F401

    interpreter.inexact = True
    for name in APPROXIMATE:
        setattr(InterpreterBuilder, name, _off_by_an_ulp(getattr(InterpreterBuilder, name)))
    for name, module in [*sys.modules.items()]:
        if name.startswith("geotdm_fast.kernels."):
            for function in (silu_of_double, silu_and_slope):
                if hasattr(module, function.fn.__name__):
                    setattr(module, function.fn.__name__, function)


def _off_by_an_ulp(create):
    def created(builder, *args):
        result = create(builder, *args)
        result.data = moved(result.data)
        return result

    return created


def moved(values: np.ndarray) -> np.ndarray:
    """Float32 values with -1, 0 or 1 added to their bits, which decide; other types, NaN and powers of two stay."""
    if values.dtype != np.float32:
        return values
    bits = np.ascontiguousarray(values).view(np.int32)
    steps = np.array([0, 1, 0, -1], np.int32)[(bits.astype(np.int64) * 2654435761 >> 16) % 4]  # every other one
    moves = np.isfinite(values) & (bits & 0x7FFFFF != 0)
    return (bits + np.where(moves, steps, 0)).view(np.float32).reshape(values.shape)


@triton.jit
def silu_of_double(half, PRECISION: tl.constexpr):
    if PRECISION == "fp32":
        return 2 * half / (1 + tl.exp(-2 * half))
    else:
        return half * _tanh(half) + half


@triton.jit
def silu_and_slope(half, PRECISION: tl.constexpr):
    if PRECISION == "fp32":
        inverse = tl.exp(-2 * half)
        double = 2 / (1 + inverse)
        value = half * double
        return value, value * (tl.minimum(inverse, 1e30) * double) + double
    else:
        double = _tanh(half) + 1
        value = half * double
        return value, value * (2 - double) + double


@triton.jit
def _tanh(x):
    near_zero = x - x * x * x / 3 + 2 * x * x * x * x * x / 15  # where the difference below would cancel
    value = tl.where(tl.abs(x) < 0.1, near_zero, 1 - 2 / (1 + tl.exp(2 * x)))
    return _without_low_bits(value, 13)  # relative error 2^-11
