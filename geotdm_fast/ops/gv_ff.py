"""The gated feed-forward on a scalar and a vector: `geotdm_fast.reference.gv_ff` by the fastest implementation."""

from typing import Any

import torch
from torch import Tensor

from geotdm_fast import reference
from geotdm_fast.ops import native
from geotdm_fast.ops.autocast import no_autocast
from geotdm_fast.ops.backend import current_backend
from geotdm_fast.ops.derivatives import graph_is_wanted, reference_gradients
from geotdm_fast.reference import PRECISIONS, GVFFParams
from geotdm_fast.runtime.checks import is_transformed
from geotdm_fast.runtime.choices import check_choice

# The vectors between both perceptrons, for which the C++ kernels are made.
NUM_VECTORS = 4


def gv_ff(k: Tensor, u: Tensor, params: GVFFParams, *, precision: str = "fp32") -> tuple[Tensor, Tensor]:
    """Equal to `geotdm_fast.reference.gv_ff`, which documents formula, shapes and dtypes.

    Float32 and bfloat16 inputs with four vectors run the C++ module on the CPU, which gives the same bits in every run
    and for any number of threads, keeps nothing for its backward but its inputs, and sums no gradient of parameters
    that ask for none. Sums are float32; products take bfloat16 factors for bfloat16 k or params and for
    `precision="bf16"` where the CPU has AMX or AVX512_BF16. Under `create_graph=True` the backward is the reference's.
    Other inputs, CUDA, and all within transforms of `torch.func` run the reference.
    """
    check_choice("gv_ff: precision", precision, PRECISIONS)
    is_plain = current_backend() == "reference" or is_transformed()
    if is_plain or why_not_native(k, u, params) is not None:
        return reference.gv_ff(k, u, params, precision=precision)
    low_precision = native.low_precision(precision, k, *params)
    weights = [param.float().contiguous() for param in params]
    rows = [value.float().reshape(-1, value.shape[-1]).contiguous() for value in (k, u)]
    q, w = _NativeGVFF.apply(*rows, low_precision, *weights)
    return q.view(k.shape).to(k.dtype), w.view(u.shape).to(u.dtype)


def why_not_native(k: Tensor, u: Tensor, params: GVFFParams) -> str | None:
    """Why the CPU kernels do not take these inputs, or None if they do."""
    if params.mix_w1.shape[0] != NUM_VECTORS:
        return f"there are {params.mix_w1.shape[0]} vectors between, not {NUM_VECTORS}"
    return native.why_not(u, k, params)


class _NativeGVFF(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, k: Tensor, u: Tensor, low_precision: bool, *params: Tensor) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(k, u, *params)
        ctx.low_precision = low_precision
        return torch.ops.geotdm_fast.gv_ff_forward(k, u, params, low_precision)

    @staticmethod
    def backward(ctx: Any, grad_q: Tensor, grad_w: Tensor) -> tuple[Tensor | None, ...]:
        k, u, *params = ctx.saved_tensors
        wanted = ctx.needs_input_grad
        if graph_is_wanted():

            def op(k: Tensor, u: Tensor, *params: Tensor) -> tuple[Tensor, Tensor]:
                precision = "bf16" if ctx.low_precision else "fp32"
                return reference.gv_ff(k, u, GVFFParams(*params), precision=precision)

            with no_autocast(k.device.type):
                grads = reference_gradients(op, (k, u, *params), (grad_q, grad_w), (*wanted[:2], *wanted[3:]))
            return (*grads[:2], None, *grads[2:])
        wants_params = any(wanted[3:])
        grad_k, grad_u, grad_params = torch.ops.geotdm_fast.gv_ff_backward(
            grad_q.contiguous(), grad_w.contiguous(), k, u, params, wants_params, ctx.low_precision
        )
        return grad_k, grad_u, None, *(grad_params if wants_params else [None] * len(params))
