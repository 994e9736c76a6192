"""The spatial op: `geotdm_fast.reference.egcl` by the fastest implementation that takes the input."""

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

from geotdm_fast import reference
from geotdm_fast.graphs.graph import Graph, RowLayout, as_graph
from geotdm_fast.ops import kernels, native, triton_egcl
from geotdm_fast.ops.autocast import no_autocast
from geotdm_fast.ops.backend import current_backend
from geotdm_fast.ops.derivatives import graph_is_wanted, reference_gradients
from geotdm_fast.ops.triton_egcl import EGCLGradients
from geotdm_fast.reference import EGCLOptions, EGCLParams, check_cutoff
from geotdm_fast.reference.row_sums import receivers
from geotdm_fast.runtime.checks import is_transformed


def egcl(
    x: Tensor,
    h: Tensor,
    edge_index: Tensor | Graph,
    edge_attr: Tensor | None,
    params: EGCLParams,
    *,
    normalize: bool = True,
    pre_norm: bool = False,
    precision: str = "fp32",
    cutoff: float | None = None,
    envelope: str = "polynomial",
    residual: bool = True,
) -> tuple[Tensor, Tensor]:
    """Equal to `geotdm_fast.reference.egcl`, which documents formula, shapes and dtypes.

    edge_index: [2, E], which is sorted in this call, or a `geotdm_fast.graphs.Graph`, sorted once for all its calls.
    edge_attr: [E, A] or None where the frames of a graph have edges of their own
    The reference's shift is `Graph.shift`, of graphs with periodic boxes; it brings a gradient to their vectors.

    Float32 and bfloat16 inputs run the C++ module on the CPU and the Triton kernels on CUDA, which convert bfloat16,
    give the same bits in every run (the C++ module for any number of threads, but for torch's products with edge_attr);
    memory does not grow with the edges times frames, but for a chunk of them in the backward. Sums are float32;
    products take bfloat16 factors for bfloat16 h or params and for `precision="bf16"` (on the CPU where it has AMX or
    AVX512_BF16, else float32), tf32 ones on CUDA for "tf32"; those of edge_attr stay float32. An edge_attr or boxes
    that change from frame to frame make every frame of a node a node. Under `create_graph=True` the backward is the
    reference's, which can be differentiated again. Other inputs, and all within transforms of `torch.func` or
    forward-mode differentiation, run the reference. `torch.compile(fullgraph=True)` takes all of it, but for second
    derivatives.
    Raises ValueError where `backend("triton")` is asked for and the Triton kernels do not take the input, and where
    edge_attr has not a row for each edge, but under `torch.compile`.
    """
    check_cutoff("egcl", cutoff, envelope)
    options = EGCLOptions(normalize, pre_norm, precision, cutoff, envelope, residual)
    return run_egcl(x, h, prepare_egcl(x, h, edge_index, edge_attr, params, options))


class PreparedEGCL(NamedTuple):
    """All of a call of `egcl` that depends neither on positions nor on features, as its implementation wants it.

    W_a a, the part of the first layer of messages that edge features make, differs from edge to edge and not from frame
    to frame.

    implementation: `native`, `triton`, or None for the reference, which takes tensors as the caller gave them. For the
        other two they are float32 and contiguous, and edges are sorted by receiver
    tables: of the edges, as `geotdm_fast.graphs.Graph.tables` gives them
    edge_attr: [E, A] - a, for the gradients of W_a and a; None without edge features, and where gradients are off
    edge_term: [E, H] - W_a a, held without gradient, since the op computes that itself. None without edge features, for
        the reference, and for Triton with gradients on: there the kernel computes it in every call
    params: the weights; options: with the precision in which the implementation multiplies
    layout: how x and h become the rows of the tables
    shift: [E, D] - n C of every edge (unit of x), or None without periodic boxes; for the reference as `Graph.shift`
        returns it
    """

    implementation: str | None
    tables: tuple[Tensor, ...]
    edge_attr: Tensor | None
    edge_term: Tensor | None
    params: tuple[Tensor, ...]
    options: EGCLOptions
    layout: RowLayout
    shift: Tensor | None


