"""Batches of graphs of different size in tensors of few shapes: tables with rows and places to spare.

A batch of N nodes, E edges and B graphs becomes one of more nodes, edges and graphs. Every node more is a graph of its
own without an edge, so that no sum over a graph and no neighbour of a node changes. Places more for edges have none, as
in the graphs of a search (`Graph.has_room`). All functions here take tensors of any device, and wait for none.
"""

import copy
from typing import NamedTuple

import torch
from torch import Tensor

from geotdm_fast.graphs.edges import EdgeTables
from geotdm_fast.graphs.graph import Graph
from geotdm_fast.graphs.groups import Groups
from geotdm_fast.graphs.images import EdgeImages
from geotdm_fast.graphs.rules import GraphRule
from geotdm_fast.reference import Cell
from geotdm_fast.reference.row_sums import remember_num_graphs


class GraphParts(NamedTuple):
    """A graph with room, the same in every frame, as a tuple that a CUDA graph can hold.

    edge_index: [2, E] int64, sorted by receiver; tables: of it; num_nodes: N
    """

    edge_index: Tensor
    tables: EdgeTables
    num_nodes: int

    @classmethod
    def of(cls, graph: Graph) -> "GraphParts":
        return cls(graph.edge_index, EdgeTables(*graph.tables("native")), graph.num_nodes)

    @property
    def graph(self) -> Graph:
        """A new graph of these tensors."""
        return Graph(self.edge_index, self.num_nodes, tables=self.tables)


class RuleTables(NamedTuple):
    """What a rule knows of the graphs of its batch, see `GraphRule`.

    batch: [N] int64; groups: `Groups` of it
    bond_sender, bond_number: [N, K_b] int64 - the bonds of every receiver, -1 behind the last; None without bonds
    """

    batch: Tensor
    groups: Groups
    bond_sender: Tensor | None
    bond_number: Tensor | None


def padded_batch(batch: Tensor, num_nodes: int, num_graphs: int, more_graphs: int) -> Tensor:
    """batch [N] with num_nodes - N nodes more, each a graph of its own: [num_nodes].

    num_graphs: B; more_graphs: graphs from B on, of which those behind the nodes have none
    `num_graphs` of the result is B + more_graphs. Raises ValueError where there are fewer graphs than nodes.
    """
    more = num_nodes - len(batch)
    if not 0 <= more <= more_graphs:
        raise ValueError(f"padded_batch: more_graphs must be at least the {more} nodes more, got {more_graphs}")
    padded = torch.cat([batch, torch.arange(num_graphs, num_graphs + more, device=batch.device)])
    remember_num_graphs(padded, num_graphs + more_graphs)
    return padded


def padded_rows(value: Tensor, size: int) -> Tensor:
    """value [N, ...] with its first row in all rows from N to `size`: numbers that are as good as any other."""
    return value if len(value) == size else torch.cat([value, value[:1].expand(size - len(value), *value.shape[1:])])


