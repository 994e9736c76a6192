"""The temporal op: `geotdm_fast.reference.temporal_attention` by the fastest implementation that takes the input."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from geotdm_fast import reference
from geotdm_fast.ops import native
from geotdm_fast.ops.autocast import no_autocast
from geotdm_fast.ops.backend import current_backend
from geotdm_fast.reference import TemporalAttentionParams


def temporal_attention(
    x: Tensor,
    h: Tensor,
    params: TemporalAttentionParams,
    *,
    frames: Sequence[int] | None = None,
    precision: str = "fp32",
    psi: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Equal to `geotdm_fast.reference.temporal_attention`, which documents formula, shapes and dtypes.

    The CPU kernels give the same bits for any number of threads and are differentiable once; memory is linear in T.
    They compute in float32 (bfloat16 inputs are converted, results converted back). On processors with AVX512_BF16 the
    matrix products for bfloat16 h or params, or `precision="bf16"`, the attention's among them, are of bfloat16
    numbers, summed in float32, on the way back too; that of the time embedding stays float32. Other inputs, and frames
    with gaps, run the reference.
    """
    if current_backend() == "reference" or why_not_native(x, h, params, frames) is not None:
        return reference.temporal_attention(x, h, params, frames=frames, precision=precision, psi=psi)
    psi = relative_table(x, h, params, precision) if psi is None else psi
    weights = [param.float() for param in params[:-2]]
    x_out, h_out = _NativeTemporalAttention.apply(
        x.float().contiguous(),
        h.float().contiguous(),
        psi,
        native.needs_grad(x, h, psi, *weights),
        native.low_precision(precision, h, *params),
        *weights,
    )
    return x_out.to(x.dtype), h_out.to(h.dtype)


def relative_table(x: Tensor, h: Tensor, params: TemporalAttentionParams, precision: str = "fp32") -> Tensor:
    """psi of all differences of frames, [2 T - 1, H], as the implementation for these x and h wants it.

    It depends on the parameters and the number of frames alone: many calls can share it.
    """
    if current_backend() == "reference" or why_not_native(x, h, params, None) is not None:
        return reference.relative_table(params, max(h.shape[1] - 1, 0), h.dtype, precision)
    with no_autocast(h.device.type):
        time = [param.float() for param in params[-2:]]
        return reference.relative_table(params._replace(time_w=time[0], time_b=time[1]), h.shape[1] - 1, torch.float32)


def why_not_native(x: Tensor, h: Tensor, params: TemporalAttentionParams, frames: Sequence[int] | None) -> str | None:
    """Why the CPU kernels do not take these inputs, or None if they do."""
    if frames is not None:
        return "the frames have gaps"
    if h.shape[1] == 0:
        return "there is no frame"
    return native.why_not(x, h, params)


class _NativeTemporalAttention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx, x: Tensor, h: Tensor, psi: Tensor, keep: bool, low_precision: bool, *params: Tensor
    ) -> tuple[Tensor, Tensor]:
        x_out, h_out, kept = torch.ops.geotdm_fast.temporal_attention_forward(x, h, psi, params, keep, low_precision)
        ctx.save_for_backward(x, h, psi, *kept, *params)
        ctx.num_kept, ctx.low_precision = len(kept), low_precision
        return x_out, h_out

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_x_out: Tensor, grad_h_out: Tensor):
        x, h, psi, *saved = ctx.saved_tensors
        kept, params = saved[: ctx.num_kept], saved[ctx.num_kept :]
        grad_x, grad_h, grad_psi, grad_params = torch.ops.geotdm_fast.temporal_attention_backward(
            grad_x_out.contiguous(), grad_h_out.contiguous(), x, h, psi, params, kept, ctx.low_precision
        )
        return grad_x, grad_h, grad_psi, None, None, *grad_params
