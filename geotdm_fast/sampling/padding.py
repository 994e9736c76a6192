"""Batches of a request for graphs of different size, padded to a few sizes: so that few CUDA graphs serve them all."""

from typing import Any, NamedTuple

from torch import Tensor, nn

from geotdm_fast.graphs import Graph, GraphRule
from geotdm_fast.graphs.padding import (
    at_places,
    padded_batch,
    padded_graph,
    padded_rows,
    padded_tables,
    with_more_bonds,
    with_tables,
)
from geotdm_fast.nn.egtn import EGTN, takes_graph
from geotdm_fast.nn.plain import bare, why_not_plain
from geotdm_fast.reference import Cell
from geotdm_fast.runtime.buckets import Buckets


class Room(NamedTuple):
    """What the batches of a request are padded to.

    buckets: sizes of nodes and of edges; most_nodes: of the largest graph; most_edges: that a node of any receives
    """

    buckets: Buckets
    most_nodes: int
    most_edges: int


def is_plain_network(network: nn.Module) -> bool:
    """Whether a call of `network` is one of our own code alone, which knows graphs with room."""
    inner = bare(network)
    return isinstance(inner, EGTN) and takes_graph(network) and why_not_plain(inner) is None


def padded(model_kwargs: dict, num_graphs: int, room: Room) -> tuple[dict, int]:
    """`model_kwargs` of a batch with nodes, edges and graphs to spare, and how many graphs it has then.

    model_kwargs: of the network, with `graph`, as `GeoTDM.with_graph` leaves it; num_graphs: B
    Nodes to spare are copies of the first one, each a graph of its own without an edge: what the others are and draw
    stays the same, bit for bit.
    """
    batch, graph = model_kwargs["batch"], model_kwargs["graph"]
    own = len(batch)
    size, more_graphs = room.buckets.size(own), room.buckets.step(own)
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
        told["graph"] = _padded_rule(graph, batch, told, room)
        return told, total
    told["graph"], source = _padded_graph(graph, batch, told.get("cell"), room.buckets)
    if told.get("edge_attr") is not None and graph.edge_attr is None:
        told["edge_attr"] = at_places(told["edge_attr"], source)
    return told, total


def _padded_graph(graph: Graph, batch: Tensor, cell: Cell | None, buckets: Buckets) -> tuple[Graph, Tensor]:
    num_edges = buckets.size(graph.num_edges)
    if graph.has_room:  # as many places for every node, a few more where its bonds are fewer than another batch's
        per_node = graph.num_edges // max(graph.num_nodes, 1)
        num_edges = -(-per_node // 4) * 4 * len(batch)
    return padded_graph(graph, len(batch), num_edges, batch, cell)


def _padded_rule(rule: GraphRule, batch: Tensor, told: dict, room: Room) -> GraphRule:
    rule = with_tables(rule, padded_tables(rule, batch, room.most_nodes, room.most_edges)).with_cell(told.get("cell"))
    if rule.features is None:
        return rule
    return with_more_bonds(rule, room.buckets.size(len(rule.features) - 1))
