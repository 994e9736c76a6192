"""The edges of a graph in the order that kernels read them."""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary


class SortedEdges(NamedTuple):
    """Edges sorted by receiver (stable), and for every sender the sorted edges that leave it.

    order: [E] - sorted edge to its place in edge_index; sender: [E] - senders in sorted order
    first: [N + 1] - the edges of receiver i are first[i] .. first[i + 1] - 1
    sender_first: [N + 1], by_sender: [E] - the sorted edges of sender j, ascending, from sender_first[j]
    """

    order: Tensor
    sender: Tensor
    first: Tensor
    sender_first: Tensor
    by_sender: Tensor


_known: WeakTensorKeyDictionary = WeakTensorKeyDictionary()


def sorted_edges(edge_index: Tensor, num_nodes: int) -> SortedEdges:
    """Sort `edge_index` [2, E]; the result is kept for as long as the tensor lives and is not written to."""
    # A tensor born in inference mode does not count its writes.
    version = None if edge_index.is_inference() else edge_index._version
    known = _known.get(edge_index)
    if known is not None and version is not None and known[0] == (version, num_nodes):
        return known[1]
    row, col = edge_index.long()
    order = torch.argsort(row, stable=True)
    sender = col[order]
    edges = SortedEdges(
        order=order,
        sender=sender,
        first=_offsets(row, num_nodes),
        sender_first=_offsets(col, num_nodes),
        by_sender=torch.argsort(sender, stable=True),
    )
    _known[edge_index] = ((version, num_nodes), edges)
    return edges


def _offsets(index: Tensor, size: int) -> Tensor:
    """[size + 1]: how many entries of `index` are below each number."""
    counts = torch.bincount(index, minlength=size)
    return torch.cat([counts.new_zeros(1), counts.cumsum(0)])
