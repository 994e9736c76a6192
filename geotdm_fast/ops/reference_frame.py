"""The mean of the learned prior: `geotdm_fast.reference.reference_frame` by the fastest implementation."""

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from geotdm_fast import reference
from geotdm_fast.ops.backend import prefers_triton


def reference_frame(y: Tensor, z: Tensor, ws: Tensor) -> Tensor:
    """Equal to `geotdm_fast.reference.reference_frame`.

    Float32 on CUDA is one Triton kernel, and one and a sum on the way back, in place of 17 launches, and gives the same
    bits in every run; `torch.compile` and all else get the reference.
    """
    if y.shape[-1] > 4 or not prefers_triton(y, z, ws):
        return reference.reference_frame(y, z, ws)
    return _ReferenceFrame.apply(y.contiguous(), z.contiguous(), ws.contiguous())


class _ReferenceFrame(torch.autograd.Function):
    @staticmethod
    def forward(ctx, y: Tensor, z: Tensor, ws: Tensor) -> Tensor:
        from geotdm_fast.kernels.reference_frame_launch import reference_frame as launch

        x_ref, mean = launch(y, z, ws)
        ctx.save_for_backward(y, mean, ws)
        ctx.width = z.shape[2]
        return x_ref

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor):
        from geotdm_fast.kernels.reference_frame_launch import reference_frame_backward as launch

        return launch(grad.contiguous(), *ctx.saved_tensors, ctx.width)
