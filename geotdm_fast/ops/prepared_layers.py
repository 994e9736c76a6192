"""Layers whose weights have not changed since they were last prepared, on another graph."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from geotdm_fast.graphs.graph import Graph
from geotdm_fast.ops import native
from geotdm_fast.ops.autocast import no_autocast
from geotdm_fast.ops.backend import current_backend
from geotdm_fast.ops.egcl import PreparedEGCL, edge_weight, prepare_egcl
from geotdm_fast.ops.layer_pairs import AttentionOptions, LayerPairs, prepare_layer_pairs
from geotdm_fast.ops.packed_pairs import MadeLayers, PackedPairs
from geotdm_fast.reference import EGCLOptions, EGCLParams
from geotdm_fast.runtime.checks import is_transformed
from geotdm_fast.runtime.tensor_cache import normal_tensors


class PairOptions(NamedTuple):
    """A pair of layers as `prepare_layers` takes it: of `egcl`, and of `temporal_attention`."""

    params: EGCLParams
    options: EGCLOptions
    attention: AttentionOptions


def prepare_layers(
    x: Tensor,
    h: Tensor,
    graph: Graph,
    edge_attr: Tensor | None,
    pairs: Sequence[PairOptions],
    owner: nn.Module | None,
) -> tuple[list[PreparedEGCL], LayerPairs | None]:
    """`prepare_egcl` of every pair, and `prepare_layer_pairs` of all, for x [N, T, D] and h [N, T, H].

    graph, edge_attr: as for `prepare_egcl`
    owner: the module whose layers they are, with which their packed weights are kept; None: not as one op
    As a rule the layers are those of the last call, on another graph. What is asked of each of the thirty weights of a
    pair is known then, once one comparison finds the bits of that call in all of them.
    Raises as `prepare_egcl` does.
    """
    if owner is None or not _is_simple(x, h, graph, edge_attr):
        return _anew(x, h, graph, edge_attr, pairs, owner)
    weights = [weight for pair in pairs for weight in (*pair.params, *pair.attention.params)]
    kept, about = PackedPairs.of(owner), _about(x, h, edge_attr, pairs)
    made = kept.made
    if made is not None and made.about == about:
        graph.check_fits("egcl", *x.shape[:2])
        if kept.unchanged(weights, made.pairs.packed):
            return _again(made, graph, edge_attr, pairs)
    prepared, in_one = _anew(x, h, graph, edge_attr, pairs, owner)
    none = x.new_empty(0)  # of the graph nothing is kept
    if in_one is None or not native.are_as_kernels_read(weights):
        kept.made = None
        return prepared, in_one
    edge_rows = None
    if edge_attr is not None and edge_attr.shape[1] == 1:
        with normal_tensors():
            edge_rows = torch.stack([_edge_weight(pair.params).detach().T for pair in pairs])
    kept.made = MadeLayers(about, in_one._replace(first=none, sender=none, edge_terms=(), shift=None), edge_rows)
    return prepared, in_one


def _anew(
    x: Tensor, h: Tensor, graph: Graph, edge_attr: Tensor | None, pairs: Sequence[PairOptions], owner: nn.Module | None
) -> tuple[list[PreparedEGCL], LayerPairs | None]:
    prepared = [prepare_egcl(x, h, graph, edge_attr, pair.params, pair.options) for pair in pairs]
    if owner is None:
        return prepared, None
    return prepared, prepare_layer_pairs(x, h, list(zip(prepared, [p.attention for p in pairs], strict=True)), owner)


def _about(x: Tensor, h: Tensor, edge_attr: Tensor | None, pairs: Sequence[PairOptions]) -> tuple:
    """All that `prepare_layers` depends on beside the weights, the graph and the features of edges."""
    options = [(pair.options, pair.attention.window, pair.attention.precision) for pair in pairs]
    return x.shape[1:], h.shape[1:], None if edge_attr is None else edge_attr.shape[-1], options


def _is_simple(x: Tensor, h: Tensor, graph: Graph, edge_attr: Tensor | None) -> bool:
    """Whether the C++ op takes all layers as it did the last time: same edges in all frames, float32 on the CPU."""
    if torch.is_grad_enabled() or torch.compiler.is_compiling() or is_transformed() or current_backend() != "auto":
        return False
    if graph.num_frames is not None or graph.has_room or graph.images is not None:
        return False
    tensors = (x, h) if edge_attr is None else (x, h, edge_attr)
    is_read = all(t.dtype is torch.float32 and t.device.type == "cpu" for t in tensors)
    return is_read and (edge_attr is None or edge_attr.dim() == 2)


def _again(
    made: MadeLayers, graph: Graph, edge_attr: Tensor | None, pairs: Sequence[PairOptions]
) -> tuple[list[PreparedEGCL], LayerPairs]:
    """What `prepare_layers` gives where nothing but the graph and the features of its edges is another."""
    tables, layout, options = tuple(graph.tables("native")), graph.layout("native"), made.pairs.options
    edge_terms: tuple[Tensor, ...] = ()
    if edge_attr is not None:
        in_order = graph.in_order(edge_attr).contiguous()
        if made.edge_rows is not None:
            edge_terms = (in_order * made.edge_rows).unbind()
        else:
            with no_autocast("cpu"):
                edge_terms = tuple(in_order @ _edge_weight(pair.params).T for pair in pairs)
    prepared = [
        PreparedEGCL("native", tables, None, term, tuple(pair.params), options, layout, None)
        for pair, term in zip(pairs, edge_terms or [None] * len(pairs), strict=True)
    ]
    return prepared, made.pairs._replace(first=tables[0], sender=tables[1], edge_terms=edge_terms)


def _edge_weight(params: EGCLParams) -> Tensor:
    return edge_weight(params.edge_w1, len(params.edge_b1))