def prepare_egcl(
    x: Tensor,
    h: Tensor,
    edge_index: Tensor | Graph,
    edge_attr: Tensor | None,
    params: EGCLParams,
    options: EGCLOptions,
) -> PreparedEGCL:
    """Do the part of `egcl` that depends on graph and weights alone, once for many calls of `run_egcl`.

    x: [N, T, D], h: [N, T, H] - only shapes, dtypes and device are read; `run_egcl` takes any others of the same kind
    edge_index, edge_attr, params, options: as for `egcl`
    Gradients pass to edge_attr, params and the vectors of periodic boxes. Raises ValueError as `egcl` does, for a graph
    of other sizes, and for periodic boxes where x is not [N, T, 3]; TypeError for an edge_index that is not int64 or
    int32.
    """
    graph = _graph_of(edge_index, x, edge_attr)
    implementation = _implementation(x, h, edge_attr, params)
    if implementation is None:
        tables, layout = graph.tables("reference"), graph.layout("reference")
        edge_attr = None if edge_attr is None else graph.of_edges(edge_attr)
        return PreparedEGCL(None, tables, edge_attr, None, params, options, layout, graph.shift(x.shape[1]))
    if graph.boxes_change and edge_attr is not None and edge_attr.dim() == 2:
        edge_attr = edge_attr[:, None].expand(-1, x.shape[1], -1)
    if graph.boxes_change or (edge_attr is not None and edge_attr.dim() == 3):
        graph = graph.of_frames(x.shape[1])
        edge_attr = None if edge_attr is None else edge_attr.flatten(0, 1)
    weights = native.as_kernels_read(params)
    edge_term = None
    if edge_attr is not None:
        # W_a a: the one part of the first layer that differs from edge to edge but not from frame to frame.
        edge_attr = graph.in_order(edge_attr).float().contiguous()
        if implementation == "native" or not torch.is_grad_enabled():
            with no_autocast(x.device.type):
                edge_term = edge_attr.detach() @ edge_weight(weights[0].detach(), h.shape[-1]).T
        edge_attr = edge_attr if torch.is_grad_enabled() else None
    if native.low_precision(options.precision, h, *params):
        options = dataclasses.replace(options, precision="bf16")
    tables, layout = tuple(graph.tables(implementation)), graph.layout(implementation)
    shift = graph.shift(x.shape[1])
    shift = None if shift is None else graph.in_order(shift).float().contiguous()
    return PreparedEGCL(implementation, tables, edge_attr, edge_term, weights, options, layout, shift)


def run_egcl(x: Tensor, h: Tensor, prepared: PreparedEGCL) -> tuple[Tensor, Tensor]:
    """(x' [N, T, D], h' [N, T, H]) of `egcl`, in the dtypes of x [N, T, D] and h [N, T, H]."""
    implementation, tables, edge_attr, edge_term, params, options, layout, shift = prepared
    rows = [layout.rows(v) for v in (x, h)]
    if implementation is None:
        x_out, h_out = reference.egcl_with(rows[0], rows[1], tables[0], edge_attr, EGCLParams(*params), options, shift)
        return layout.back(x_out, *x.shape[:2]), layout.back(h_out, *x.shape[:2])
    keep = native.needs_grad(x, h, edge_attr, shift, *params)
    op = _TritonEGCL if implementation == "triton" else _NativeEGCL
    rows = [v.float().contiguous() for v in rows]
    x_out, h_out = op.apply(*rows, edge_attr, shift, _Call(edge_term, tables, options, keep), *params)
    return x_out.view(x.shape).to(x.dtype), h_out.view(h.shape).to(h.dtype)


def _graph_of(edge_index: Tensor | Graph, x: Tensor, edge_attr: Tensor | None) -> Graph:
    """The graph of x [N, T, D]. Raises ValueError where it is not one of its nodes, frames and features of edges."""
    num_nodes, num_frames = x.shape[:2]
    if isinstance(edge_index, Tensor) and edge_index.dtype not in (torch.int64, torch.int32):
        raise TypeError(f"egcl: edge_index must be int64, got {edge_index.dtype}")
    graph = as_graph(edge_index, num_nodes)
    graph.check_fits("egcl", num_nodes, num_frames)
    if graph.images is not None and x.shape[-1] != 3:
        raise ValueError(f"egcl: x must be [N, T, 3] in periodic boxes, got {list(x.shape)}")
    if graph.num_frames is not None and edge_attr is not None and edge_attr.dim() != 2:
        came = list(edge_attr.shape)
        raise ValueError(f"egcl: edge_attr must be [E, A] where every frame has its own edges, got {came}")
    # Rows that no edge has would be passed over where edges are sorted.
    if edge_attr is not None and not torch.compiler.is_compiling() and edge_attr.shape[0] != graph.num_edges:
        expected = f"a row for each of the {graph.num_edges} edges"
        raise ValueError(f"egcl: edge_attr must have {expected}, got {list(edge_attr.shape)}")
    return graph


