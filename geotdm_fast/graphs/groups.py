"""The nodes of a batch, graph by graph, as neighbour searches read them."""

from typing import NamedTuple

import torch
from torch import Tensor


class Groups(NamedTuple):
    """The nodes of a batch, graph by graph.

    node: [N] int64 - all nodes, those of graph 0 first, ascending within a graph
    begin, end: [N] int64 - the nodes of the graph of node i are node[begin[i]] .. node[end[i] - 1]
    most: number of nodes of the largest graph
    """

    node: Tensor
    begin: Tensor
    end: Tensor
    most: int

    @classmethod
    def of(cls, batch: Tensor | None, num_nodes: int, device: torch.device) -> "Groups":
        """The groups of `batch` [N], in any order; None: all nodes are one graph.

        Waits for the device where there is a batch.
        """
        node = torch.arange(num_nodes, device=device)
        if batch is None:
            return cls(node, torch.zeros_like(node), torch.full_like(node, num_nodes), num_nodes)
        graph, node = batch.sort(stable=True)
        begin, end = torch.searchsorted(graph, batch), torch.searchsorted(graph, batch, right=True)
        return cls(node, begin, end, int((end - begin).max()) if num_nodes else 0)
