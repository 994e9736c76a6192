"""What every Triton kernel computes with, on a GPU or in Triton's interpreter."""

import importlib.util
import sys

import pytest
import torch

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None and sys.platform != "linux", reason="triton is made for Linux alone"
)

if importlib.util.find_spec("triton"):
    import triton
    import triton.language as tl

    from geotdm_fast.kernels.arithmetic import silu_and_slope

    @triton.jit
    def silu_kernel(p_half, p_value, p_slope, SIZE: tl.constexpr):
        i = tl.arange(0, SIZE)
        b_value, b_slope = silu_and_slope(tl.load(p_half + i), "fp32")
        tl.store(p_value + i, b_value)
        tl.store(p_slope + i, b_slope)


def test_silu_and_its_slope_keep_their_digits_far_from_zero(device):
    """The slope is 1 + (x - 1) exp(-x) for large x: s + x - x s would lose the digits of x - x s."""
    pytest.importorskip("triton")
    half = torch.cat([torch.linspace(-60, 60, 480), torch.logspace(2, 30, 16), -torch.logspace(2, 30, 16)]).to(device)
    value, slope = torch.empty_like(half), torch.empty_like(half)
    silu_kernel[(1,)](half, value, slope, SIZE=half.numel())
    x = 2 * half.double().requires_grad_()
    expected = torch.nn.functional.silu(x)
    by_half = 2 * torch.autograd.grad(expected.sum(), x)[0]
    error = (slope - by_half).abs() / by_half.abs().clamp(min=1)
    assert error.max() < 4 * 2.0**-24
    assert ((value - expected).abs() / expected.abs().clamp(min=1)).max() < 4 * 2.0**-24
    assert slope[half < -45].abs().max() < 1e-30 and torch.all(slope[half > 45] == 2)
