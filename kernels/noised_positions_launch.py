"""Launches the noising of a training step on the current stream of its tensors' device."""

import torch
import triton
from torch import Tensor

from geotdm_fast.kernels.egcl_launch import on_device
from geotdm_fast.kernels.noised_positions import noised_positions_backward_kernel, noised_positions_kernel

BLOCK = 256


def noised_positions(
    x_start: Tensor, x_ref: Tensor, noise: Tensor, signal: Tensor, spread: Tensor, t: Tensor
) -> Tensor:
    """`geotdm_fast.reference.noised_positions` of float32; x_start with its frames side by side, noise contiguous."""
    _, dim, num_frames = noise.shape
    x = torch.empty_like(noise)
    if x.numel():
        ref_t = x_ref.stride(2) if x_ref.shape[2] > 1 else 0
        with on_device(x):
            noised_positions_kernel[(triton.cdiv(x.numel(), BLOCK),)](
                x_start, x_ref, noise, signal, spread, t, x,
                x.numel(), dim * num_frames, num_frames, *x_start.stride()[:2], *x_ref.stride()[:2], ref_t,
                BLOCK=BLOCK, num_warps=4,
            )  # fmt: skip
    return x


def noised_positions_backward(grad: Tensor, signal: Tensor, t: Tensor) -> Tensor:
    """The gradient of an x_ref of all frames."""
    grad_ref = torch.empty_like(grad)
    if grad.numel():
        with on_device(grad):
            noised_positions_backward_kernel[(triton.cdiv(grad.numel(), BLOCK),)](
                grad, signal, t, grad_ref, grad.numel(), grad[0].numel(), BLOCK=BLOCK, num_warps=4
            )
    return grad_ref
