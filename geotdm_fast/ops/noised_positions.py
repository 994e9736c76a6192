"""Noise around the prior's mean: `geotdm_fast.reference.noised_positions` by the fastest implementation."""

from typing import Any

import torch
from torch import Tensor

from geotdm_fast import reference
from geotdm_fast.ops.backend import prefers_triton
from geotdm_fast.ops.derivatives import graph_is_wanted


def noised_positions(
    x_start: Tensor, x_ref: Tensor, noise: Tensor, signal: Tensor, spread: Tensor, t: Tensor
) -> Tensor:
    """Equal to `geotdm_fast.reference.noised_positions`.

    Float32 on CUDA that asks for no gradient but that of an x_ref of all frames is one Triton kernel each way, in place
    of ten launches; all else gets the reference.
    """
    inputs = (x_start, x_ref, noise, signal, spread)
    others_want = any(tensor.requires_grad for tensor in (x_start, noise, signal, spread))
    one_frame_wants = x_ref.requires_grad and x_ref.shape != noise.shape
    if others_want or one_frame_wants or x_start.stride(2) != 1 or not prefers_triton(*inputs):
        return reference.noised_positions(*inputs, t)
    return _NoisedPositions.apply(x_start, x_ref, noise.contiguous(), signal, spread, t)


class _NoisedPositions(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x_start: Tensor, x_ref: Tensor, noise: Tensor, signal: Tensor, spread: Tensor, t: Tensor
    ) -> Tensor:
        from geotdm_fast.kernels.noised_positions_launch import noised_positions as launch

        t = t.contiguous()
        ctx.save_for_backward(signal, t)
        return launch(x_start, x_ref, noise, signal, spread, t)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        from geotdm_fast.kernels.noised_positions_launch import noised_positions_backward as launch

        signal, t = ctx.saved_tensors
        if graph_is_wanted():
            grad_x_ref = (1 - signal[t])[:, None, None] * grad  # linear, so nothing else is needed
        else:
            grad_x_ref = launch(grad.contiguous(), signal, t)
        return None, grad_x_ref, None, None, None, None
