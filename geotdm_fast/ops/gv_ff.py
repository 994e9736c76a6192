"""The gated feed-forward on a scalar and a vector: `geotdm_fast.reference.gv_ff` by the fastest implementation."""

from typing import Any

import torch
from torch import Tensor

from geotdm_fast import reference
from geotdm_fast.ops import kernels, native
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
    On CUDA a Triton kernel runs each direction, which keeps q beside its inputs; torch's float32 products sum the
    weights' gradients, rounded as `torch.set_float32_matmul_precision` says, whatever `precision` is. Other inputs,
    `torch.compile` on CUDA, and all within transforms of `torch.func` run the reference.
    Raises ValueError where `backend("triton")` is asked for and the Triton kernels do not take the input.
    """
    check_choice("gv_ff: precision", precision, PRECISIONS)
    implementation = _implementation(k, u, params)
    if implementation is None:
        return reference.gv_ff(k, u, params, precision=precision)
    low_precision = native.low_precision(precision, k, *params)
    weights = native.as_kernels_read(params)
    rows = [value.float().reshape(-1, value.shape[-1]).contiguous() for value in (k, u)]
    if implementation == "native":
        q, w = _NativeGVFF.apply(*rows, low_precision, *weights)
    else:
        q, w = _TritonGVFF.apply(*rows, "bf16" if low_precision else precision, *weights)
    return q.view(k.shape).to(k.dtype), w.view(u.shape).to(u.dtype)


def _implementation(k: Tensor, u: Tensor, params: GVFFParams) -> str | None:
    """What runs these inputs, `triton` or `native`; None: the reference."""
    backend = current_backend()
    if backend == "reference" or is_transformed():
        return None
    if backend == "triton" or k.device.type != "cpu":
        if torch.compiler.is_compiling():
            return None
        why_not = why_not_triton(k, u, params)
        if backend == "triton" and why_not is not None:
            raise ValueError(f"gv_ff: backend triton does not take the input: {why_not}")
        return "triton" if why_not is None else None
    return "native" if why_not_native(k, u, params) is None else None


def why_not_triton(k: Tensor, u: Tensor, params: GVFFParams) -> str | None:
    """Why the Triton kernels do not take these inputs, or None if they do."""
    return _why_not_vectors(params) or kernels.why_not(u, k, params)


def why_not_native(k: Tensor, u: Tensor, params: GVFFParams) -> str | None:
    """Why the CPU kernels do not take these inputs, or None if they do."""
    return _why_not_vectors(params) or native.why_not(u, k, params)


def _why_not_vectors(params: GVFFParams) -> str | None:
    number = params.mix_w1.shape[0]
    return None if number == NUM_VECTORS else f"there are {number} vectors between, not {NUM_VECTORS}"


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
            precision = "bf16" if ctx.low_precision else "fp32"
            return _twice_differentiable(wanted, (grad_q, grad_w), (k, u, *params), precision)
        wants_params = any(wanted[_PARAMS:])
        grad_k, grad_u, grad_params = torch.ops.geotdm_fast.gv_ff_backward(
            grad_q.contiguous(), grad_w.contiguous(), k, u, params, wants_params, ctx.low_precision
        )
        return grad_k, grad_u, None, *(grad_params if wants_params else [None] * len(params))


class _TritonGVFF(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, k: Tensor, u: Tensor, precision: str, *params: Tensor) -> tuple[Tensor, Tensor]:
        from geotdm_fast.kernels.gv_ff_launch import gv_ff as launch

        q, w = launch(k, u, GVFFParams(*params), precision)
        ctx.save_for_backward(k, u, q, *params)
        ctx.precision = precision
        return q, w

    @staticmethod
    def backward(ctx: Any, grad_q: Tensor, grad_w: Tensor) -> tuple[Tensor | None, ...]:
        from geotdm_fast.kernels.gv_ff_launch import gv_ff_backward as launch

        k, u, q, *params = ctx.saved_tensors
        wanted = ctx.needs_input_grad
        if graph_is_wanted():
            return _twice_differentiable(wanted, (grad_q, grad_w), (k, u, *params), ctx.precision)
        wants_params = any(wanted[_PARAMS:])
        with no_autocast(k.device.type):
            about = (GVFFParams(*params), ctx.precision, wants_params)
            grads = launch(grad_q.contiguous(), grad_w.contiguous(), k, u, q, *about)
        return grads.k, grads.u, None, *(grads.params or [None] * len(params))


# The place of the first parameter among the inputs of both Functions.
_PARAMS = 3


def _twice_differentiable(
    wanted: tuple[bool, ...], cotangents: tuple[Tensor, Tensor], inputs: tuple[Tensor, ...], precision: str
) -> tuple[Tensor | None, ...]:
    """What both backwards return where their gradients are to be differentiated again; inputs: k, u and parameters."""

    def op(k: Tensor, u: Tensor, *params: Tensor) -> tuple[Tensor, Tensor]:
        return reference.gv_ff(k, u, GVFFParams(*params), precision=precision)

    with no_autocast(inputs[0].device.type):
        grads = reference_gradients(op, inputs, cotangents, (*wanted[:2], *wanted[_PARAMS:]))
    return *grads[:2], None, *grads[2:]
