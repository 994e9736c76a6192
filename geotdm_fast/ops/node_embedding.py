"""The first layer of the network: `geotdm_fast.reference.node_embedding` by the fastest implementation."""

from typing import Any

import torch
from torch import Tensor

from geotdm_fast import reference
from geotdm_fast.ops import kernels
from geotdm_fast.ops.backend import prefers_triton
from geotdm_fast.ops.derivatives import graph_is_wanted, reference_gradients
from geotdm_fast.reference.sinusoid import frequencies


def node_embedding(
    h: Tensor, step: Tensor | None, weight: Tensor, bias: Tensor, num_frames: int, precision: str = "fp32"
) -> Tensor:
    """Equal to `geotdm_fast.reference.node_embedding`.

    Features [N, F] in float32 that ask for no gradient are one Triton kernel on CUDA and two on the way back, in place
    of forty launches, and give the same bits in every run; `torch.compile` and all else get the reference.
    """
    is_wanted = h.requires_grad or (step is not None and step.requires_grad)
    if h.dim() != 2 or is_wanted or weight.shape[0] > kernels.MAX_WIDTH or not prefers_triton(h, weight, bias):
        return reference.node_embedding(h, step, weight, bias, num_frames, precision)
    return _NodeEmbedding.apply(h.contiguous(), step, weight.contiguous(), bias.contiguous(), num_frames, precision)


class _NodeEmbedding(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, h: Tensor, step: Tensor | None, weight: Tensor, bias: Tensor, num_frames: int, precision: str
    ) -> Tensor:
        from geotdm_fast.kernels.node_embedding_launch import node_embedding as launch

        step = None if step is None else step.contiguous()
        frequency = _frequencies(weight.shape[1] - h.shape[1], h)
        ctx.save_for_backward(h, step, weight, bias)
        ctx.frequency, ctx.num_frames, ctx.precision = frequency, num_frames, precision
        return launch(h, step, frequency, weight, bias, num_frames, precision)

    @staticmethod
    def backward(ctx: Any, grad_z: Tensor) -> tuple[Tensor | None, ...]:
        from geotdm_fast.kernels.node_embedding_launch import node_embedding_backward as launch

        h, step, weight, bias = ctx.saved_tensors
        if graph_is_wanted():
            about = (ctx.num_frames, ctx.precision)
            op = lambda weight, bias: (reference.node_embedding(h, step, weight, bias, *about),)
            grads = reference_gradients(op, (weight, bias), (grad_z,), ctx.needs_input_grad[2:4])
            return None, None, *grads, None, None
        num_inputs = weight.shape[1]
        grad_weight, grad_bias = launch(grad_z.contiguous(), h, step, ctx.frequency, num_inputs, ctx.precision)
        return None, None, grad_weight, grad_bias, None, None


# Of (width, device): few and small, so none is ever dropped. A captured CUDA graph may read one as long as it lives.
_tables: dict[tuple[int, torch.device], Tensor] = {}


def _frequencies(dim: int, like: Tensor) -> Tensor:
    """[dim // 2] float32 on the device of `like`."""
    key = (dim, like.device)
    if key not in _tables:
        if like.is_cuda and torch.cuda.is_current_stream_capturing():
            return frequencies(dim, torch.float32, like.device)  # what a capture computes has no values yet
        with torch.inference_mode(False):
            # Copied by the host, which waits: any stream may read it.
            _tables[key] = frequencies(dim, torch.float32, torch.device("cpu")).to(like.device)
    return _tables[key]
