"""Batches of graphs of different size, padded to a few sizes: so that a few CUDA graphs serve them all."""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from geotdm_fast.graphs.padding import (
    GraphParts,
    RuleTables,
    at_places,
    padded_batch,
    padded_graph,
    padded_rows,
    padded_tables,
    with_zeros,
)
from geotdm_fast.reference import BatchLayout
from geotdm_fast.reference.row_sums import remember_num_graphs
from geotdm_fast.runtime.buckets import Sizes
from geotdm_fast.runtime.copies import all_to_device
from geotdm_fast.training.batches import BatchSource, Draw
from geotdm_fast.training.device_data import Structure
from geotdm_fast.training.objective import Objective
from geotdm_fast.training.streamed_data import StreamedData

# Batches that are looked at before it is known how fine the sizes may be.
_LOOKED_AT = 512


class PaddedStructure(NamedTuple):
    """A `Structure` with rows to spare, as a tuple that a CUDA graph can hold; names as there.

    rule: what a graph by distance knows of the batch, or None
    """

    layout: BatchLayout
    graph: GraphParts
    scored: Tensor
    rule: RuleTables | None
    num_graphs: int
    all_scored: bool

    def structure(self) -> Structure:
        """The structure of these tensors, with a graph of its own."""
        layout = self.layout
        remember_num_graphs(layout.batch, self.num_graphs)
        return Structure(
            batch=layout.batch,
            node=layout.node,
            graph=self.graph.graph,
            graph_of_edge=layout.graph_of_edge,
            edge=layout.edge,
            scored=self.scored,
            graph_of_scored=layout.graph_of_scored,
            share_of_scored=layout.share_of_scored,
            num_graphs=self.num_graphs,
            all_scored=self.all_scored,
        )

    def to(self, device: torch.device) -> "PaddedStructure":
        """Copies on `device`, which nobody waits for."""
        return all_to_device(self, device)


class Padding:
    """Pads the batches of `source` with nodes, edges and graphs, so that they have one of a few sizes (`Sizes`).

    N nodes, E edges and B graphs become N' >= N, E' >= E and B' >= B. Every node that is added is a graph of its own: a
    copy of the first node of the batch, without an edge. So no other node gets another neighbour, centre or box. Loss
    weight and noise of the added nodes are 0, so that they add zeros to the loss and to the gradients.

    The inputs and the random numbers of the other nodes are the same bit for bit. Their outputs, the logged loss and
    the gradients of weights are sums of the same terms; since the order of the terms may depend on the number of rows,
    they are the same to rounding.

    most: sizes that the batches may have: they get coarser, up to a factor of 2, until those of the first epoch have no
        more
    sizes: what was chosen; looked_at, number: how many batches of the first epoch, and how many sizes they have
    """

    def __init__(self, source: BatchSource, objective: Objective, most: int):
        self._source, self._objective = source, objective
        data, counts = source.data, source.data.graphs.counts()
        steps = range(min(source.per_epoch, _LOOKED_AT))
        batches = [data.graph_numbers(items.numpy()) for step in steps for items in source.parts(step)]
        sums = [counts[graphs].sum(0).tolist() for graphs in batches]
        self.sizes = Sizes.at_most(most, sums)
        self.looked_at, self.number = len(sums), self.sizes.number(sums)
        self._most_nodes, self._most_edges = int(counts[:, 0].max()), 0
        if objective.has_rule:
            self._most_edges = data.graphs.most_edges()
            objective.look_into(source.noised(self._smallest()))

    def _smallest(self) -> Draw:
        """The trajectory of the smallest graph: in periodic boxes its nearest neighbours are farthest away."""
        data = self._source.data
        sizes = data.sizes_of(np.arange(len(data)))
        items = torch.tensor([int(sizes.argmin())])
        gathered = data.gather(items) if isinstance(data, StreamedData) else None
        noise = torch.zeros(int(sizes.min()), data.dim, self._source.num_noisy)
        return Draw(items, torch.zeros_like(items), torch.zeros(1), noise, None, gathered=gathered)

    def __call__(self, draw: Draw) -> tuple[Draw, PaddedStructure]:
        """A draw and its structure with rows to spare, on the host."""
        data = self._source.data
        plain = data.graphs.structure(data.graph_numbers(draw.items.numpy()), torch.device("cpu"))
        nodes, edges, scored = self.sizes.of((len(plain.batch), plain.graph.num_edges, len(plain.scored)))
        scored = nodes if plain.all_scored else scored
        # At least one graph has no node: the scored nodes to spare are its.
        more_graphs = self.sizes.step(nodes)
        batch = padded_batch(plain.batch, nodes, plain.num_graphs, more_graphs)
        graph, source = padded_graph(plain.graph, nodes, edges)
        num_graphs = plain.num_graphs + more_graphs
        last = torch.tensor([num_graphs - 1])
        # Of the sorted edges: their features are cut in that order.
        rule = self._objective.rule_on_host(graph.edge_index[:, : plain.graph.num_edges], plain.batch)
        structure = PaddedStructure(
            layout=BatchLayout(
                batch,
                with_zeros(plain.node, nodes),
                at_places(plain.graph_of_edge, source),
                at_places(plain.edge, source),
                torch.cat([plain.graph_of_scored, last.expand(scored - len(plain.scored))]),
                with_zeros(plain.share_of_scored, scored),
            ),
            graph=GraphParts.of(graph),
            scored=torch.arange(nodes) if plain.all_scored else with_zeros(plain.scored, scored),
            rule=None if rule is None else padded_tables(rule, batch, self._most_nodes, self._most_edges),
            num_graphs=num_graphs,
            all_scored=plain.all_scored,
        )
        return _padded_draw(draw, nodes, more_graphs), structure


def _padded_draw(draw: Draw, nodes: int, more_graphs: int) -> Draw:
    """The draw with so many nodes and graphs more: of windows that there are, without weight, noise and turn."""
    own, num_graphs = len(draw.noise), len(draw.items) + more_graphs
    zeros = lambda value, size: None if value is None else with_zeros(value, size)
    turn, gathered = draw.turn, draw.gathered
    if turn is not None:
        turn = torch.cat([turn, torch.eye(turn.shape[1]).expand(more_graphs, -1, -1)])
    if gathered is not None:
        of_graphs = lambda value: None if value is None else padded_rows(value, num_graphs)
        gathered = gathered._replace(
            x=with_zeros(gathered.x, len(gathered.x) // own * nodes),
            first=padded_rows(gathered.first, num_graphs),
            cell=of_graphs(gathered.cell),
            pbc=of_graphs(gathered.pbc),
            conditions=of_graphs(gathered.conditions),
        )
    return draw._replace(
        items=padded_rows(draw.items, num_graphs),
        steps=with_zeros(draw.steps, num_graphs),
        weight=with_zeros(draw.weight, num_graphs),
        noise=with_zeros(draw.noise, nodes),
        turn=turn,
        level=zeros(draw.level, num_graphs),
        context=zeros(draw.context, nodes),
        given=zeros(draw.given, nodes),
        gathered=gathered,
    )
