"""The spatial op: `geotdm_fast.reference.egcl` by the fastest implementation that takes the input."""

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from geotdm_fast import reference
from geotdm_fast.ops import kernels, native
from geotdm_fast.ops.autocast import no_autocast
from geotdm_fast.ops.backend import current_backend
from geotdm_fast.ops.edges import SortedEdges, sorted_edges
from geotdm_fast.reference import EGCLParams


def egcl(
    x: Tensor,
    h: Tensor,
    edge_index: Tensor,
    edge_attr: Tensor | None,
    params: EGCLParams,
    *,
    normalize: bool = True,
    pre_norm: bool = False,
    precision: str = "fp32",
) -> tuple[Tensor, Tensor]:
    """Equal to `geotdm_fast.reference.egcl`, which documents formula, shapes and dtypes.

    On CUDA the Triton kernels compute in float32, with the inputs of products in `precision`; on the CPU the C++ module
    computes every precision in float32. Both convert bfloat16 inputs and results, give the same bits in every run, and
    are differentiable once; memory does not grow with the edges times frames, but for a chunk of them in the backward.
    Other inputs run the reference, and so does `torch.compile` on CUDA. Raises ValueError where `backend("triton")` is
    asked for and the Triton kernels do not take the input.
    """
    implementation = _implementation(x, h, edge_attr, params)
    if implementation is None:
        flags = {"normalize": normalize, "pre_norm": pre_norm, "precision": precision}
        return reference.egcl(x, h, edge_index, edge_attr, params, **flags)
    edges = sorted_edges(edge_index, x.shape[0])
    weights = [param.float().contiguous() for param in params]
    edge_term = None
    if edge_attr is not None:
        # W_a a: the one part of the first layer that differs from edge to edge but not from frame to frame.
        w_attr = weights[0][:, 2 * h.shape[-1] + 1 :]
        with no_autocast(x.device.type):
            edge_term = torch.nn.functional.linear(edge_attr.float(), w_attr)[edges.order]
    keep = native.needs_grad(x, h, edge_term, *weights)
    x_out, h_out = implementation.apply(
        x.float().contiguous(), h.float().contiguous(), edge_term, edges, normalize, pre_norm, precision, keep, *weights
    )
    return x_out.to(x.dtype), h_out.to(h.dtype)


def _implementation(
    x: Tensor, h: Tensor, edge_attr: Tensor | None, params: EGCLParams
) -> type[torch.autograd.Function] | None:
    """What runs these inputs; None: the reference."""
    backend = current_backend()
    if backend == "reference":
        return None
    if backend == "triton" or x.device.type != "cpu":
        if torch.compiler.is_compiling():
            return None  # it knows ops, not launches
        why_not = why_not_triton(x, h, edge_attr, params)
        if backend == "triton" and why_not is not None:
            raise ValueError(f"egcl: backend triton does not take the input: {why_not}")
        return _TritonEGCL if why_not is None else None
    return _NativeEGCL if why_not_native(x, h, edge_attr, params) is None else None


def why_not_native(x: Tensor, h: Tensor, edge_attr: Tensor | None, params: EGCLParams) -> str | None:
    """Why the CPU kernels do not take these inputs, or None if they do."""
    return _why_not_shape(h, edge_attr, params) or native.why_not(x, h, params)


def why_not_triton(x: Tensor, h: Tensor, edge_attr: Tensor | None, params: EGCLParams) -> str | None:
    """Why the Triton kernels do not take these inputs, or None if they do."""
    return _why_not_shape(h, edge_attr, params) or kernels.why_not(x, h, params)


def _why_not_shape(h: Tensor, edge_attr: Tensor | None, params: EGCLParams) -> str | None:
    if params.edge_w2.shape[0] != h.shape[-1]:
        return f"the hidden width {params.edge_w2.shape[0]} is not the width of h, {h.shape[-1]}"
    if edge_attr is not None and (edge_attr.dim() != 2 or edge_attr.dtype not in native.DTYPES):
        return "edge_attr changes from frame to frame, or is not float32 or bfloat16"
    return None


class _NativeEGCL(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx,
        x: Tensor,
        h: Tensor,
        edge_term: Tensor | None,
        edges: SortedEdges,
        normalize: bool,
        pre_norm: bool,
        precision: str,
        keep: bool,
        *params: Tensor,
    ) -> tuple[Tensor, Tensor]:
        x_out, h_out, kept = torch.ops.geotdm_fast.egcl_forward(
            x, h, edges.first, edges.sender, edge_term, params, normalize, pre_norm, keep
        )
        ctx.save_for_backward(x, h, edge_term, *kept, *params)
        ctx.num_kept, ctx.edges, ctx.normalize, ctx.pre_norm = len(kept), edges, normalize, pre_norm
        return x_out, h_out

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_x_out: Tensor, grad_h_out: Tensor):
        x, h, edge_term, *saved = ctx.saved_tensors
        kept, params = saved[: ctx.num_kept], saved[ctx.num_kept :]
        edges = ctx.edges
        grad_x, grad_h, grad_edge_term, grad_params = torch.ops.geotdm_fast.egcl_backward(
            grad_x_out.contiguous(),
            grad_h_out.contiguous(),
            x,
            h,
            edges.first,
            edges.sender,
            edges.sender_first,
            edges.by_sender,
            edge_term,
            params,
            kept,
            ctx.normalize,
            ctx.pre_norm,
        )
        return grad_x, grad_h, None if edge_term is None else grad_edge_term, None, None, None, None, None, *grad_params


class _TritonEGCL(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx,
        x: Tensor,
        h: Tensor,
        edge_term: Tensor | None,
        edges: SortedEdges,
        normalize: bool,
        pre_norm: bool,
        precision: str,
        keep: bool,
        *params: Tensor,
    ) -> tuple[Tensor, Tensor]:
        from geotdm_fast.kernels.egcl_launch import egcl_forward

        x_out, h_out, kept = egcl_forward(
            x, h, edges.tables, edge_term, EGCLParams(*params), normalize, pre_norm, precision
        )
        if keep:
            ctx.save_for_backward(x, h, edge_term, *kept, *params)
        ctx.edges, ctx.flags = edges, (normalize, pre_norm, precision)
        return x_out, h_out

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_x_out: Tensor, grad_h_out: Tensor):
        from geotdm_fast.kernels.egcl_backward_launch import egcl_backward
        from geotdm_fast.kernels.egcl_launch import Kept

        x, h, edge_term, pq, m_sum, halved, *params = ctx.saved_tensors
        grads = egcl_backward(
            grad_x_out.contiguous(),
            grad_h_out.contiguous(),
            x,
            h,
            ctx.edges.tables,
            edge_term,
            EGCLParams(*params),
            Kept(pq, m_sum, halved),
            *ctx.flags,
        )
        return grads.x, grads.h, grads.edge_term, None, None, None, None, None, *grads.params