def _implementation(x: Tensor, h: Tensor, edge_attr: Tensor | None, params: EGCLParams) -> str | None:
    """What runs these inputs, `triton` or `native`; None: the reference."""
    backend = current_backend()
    if backend == "reference" or is_transformed():
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


def edge_weight(edge_w1: Tensor, width: int) -> Tensor:
    """W_a [H, A]: the columns of the first layer for edge_attr."""
    return edge_w1[:, 2 * width + 1 :]


class _Call(NamedTuple):
    """The arguments of the autograd Functions of both implementations that get no gradient; names as in `PreparedEGCL`.

    graph: its `tables`; keep: whether a backward may follow, so that the forward must keep tensors for it
    """

    edge_term: Tensor | None
    graph: tuple[Tensor, ...]
    options: EGCLOptions
    keep: bool


class _Gradients(NamedTuple):
    """Gradients of the inputs of both Functions, or which of them are wanted."""

    x: Tensor | None
    h: Tensor | None
    edge_attr: Tensor | None
    shift: Tensor | None
    params: Sequence[Tensor | None]

    @classmethod
    def wanted(cls, ctx: Any) -> "_Gradients":
        x, h, edge_attr, shift, _, *params = ctx.needs_input_grad
        return cls(x, h, edge_attr, shift, params)

    def in_order(self) -> tuple[Tensor | None, ...]:
        """As a backward returns them: None for the `_Call`."""
        return (self.x, self.h, self.edge_attr, self.shift, None, *self.params)


def _of_edges(grads: EGCLGradients, edge_w1: Tensor, first: Tensor, wanted: _Gradients) -> _Gradients:
    """The gradients of a [E, A], by that of W_a a, and of shifts, where anybody wants them, beside the others."""
    grad_edge_attr = grad_shift = None
    if wanted.edge_attr:
        with no_autocast(edge_w1.device.type):
            grad_edge_term = torch.where(_has_edge(first, grads.edge_term.shape[0]), grads.edge_term, 0)
            grad_edge_attr = grad_edge_term @ edge_weight(edge_w1, edge_w1.shape[0])
    if wanted.shift:
        grad_shift = torch.where(_has_edge(first, grads.shift.shape[0]), grads.shift, 0)
    return _Gradients(grads.x, grads.h, grad_edge_attr, grad_shift, grads.params)


def _has_edge(first: Tensor, num_places: int) -> Tensor:
    """[E, 1]: which places of the sorted edges have one: those before first[N]. The others may hold any features."""
    return (torch.arange(num_places, device=first.device) < first[-1])[:, None]


def _twice_differentiable(
    wanted: _Gradients,
    cotangents: tuple[Tensor, Tensor],
    inputs: tuple[Tensor, Tensor, Tensor | None, Tensor | None],
    edge_term: Tensor | None,
    params: tuple[Tensor, ...],
    edges: tuple[Tensor, Tensor],
    options: EGCLOptions,
) -> _Gradients:
    """The gradients of both Functions where they are to be differentiated again.

    inputs: x, h, edge_attr, shift; edges: first, sender
    """
    first, sender = edges
    edge_index = torch.stack([receivers(first, sender.numel()), sender.to(first.dtype)])
    has_edge = _has_edge(first, sender.numel())
    # Places that have no edge give what they have to one more node, of which nobody asks.
    one_more = lambda v: torch.nn.functional.pad(v, (0, 0, 0, 0, 0, 1))

    def op(
        x: Tensor, h: Tensor, edge_attr: Tensor | None, shift: Tensor | None, *params: Tensor
    ) -> tuple[Tensor, Tensor]:
        params = EGCLParams(*params)
        if edge_attr is None and edge_term is not None:
            # W_a a is all that is left of an edge_attr that brings no gradient.
            node_weight = params.edge_w1[:, : 2 * h.shape[-1] + 1]
            identity = torch.eye(edge_term.shape[-1], dtype=h.dtype, device=h.device)
            edge_attr, params = edge_term, params._replace(edge_w1=torch.cat([node_weight, identity], dim=1))
        edge_attr = None if edge_attr is None else torch.where(has_edge, edge_attr, 0)
        shift = None if shift is None else torch.where(has_edge, shift, 0)
        x_out, h_out = reference.egcl_with(one_more(x), one_more(h), edge_index, edge_attr, params, options, shift)
        return x_out[:-1], h_out[:-1]

    with no_autocast(first.device.type):
        grad_x, grad_h, grad_edge_attr, grad_shift, *grad_params = reference_gradients(
            op,
            (*inputs, *params),
            cotangents,
            cast("Sequence[bool]", (wanted.x, wanted.h, wanted.edge_attr, wanted.shift, *wanted.params)),
        )
    return _Gradients(grad_x, grad_h, grad_edge_attr, grad_shift, grad_params)


