"""Matrix products whose inputs are rounded to a precision, accumulated in the tensors' own dtype."""

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import silu

PRECISIONS = ("fp32", "tf32", "bf16")


def rounded(x: Tensor, precision: str) -> Tensor:
    """`x` rounded to the nearest value of `precision`, in the dtype of `x`; the gradient passes through.

    precision: `fp32` leaves x as it is (also float64), `tf32` keeps 10 bits of mantissa, `bf16` keeps 7.
    """
    if precision == "fp32":
        return x
    if precision == "bf16":
        low = x.detach().bfloat16().to(x.dtype)
    else:
        bits = x.detach().float().contiguous().view(torch.int32)
        # Round half to even at bit 13, as the tensor cores' conversion does.
        bits = (bits + 0xFFF + ((bits >> 13) & 1)) & ~0x1FFF
        low = bits.view(torch.float32).to(x.dtype)
    return _PassThrough.apply(x, low)


class _PassThrough(torch.autograd.Function):
    """The second tensor, whose gradient is the first one's: no launch, where x + (low - x).detach() takes two."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, low: Tensor) -> Tensor:
        return low

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad, None


def matmul(a: Tensor, b: Tensor, precision: str = "fp32") -> Tensor:
    """a b with both inputs rounded to `precision`."""
    return rounded(a, precision) @ rounded(b, precision)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None, precision: str = "fp32") -> Tensor:
    """x W^T + b with x [..., I] and weight [O, I] rounded to `precision`; the bias is not rounded."""
    return torch.nn.functional.linear(rounded(x, precision), rounded(weight, precision), bias)


def mlp(x: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor, precision: str = "fp32") -> Tensor:
    """W2 silu(W1 x + b1) + b2, products as `linear` rounds them."""
    return linear(silu(linear(x, w1, b1, precision)), w2, b2, precision)
