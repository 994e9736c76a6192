"""Taking graphs out of a batch."""

from collections.abc import Iterable
from dataclasses import replace

import torch
from torch import Tensor

from geotdm_fast.data.fields import further_names, names_nodes
from geotdm_fast.data.separate import is_of_graphs, owners, pick
from geotdm_fast.data.trajectory import Batch


class GraphPicker:
    """Makes batches of some graphs of `batch`, whose things are sorted by graph once.

    Raises ValueError when a graph's nodes do not lie together.
    """

    def __init__(self, batch: Batch):
        if not bool((batch.batch[1:] >= batch.batch[:-1]).all()):
            raise ValueError("sample: batch.batch must be ascending, so that every graph's nodes lie together")
        self._batch = batch
        self._nodes = _Owned(batch.batch, batch.num_graphs)
        self._edges = _Owned(batch.batch[batch.edge_index[0]], batch.num_graphs)
        self._scored = _Owned(batch.batch[batch.scored], batch.num_graphs)

    def nodes(self, graphs: range) -> slice:
        """The nodes of consecutive graphs."""
        first, counts = self._nodes.first, self._nodes.count
        start = int(first[graphs.start])
        return slice(start, start + int(counts[graphs.start : graphs.stop].sum()))

    @property
    def largest(self) -> tuple[int, int]:
        """Nodes of the largest graph, and the most edges that a node of any receives."""
        degree = torch.bincount(self._batch.edge_index[0].long(), minlength=1)
        return int(self._nodes.count.max()), int(degree.max())

    def sizes(self, graphs: range) -> tuple[int, int]:
        """Nodes and edges of consecutive graphs."""
        count = lambda owned: int(owned.count[graphs.start : graphs.stop].sum())
        return count(self._nodes), count(self._edges)

    def __call__(self, graphs: Iterable[int] | Tensor) -> Batch:
        """The batch made of the graphs, in that order; one may come several times."""
        batch = self._batch
        graphs = torch.as_tensor(graphs if isinstance(graphs, Tensor) else list(graphs))
        nodes, edges, scored = (owned.of(graphs) for owned in (self._nodes, self._edges, self._scored))
        count = self._nodes.count[graphs]
        # New number of a node minus its old one, by new graph.
        offset = count.cumsum(0) - count - self._nodes.first[graphs]
        picked = replace(
            batch,
            x=batch.x[nodes],
            h=batch.h[nodes],
            edge_index=batch.edge_index[:, edges] + offset.repeat_interleave(self._edges.count[graphs]),
            edge_attr=None if batch.edge_attr is None else batch.edge_attr[edges],
            scored=batch.scored[scored] + offset.repeat_interleave(self._scored.count[graphs]),
            batch=torch.arange(len(graphs)).repeat_interleave(count),
            num_graphs=len(graphs),
            origin=None if batch.origin is None else batch.origin[graphs],
            cell=None if batch.cell is None else batch.cell[graphs],
            pbc=None if batch.pbc is None else batch.pbc[graphs],
            conditions=None if batch.conditions is None else batch.conditions[graphs],
        )
        for name in further_names(batch):
            self._pick_further(picked, name, graphs, offset)
        return picked

    def _pick_further(self, picked: Batch, name: str, graphs: Tensor, offset: Tensor) -> None:
        value = self._batch[name]
        if not is_of_graphs(value, self._batch):
            picked[name] = value
            return
        owned = _Owned(owners(self._batch, name), self._batch.num_graphs)
        value = pick(name, value, owned.of(graphs))
        counts = owned.count[graphs]
        picked[name] = value + offset.repeat_interleave(counts) if names_nodes(name) else value
        picked.remember_rows(name, counts.tolist())


class _Owned:
    """Things that belong to graphs: owner [M] int64, the graph of each, in any order."""

    def __init__(self, owner: Tensor, num_graphs: int):
        self._order = torch.argsort(owner, stable=True)
        self.count = torch.bincount(owner, minlength=num_graphs)
        self.first = self.count.cumsum(0) - self.count

    def of(self, graphs: Tensor) -> Tensor:
        """The things of the graphs, graph by graph, each graph's in their own order."""
        count, first = self.count[graphs], self.first[graphs]
        within = torch.arange(int(count.sum())) - (count.cumsum(0) - count).repeat_interleave(count)
        return self._order[first.repeat_interleave(count) + within]


def select_graphs(batch: Batch, graphs: Tensor) -> Batch:
    """The batch made of graphs `graphs` [G] int64 of `batch`, in that order; a graph may come several times."""
    return GraphPicker(batch)(graphs)
