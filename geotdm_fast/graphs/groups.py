"""Which nodes of a batch are of one graph, in the order that searches read them."""

from typing import NamedTuple

import torch
from torch import Tensor


class Groups(NamedTuple):
    """Which nodes are of one graph.

    node: [N] int64 - graph by graph, ascending in each; begin, end: [N] int64 - where in it the graph of each node is
    most: how many nodes the largest graph has
    """

    node: Tensor
    begin: Tensor
    end: Tensor
    most: int

    @classmethod
    def of(cls, batch: Tensor | None, num_nodes: int, device: torch.device) -> "Groups":
        """Of batch [N], in any order, or of one graph. Waits for the device where there is a batch."""
        node = torch.arange(num_nodes, device=device)
        if batch is None:
            return cls(node, torch.zeros_like(node), torch.full_like(node, num_nodes), num_nodes)
        graph, node = batch.sort(stable=True)
        begin, end = torch.searchsorted(graph, batch), torch.searchsorted(graph, batch, right=True)
        return cls(node, begin, end, int((end - begin).max()) if num_nodes else 0)
