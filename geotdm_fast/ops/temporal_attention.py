"""The temporal op: `geotdm_fast.reference.temporal_attention` by the fastest implementation that takes the input."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from geotdm_fast import reference
from geotdm_fast.ops import cuda_native, native
from geotdm_fast.ops.autocast import no_autocast
from geotdm_fast.ops.backend import current_backend
from geotdm_fast.ops.derivatives import graph_is_wanted, reference_gradients
from geotdm_fast.ops.time_phases import time_phases
from geotdm_fast.reference import PRECISIONS, TemporalAttentionParams
from geotdm_fast.runtime.checks import check_window, is_transformed
from geotdm_fast.runtime.choices import check_choice

# What the compiled ops take for no window: more than there are frames.
EVERY_FRAME = 2**31 - 1


def temporal_attention(
    x: Tensor,
    h: Tensor,
    params: TemporalAttentionParams,
    *,
    frames: Sequence[int] | None = None,
    window: int | None = None,
    precision: str = "fp32",
) -> tuple[Tensor, Tensor]:
    """Equal to `geotdm_fast.reference.temporal_attention`, which documents formula, shapes and dtypes.

    Float32 and bfloat16 inputs run the C++ module on the CPU and the CUDA module on CUDA, which give the same bits in
    every run (on the CPU for any number of threads). Memory is linear in T, and so is time with a `window`, whose cost
    is that of 2 window + 1 frames. They compute in float32 (bfloat16 inputs are converted, results converted back).
    Matrix products take bfloat16 factors for bfloat16 h or params and for `precision="bf16"` (on the CPU where it has
    AMX or AVX512_BF16, else float32), tf32 ones on CUDA for "tf32", on the way back too; sums and the softmax are
    float32. On the CPU the sines and cosines of the frames and time_w are such factors too. Under `create_graph=True`
    the backward is the reference's, which can be differentiated again. Other inputs run the reference: on the CPU also
    frames with gaps, on CUDA those with a window, and everywhere all within transforms of `torch.func` or forward-mode
    differentiation. `torch.compile(fullgraph=True)` takes all of it, but for second derivatives. A CUDA graph may
    capture it after one call outside. Raises ValueError for a negative window and an unknown precision.
    """
    check_window("temporal_attention", window)
    check_choice("temporal_attention: precision", precision, PRECISIONS)
    if frames is not None and _consecutive(frames):
        frames = None  # only their differences count
    products = "bf16" if native.low_precision(precision, h, *params) else precision
    is_plain = current_backend() == "reference" or is_transformed()
    if is_plain or why_not_compiled(x, h, params, frames, window, products) is not None:
        return reference.temporal_attention(x, h, params, frames=frames, window=window, precision=precision)
    weights = native.as_kernels_read(params)
    x_out, h_out = _TemporalAttention.apply(
        x.float().contiguous(),
        h.float().contiguous(),
        frames,
        EVERY_FRAME if window is None else min(window, EVERY_FRAME),
        native.needs_grad(x, h, *weights),
        PRECISIONS.index(products),
        *weights,
    )
    return x_out.to(x.dtype), h_out.to(h.dtype)


def why_not_compiled(
    x: Tensor,
    h: Tensor,
    params: TemporalAttentionParams,
    frames: Sequence[int] | None,
    window: int | None,
    products: str = "fp32",
) -> str | None:
    """Why the compiled kernels of the input's device do not take it, or None if they do. frames: if they have gaps."""
    width = h.shape[-1]
    if h.shape[1] == 0:
        return "there is no frame"
    for name in ("q_w1", "k_w1", "v_w1", "x_w1"):
        hidden = getattr(params, name).shape[0]
        if hidden != width:
            return f"the hidden width {hidden} of {name} is not the width of h, {width}"
    if x.device.type == "cpu":
        return "the frames have gaps" if frames is not None else native.why_not(x, h, params)
    if frames is not None and window is not None:
        return "the frames have gaps, and the kernels count places within a window"
    return cuda_native.why_not(x, h, params, products)


def _consecutive(frames: Sequence[int]) -> bool:
    return len(frames) > 0 and frames[-1] - frames[0] + 1 == len(frames)


class _TemporalAttention(torch.autograd.Function):
    """On the CPU and on CUDA, whose backward computes anew what the CPU's keeps."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        h: Tensor,
        frames: Sequence[int] | None,
        window: int,
        keep: bool,
        precision: int,
        *params: Tensor,
    ) -> tuple[Tensor, Tensor]:
        time_emb_dim = params[-2].shape[1]
        turned = time_phases(h, time_emb_dim, frames)
        x_out, h_out, kept = torch.ops.geotdm_fast.temporal_attention_forward(
            x, h, turned, params, window, keep, precision
        )
        ctx.save_for_backward(x, h, turned, *kept, *params)
        ctx.num_kept, ctx.frames, ctx.window, ctx.precision = len(kept), frames, window, precision
        return x_out, h_out

    @staticmethod
    def backward(ctx: Any, grad_x_out: Tensor, grad_h_out: Tensor) -> tuple[Tensor | None, ...]:
        x, h, turned, *saved = ctx.saved_tensors
        kept, params = saved[: ctx.num_kept], saved[ctx.num_kept :]
        if graph_is_wanted():
            return _twice_differentiable(ctx, (grad_x_out, grad_h_out), x, h, params)
        grad_x, grad_h, grad_params = torch.ops.geotdm_fast.temporal_attention_backward(
            grad_x_out.contiguous(), grad_h_out.contiguous(), x, h, turned, params, kept, ctx.window, ctx.precision
        )
        return grad_x, grad_h, None, None, None, None, *grad_params


# The place of the first parameter among the inputs of the Function.
_PARAMS = 6


def _twice_differentiable(
    ctx: Any, cotangents: tuple[Tensor, Tensor], x: Tensor, h: Tensor, params: tuple[Tensor, ...]
) -> tuple[Tensor | None, ...]:
    """What the backward returns where its gradients are to be differentiated again."""

    def op(x: Tensor, h: Tensor, *params: Tensor) -> tuple[Tensor, Tensor]:
        about = {"frames": ctx.frames, "window": ctx.window, "precision": PRECISIONS[ctx.precision]}
        return reference.temporal_attention(x, h, TemporalAttentionParams(*params), **about)

    wanted = (*ctx.needs_input_grad[:2], *ctx.needs_input_grad[_PARAMS:])
    with no_autocast(x.device.type):
        grads = reference_gradients(op, (x, h, *params), cotangents, wanted)
    return (*grads[:2], *[None] * (_PARAMS - 2), *grads[2:])
