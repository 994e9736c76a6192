"""A graph as the layers are given it: edge_index, a `Graph`, or a rule that makes one."""

from typing import cast

import torch
from torch import Tensor

from geotdm_fast.conditioning import Frames
from geotdm_fast.graphs import Graph, GraphRule, GraphSpec
from geotdm_fast.reference import Cell
from geotdm_fast.runtime.checks import check_graph, check_graph_values, check_tensor, reads_values

GivenGraph = Tensor | Graph | GraphRule | None


def given_graph(
    edge_index: GivenGraph, edge_attr: Tensor | None, graph: Graph | GraphRule | None
) -> tuple[GivenGraph, Tensor | None]:
    """The graph, whichever argument brings it, and the features of its edges."""
    graph = edge_index if graph is None else graph
    if isinstance(graph, Graph) and edge_attr is None:
        edge_attr = graph.edge_attr
    return graph, edge_attr


def own_graph(
    spec: GraphSpec,
    edge_index: Tensor,
    edge_attr: Tensor | None,
    batch: Tensor | None,
    x: Tensor,
    frames: Frames | None,
    cell: Cell | None = None,
    room: int | None = None,
) -> Graph | GraphRule:
    """The graph that a network was made for, of its data's edges and positions.

    x: [N, D, T] - where frames are given all of them, else those that are noisy; cell: the boxes of all frames
    room: of a graph by one frame, the edges of a receiver that it has room for; where it needs more it gets it. Then
        the sizes of its tables depend on no positions. None: they are those of its edges
    A rule grows as it must. Waits for the device.
    """
    batch = torch.zeros(len(x), dtype=torch.int64, device=x.device) if batch is None else batch
    if cell is not None:
        cell = Cell.of("EGTN", cell, dim=x.shape[1])
    if spec.of == "current":
        return spec.rule(edge_index, edge_attr, batch, cell).growing(True)
    if room is None:
        return graph_of_frame(spec.rule(edge_index, edge_attr, batch, cell).growing(True), x, frames)
    rule = spec.rule(edge_index, edge_attr, batch, cell, room)
    graph = graph_of_frame(rule, x, frames)
    while graph.overflowed():
        rule.enlarge()
        graph = graph_of_frame(rule, x, frames)
    return graph


def graph_of_frame(rule: GraphRule, x: Tensor, frames: Frames | None) -> Graph:
    """The graph by x [N, D, T] of the last given frame, of the first where none is given, for all frames."""
    frame = 0 if frames is None else frames.given[-1]
    return rule.static(x[..., frame].detach(), frame)


def as_called(graph: Graph) -> Tensor | Graph:
    """What a spatial layer is called with: edge_index, as officially, where that says all of the graph."""
    is_plain = graph.num_frames is None and not graph.has_room and graph.images is None
    return graph.edge_index if is_plain else graph


def num_edge_features(edge_attr: Tensor | None, spec: GraphSpec | None = None) -> int:
    """A that a network made for `spec` has of data with edge_attr [E, A] or None; None: of the data's own edges."""
    of_data = 0 if edge_attr is None else edge_attr.shape[1]
    return of_data if spec is None else spec.edge_dim(of_data)


def check_graph_given(
    where: str,
    graph: GivenGraph,
    edge_attr: Tensor | None,
    batch: Tensor | None,
    num_nodes: int,
    num_frames: int,
    edge_dim: int,
) -> None:
    """Raise TypeError / ValueError unless the graph is one of these nodes and frames, with `edge_dim` features.

    edge_attr: [E, edge_dim], or [E, edge_dim, num_frames] where the edges are the same in all frames; None with a rule
    """
    if isinstance(graph, GraphRule):
        graph.check_fits(where, num_nodes)
        if edge_attr is not None:
            raise ValueError(f"{where}: edge_attr must be None with a graph rule, whose edges bring their own, got one")
        if graph.edge_dim != edge_dim:
            raise ValueError(f"{where}: the graph rule must bring {edge_dim} features of an edge, got {graph.edge_dim}")
    elif isinstance(graph, Graph):
        graph.check_fits(where, num_nodes, num_frames)
        if edge_attr is not None:
            changes = graph.num_frames is None and getattr(edge_attr, "ndim", 2) == 3
            check_tensor(where, "edge_attr", edge_attr, (graph.num_edges, "A", *((num_frames,) if changes else ())))
    else:
        check_graph(where, num_nodes, cast(Tensor, graph), edge_attr, batch, num_frames)
    if batch is not None:
        check_tensor(where, "batch", batch, (num_nodes,), integer=True)
    if not isinstance(graph, GraphRule):
        _check_edge_dim(where, edge_attr, edge_dim)


def check_values_given(where: str, graph: GivenGraph, batch: Tensor | None, num_nodes: int) -> None:
    """`check_graph_values`, on the CPU alone. Edges of every frame, which a search found, are not looked at."""
    if isinstance(graph, Graph):
        graph = graph.edge_index if graph.num_frames is None and not graph.has_room else None
    elif isinstance(graph, GraphRule):
        graph = None
    given = batch if graph is None else graph
    if given is not None and reads_values(given):
        check_graph_values(where, num_nodes, graph, batch)


def _check_edge_dim(where: str, edge_attr: Tensor | None, edge_dim: int) -> None:
    """None goes with 0."""
    came = num_edge_features(edge_attr)
    if came != edge_dim:
        expected = f"[E, {edge_dim}]" if edge_dim else "None"
        raise ValueError(f"{where}: edge_attr must be {expected}, got {f'[E, {came}]' if came else 'None'}")