def padded_graph(
    graph: Graph, num_nodes: int, num_edges: int, batch: Tensor | None = None, cell: Cell | None = None
) -> tuple[Graph, Tensor]:
    """A copy of `graph` with `num_nodes` nodes and places for `num_edges` edges. The added nodes have no edge.

    graph: N nodes and E edges, the same in every frame
    num_nodes, num_edges: at least N and E
    batch: [num_nodes] int64 - the graph of every node, and cell: the periodic boxes; both for a graph with `images`
    Returns
        padded: the `Graph`, sorted by receiver; both ends of an unused place are `num_nodes`
        source: [num_edges] int64 - the edge of `graph` at each place, 0 at unused ones: `edge_attr[source]` are the
            features [num_edges, A] of the padded graph
    Raises ValueError for fewer nodes or edges than there are, and for a graph whose edges differ between frames.
    """
    more_nodes, more_edges = num_nodes - graph.num_nodes, num_edges - graph.num_edges
    if more_nodes < 0 or more_edges < 0 or graph.num_frames is not None:
        expected = f"at least {graph.num_nodes} nodes and {graph.num_edges} edges, the same in every frame"
        frames = "" if graph.num_frames is None else f" of {graph.num_frames} frames"
        raise ValueError(f"padded_graph: there must be {expected}, got {num_nodes} and {num_edges}{frames}")
    tables = EdgeTables(*graph.tables("native"))
    places = torch.arange(graph.num_edges, device=graph.device)
    source = torch.cat([graph.in_order(places), places.new_zeros(more_edges)])
    edges = graph.edge_index.long()[:, source[: graph.num_edges]]
    edges = torch.where(edges < graph.num_nodes, edges, num_nodes)
    last = lambda first: torch.cat([first, first[-1:].expand(more_nodes)])
    images = graph.images
    if images is not None:
        number = with_zeros(images.number[source[: graph.num_edges]], num_edges)
        images = EdgeImages(number, images.cell if cell is None else cell, batch)
    padded = Graph(
        torch.cat([edges, edges.new_full((2, more_edges), num_nodes)], dim=1),
        num_nodes,
        tables=EdgeTables(
            last(tables.first),
            torch.cat([tables.sender, tables.sender.new_zeros(more_edges)]),
            last(tables.sender_first),
            torch.cat([tables.by_sender, torch.arange(graph.num_edges, num_edges, device=graph.device)]),
        ),
        images=images,
        capacity=graph.capacity,
        needed=graph.needed,
    )
    if graph.edge_attr is not None:
        padded.edge_attr = padded.of_edges(at_places(graph.edge_attr, source))
    return padded, source


def at_places(value: Tensor, source: Tensor) -> Tensor:
    """value[source] of value [E, ...], zeros where E is 0."""
    return value[source] if len(value) else value.new_zeros(len(source), *value.shape[1:])


def padded_tables(rule: GraphRule, batch: Tensor, most: int, columns: int) -> RuleTables:
    """The `RuleTables` of a rule of N nodes for a padded batch. Every added node is a graph of its own without a bond.

    batch: [N'] int64, ascending - what `padded_batch` made of the rule's own [N]
    most: nodes of the largest graph of all batches; columns: the most bonds of a receiver in any batch. Tables of two
        batches of one size then have the same shape, which a CUDA graph needs
    """
    num_nodes, own = len(batch), rule.num_nodes
    alone = torch.arange(own, num_nodes, device=batch.device)
    groups = rule.groups
    joined = lambda one, more: torch.cat([one, more])
    groups = Groups(joined(groups.node, alone), joined(groups.begin, alone), joined(groups.end, alone + 1), most)
    bonds = (rule.bond_sender, rule.bond_number)
    sender, number = (None if value is None else _wider(value, num_nodes, columns) for value in bonds)
    return RuleTables(batch, groups, sender, number)


def with_tables(rule: GraphRule, tables: RuleTables) -> GraphRule:
    """A copy of the rule for the batch, groups and bonds of `tables`. It keeps the features of bonds.

    The copy and `rule` share `needed` and `capacity`: what one finds missing, both know.
    """
    other = copy.copy(rule)
    other.batch, other.groups, other.bond_sender, other.bond_number = tables
    return other


def with_more_bonds(rule: GraphRule, num_bonds: int) -> GraphRule:
    """The same rule, counting with `rule`, with features for `num_bonds` bonds, those that there are first."""
    if rule.features is None or len(rule.features) == num_bonds + 1:
        return rule
    other, features = copy.copy(rule), rule.features
    other.features = torch.cat([with_zeros(features[:-1], num_bonds), features[-1:]])
    return other


def with_zeros(value: Tensor, size: int) -> Tensor:
    """value [N, ...] with zeros in all rows from N to `size`."""
    return torch.cat([value, value.new_zeros(size - len(value), *value.shape[1:])])


def _wider(value: Tensor, num_rows: int, num_columns: int) -> Tensor:
    """value [N, K] in [num_rows, num_columns], -1 elsewhere."""
    return torch.nn.functional.pad(value, (0, num_columns - value.shape[1], 0, num_rows - len(value)), value=-1)
