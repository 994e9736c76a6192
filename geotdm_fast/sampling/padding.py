"""Batches of a request for graphs of different size, padded to a few sizes: so that few CUDA graphs serve them all."""

from typing import Any, NamedTuple

from torch import Tensor

from geotdm_fast.graphs import GraphRule
from geotdm_fast.graphs.padding import (
    at_places,
    padded_batch,
    padded_graph,
    padded_rows,
    padded_tables,
    with_more_bonds,
    with_tables,
)
from geotdm_fast.reference import Cell
from geotdm_fast.runtime.buckets import Sizes

# Places for edges of a node are a multiple of this; those that have none cost a forward nothing.
_WIDTH = 16


class Room(NamedTuple):
    """What the batches of a request are padded to.

    sizes: of nodes and edges; most_nodes: of the largest graph; most_edges: that a node of any receives
    """

    sizes: Sizes
    most_nodes: int
    most_edges: int


def padded(model_kwargs: dict, num_graphs: int, room: Room) -> tuple[dict, int]:
    """`model_kwargs` of a batch with nodes, edges and graphs to spare, and how many graphs it has then.

    model_kwargs: of the network, with `graph`, as `GeoTDM.with_graph` leaves it; num_graphs: B
    Nodes to spare are copies of the first one, each a graph of its own without an edge. What the network is told of the
    others, and their noise, stays the same, bit for bit. Results are the same to rounding, since a product of more rows
    may add its terms in another order; bit for bit where sums are exact.
    """
    batch, graph = model_kwargs["batch"], model_kwargs["graph"]
    num_edges = model_kwargs["edge_index"].shape[1]
    size, edges = room.sizes.of((len(batch), num_edges))
    more_graphs = room.sizes.step(size)
    told: dict[str, Any] = dict(model_kwargs)
    told["batch"] = batch = padded_batch(batch, size, num_graphs, more_graphs)
    for name in ("h", "x_given"):
        if told.get(name) is not None:
            told[name] = padded_rows(told[name], size)
    total = num_graphs + more_graphs
    if told.get("conditions") is not None:
        told["conditions"] = padded_rows(told["conditions"], total)
    if told.get("cell") is not None:
        told["cell"] = Cell(*(padded_rows(value, total) for value in told["cell"]))
    if isinstance(graph, GraphRule):
        told["graph"] = _padded_rule(graph, batch, told, room, edges)
        return told, total
    if graph.has_room:  # by distance: as many places for every node, and some more for bonds that another batch has
        edges = -(-graph.num_edges // graph.num_nodes // _WIDTH) * _WIDTH * size
    told["graph"], source = padded_graph(graph, size, edges, batch, told.get("cell"))
    if told.get("edge_attr") is not None and not graph.has_room:
        told["edge_attr"] = at_places(told["edge_attr"], source)
    return told, total


def _padded_rule(rule: GraphRule, batch: Tensor, told: dict, room: Room, num_bonds: int) -> GraphRule:
    rule = with_tables(rule, padded_tables(rule, batch, room.most_nodes, room.most_edges)).with_cell(told.get("cell"))
    return with_more_bonds(rule, num_bonds)