class _NativeEGCL(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        h: Tensor,
        edge_attr: Tensor | None,
        shift: Tensor | None,
        call: _Call,
        *params: Tensor,
    ) -> tuple[Tensor, Tensor]:
        x_out, h_out, kept = torch.ops.geotdm_fast.egcl_forward(
            x, h, *call.graph[:2], call.edge_term, shift, params, keep=call.keep, **_native_flags(call.options)
        )
        ctx.save_for_backward(x, h, edge_attr, call.edge_term, shift, *kept, *params)
        ctx.num_kept, ctx.edges, ctx.options = len(kept), call.graph, call.options
        return x_out, h_out

    @staticmethod
    def backward(ctx: Any, grad_x_out: Tensor, grad_h_out: Tensor) -> tuple[Tensor | None, ...]:
        x, h, edge_attr, edge_term, shift, *saved = ctx.saved_tensors
        kept, params = saved[: ctx.num_kept], saved[ctx.num_kept :]
        wanted = _Gradients.wanted(ctx)
        if graph_is_wanted():
            cotangents, inputs, edges = (grad_x_out, grad_h_out), (x, h, edge_attr, shift), ctx.edges[:2]
            return _twice_differentiable(wanted, cotangents, inputs, edge_term, params, edges, ctx.options).in_order()
        wants_params = any(wanted.params)
        grads = EGCLGradients(
            *torch.ops.geotdm_fast.egcl_backward(
                grad_x_out.contiguous(),
                grad_h_out.contiguous(),
                x,
                h,
                *ctx.edges,
                edge_term,
                shift,
                params,
                kept,
                wants_shift=bool(wanted.shift),
                wants_params=wants_params,
                **_native_flags(ctx.options),
            )
        )
        if wants_params and edge_attr is not None:
            edge_attr = torch.where(_has_edge(ctx.edges[0], edge_attr.shape[0]), edge_attr, 0)
            with no_autocast(x.device.type):
                edge_weight(grads.params[0], h.shape[-1])[:] = grads.edge_term.T @ edge_attr
        gradients = _of_edges(grads, params[0], ctx.edges[0], wanted)
        return (gradients if wants_params else gradients._replace(params=[None] * len(params))).in_order()


def _native_flags(options: EGCLOptions) -> dict[str, bool | float | None]:
    low_precision = options.precision == "bf16"
    flags = {"normalize": options.normalize, "pre_norm": options.pre_norm, "cutoff": options.cutoff}
    return flags | {"residual": options.residual, "low_precision": low_precision}


class _TritonEGCL(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        h: Tensor,
        edge_attr: Tensor | None,
        shift: Tensor | None,
        call: _Call,
        *params: Tensor,
    ) -> tuple[Tensor, Tensor]:
        graph, edge_term, options = call.graph, call.edge_term, call.options
        x_out, h_out, *kept = triton_egcl.forward(x, h, graph, edge_attr, edge_term, shift, params, options)
        if edge_term is None and edge_attr is not None:
            *kept, edge_term = kept
        if call.keep:
            ctx.save_for_backward(x, h, edge_attr, edge_term, shift, *kept, *params)
        ctx.num_kept, ctx.graph, ctx.options = len(kept), graph, options
        return x_out, h_out

    @staticmethod
    def backward(ctx: Any, grad_x_out: Tensor, grad_h_out: Tensor) -> tuple[Tensor | None, ...]:
        x, h, edge_attr, edge_term, shift, *saved = ctx.saved_tensors
        kept, params = saved[: ctx.num_kept], saved[ctx.num_kept :]
        wanted = _Gradients.wanted(ctx)
        from geotdm_fast.kernels.egcl_launch import TritonTables

        graph = TritonTables(*ctx.graph)
        if graph_is_wanted():
            cotangents, inputs, edges = (grad_x_out, grad_h_out), (x, h, edge_attr, shift), (graph.first, graph.sender)
            return _twice_differentiable(wanted, cotangents, inputs, edge_term, params, edges, ctx.options).in_order()
        inputs = (grad_x_out.contiguous(), grad_h_out.contiguous(), x, h, ctx.graph, edge_attr, edge_term, shift)
        with no_autocast(x.device.type):
            grads = triton_egcl.backward(*inputs, params, kept, ctx.options, bool(wanted.shift))
        return _of_edges(grads, params[0], graph.first, wanted).in_order()
