"""The spatial op: `geotdm_fast.reference.egcl` by the fastest implementation that takes the input."""

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from geotdm_fast import reference
from geotdm_fast.ops import native
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

    The CPU kernels give the same bits for any number of threads and are differentiable once; memory grows with the
    edges of one node, not of all. They compute in float32 (bfloat16 inputs are converted, results converted back). On
    processors with AVX512_BF16 the matrix products for bfloat16 h or params, or `precision="bf16"`, are of bfloat16
    numbers, summed in float32, on the way back too; those of edge_attr stay float32. Other inputs run the reference,
    and so does `torch.compile`.
    """
    if current_backend() == "reference" or why_not_native(x, h, edge_attr, params) is not None:
        flags = {"normalize": normalize, "pre_norm": pre_norm, "precision": precision}
        return reference.egcl(x, h, edge_index, edge_attr, params, **flags)
    edges = sorted_edges(edge_index, x.shape[0])
    weights = [param.float() for param in params]
    edge_term = None
    if edge_attr is not None:
        # W_a a: the one part of the first layer that differs from edge to edge but not from frame to frame.
        w_attr = weights[0][:, 2 * h.shape[-1] + 1 :]
        with native.no_autocast():
            edge_term = torch.nn.functional.linear(edge_attr.float(), w_attr)[edges.order]
    x_out, h_out = _NativeEGCL.apply(
        x.float().contiguous(),
        h.float().contiguous(),
        edge_term,
        edges,
        normalize,
        pre_norm,
        native.needs_grad(x, h, edge_term, *weights),
        native.low_precision(precision, h, *params),
        *weights,
    )
    return x_out.to(x.dtype), h_out.to(h.dtype)


def why_not_native(x: Tensor, h: Tensor, edge_attr: Tensor | None, params: EGCLParams) -> str | None:
    """Why the CPU kernels do not take these inputs, or None if they do."""
    if params.edge_w2.shape[0] != h.shape[-1]:
        return f"the hidden width {params.edge_w2.shape[0]} is not the width of h, {h.shape[-1]}"
    if edge_attr is not None and (edge_attr.dim() != 2 or edge_attr.dtype not in native.DTYPES):
        return "edge_attr changes from frame to frame, or is not float32 or bfloat16"
    return native.why_not(x, h, params)


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
        keep: bool,
        low_precision: bool,
        *params: Tensor,
    ) -> tuple[Tensor, Tensor]:
        x_out, h_out, kept = torch.ops.geotdm_fast.egcl_forward(
            x, h, edges.first, edges.sender, edge_term, params, normalize, pre_norm, keep, low_precision
        )
        ctx.save_for_backward(x, h, edge_term, *kept, *params)
        ctx.num_kept, ctx.edges, ctx.flags = len(kept), edges, (normalize, pre_norm, low_precision)
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
            *ctx.flags,
        )
        grad_edge_term = None if edge_term is None else grad_edge_term
        return grad_x, grad_h, grad_edge_term, None, None, None, None, None, *grad_params
