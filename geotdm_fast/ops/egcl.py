"""The spatial op: `geotdm_fast.reference.egcl` by the fastest implementation that takes the input."""

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from geotdm_fast import reference
from geotdm_fast.ops import kernels, native, triton_egcl
from geotdm_fast.ops.autocast import no_autocast
from geotdm_fast.ops.backend import current_backend
from geotdm_fast.ops.edges import SortedEdges, edge_tables, edges_of_frames, sorted_edges
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

    Float32 and bfloat16 inputs run the C++ module on the CPU and the Triton kernels on CUDA, which convert bfloat16,
    give the same bits in every run and are differentiable once; memory does not grow with the edges times frames, but
    for a chunk of them in the backward. Sums are float32; products take bfloat16 factors for bfloat16 h or params and
    for `precision="bf16"` (on the CPU where it has AVX512_BF16, else float32), tf32 ones on CUDA for "tf32"; those of
    edge_attr stay float32. An edge_attr that changes from frame to frame makes every frame of a node a node. Other
    inputs run the reference. `torch.compile(fullgraph=True)` takes all of it. Raises ValueError where
    `backend("triton")` is asked for and the Triton kernels do not take the input.
    """
    implementation = _implementation(x, h, edge_attr, params)
    if implementation is None:
        flags = {"normalize": normalize, "pre_norm": pre_norm, "precision": precision}
        return reference.egcl(x, h, edge_index, edge_attr, params, **flags)
    if edge_attr is not None and edge_attr.dim() == 3:
        rows = lambda v: v.reshape(-1, 1, v.shape[-1])  # [N T, 1, ...]
        every = edges_of_frames(edge_index, x.shape[1])
        flags = {"normalize": normalize, "pre_norm": pre_norm, "precision": precision}
        x_out, h_out = egcl(rows(x), rows(h), every, edge_attr.flatten(0, 1), params, **flags)
        return x_out.view(x.shape), h_out.view(h.shape)
    edges = sorted_edges(edge_index, x.shape[0])
    weights = [param.float().contiguous() for param in params]
    edge_term = None
    if edge_attr is not None:
        # W_a a: the one part of the first layer that differs from edge to edge but not from frame to frame.
        w_attr = weights[0][:, 2 * h.shape[-1] + 1 :]
        with no_autocast(x.device.type):
            edge_term = torch.nn.functional.linear(edge_attr.float(), w_attr)[edges.order]
    products = "bf16" if native.low_precision(precision, h, *params) else precision
    keep = native.needs_grad(x, h, edge_term, *weights)
    on_triton = implementation == "triton"
    graph = edge_tables(edge_index, x.shape[0]) if on_triton else edges
    x_out, h_out = (_TritonEGCL if on_triton else _NativeEGCL).apply(
        x.float().contiguous(), h.float().contiguous(), edge_term, graph, normalize, pre_norm, products, keep, *weights
    )
    return x_out.to(x.dtype), h_out.to(h.dtype)


def _implementation(x: Tensor, h: Tensor, edge_attr: Tensor | None, params: EGCLParams) -> str | None:
    """What runs these inputs, `triton` or `native`; None: the reference."""
    backend = current_backend()
    if backend == "reference":
        return None
    if backend == "triton" or x.device.type != "cpu":
        why_not = why_not_triton(x, h, edge_attr, params)
        if backend == "triton" and why_not is not None:
            raise ValueError(f"egcl: backend triton does not take the input: {why_not}")
        return "triton" if why_not is None else None
    return "native" if why_not_native(x, h, edge_attr, params) is None else None


def why_not_native(x: Tensor, h: Tensor, edge_attr: Tensor | None, params: EGCLParams) -> str | None:
    """Why the CPU kernels do not take these inputs, or None if they do."""
    return _why_not_shape(h, edge_attr, params) or native.why_not(x, h, params)


def why_not_triton(x: Tensor, h: Tensor, edge_attr: Tensor | None, params: EGCLParams) -> str | None:
    """Why the Triton kernels do not take these inputs, or None if they do."""
    return _why_not_shape(h, edge_attr, params) or kernels.why_not(x, h, params)


def _why_not_shape(h: Tensor, edge_attr: Tensor | None, params: EGCLParams) -> str | None:
    if params.edge_w2.shape[0] != h.shape[-1]:
        return f"the hidden width {params.edge_w2.shape[0]} is not the width of h, {h.shape[-1]}"
    if edge_attr is not None and edge_attr.dtype not in native.DTYPES:
        return "edge_attr is not float32 or bfloat16"
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
        low_precision = precision == "bf16"
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


class _TritonEGCL(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx,
        x: Tensor,
        h: Tensor,
        edge_term: Tensor | None,
        graph: tuple[Tensor, ...],
        normalize: bool,
        pre_norm: bool,
        precision: str,
        keep: bool,
        *params: Tensor,
    ) -> tuple[Tensor, Tensor]:
        x_out, h_out, *kept = triton_egcl.forward(x, h, graph, edge_term, params, normalize, pre_norm, precision)
        if keep:
            ctx.save_for_backward(x, h, edge_term, *kept, *params)
        ctx.num_kept, ctx.graph, ctx.flags = len(kept), graph, (normalize, pre_norm, precision)
        return x_out, h_out

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_x_out: Tensor, grad_h_out: Tensor):
        x, h, edge_term, *saved = ctx.saved_tensors
        kept, params = saved[: ctx.num_kept], saved[ctx.num_kept :]
        grad_x, grad_h, grad_edge_term, *grad_params = triton_egcl.backward(
            grad_x_out.contiguous(), grad_h_out.contiguous(), x, h, ctx.graph, edge_term, params, kept, *ctx.flags
        )
        grad_edge_term = None if edge_term is None else grad_edge_term
        return grad_x, grad_h, grad_edge_term, None, None, None, None, None, *grad_params
