"""From a table of neighbours of fixed width to edges sorted by receiver, in tensors of fixed size."""

import torch
from torch import Tensor

from geotdm_fast.graphs.edges import EdgeTables, by_sender


def packed(sender: Tensor, is_edge: Tensor) -> tuple[EdgeTables, Tensor, Tensor]:
    """The edges that a table of neighbours holds, sorted by receiver, in tensors with room for all M K places.

    sender: [M, K] int - neighbour k of row i
    is_edge: [M, K] bool - whether that place of the table is an edge
    Returns
        tables: `EdgeTables`
        edge_index: [2, M K] int64 - unused places are (M, M), the number of a row behind the last one
        slot: [M K] int64 - the place i K + k of the table that an edge comes from, 0 in unused places
    Equal inputs give equal bits. Nothing waits for the device: a CUDA graph may capture it.
    """
    num_rows, width = is_edge.shape
    room, device = is_edge.numel(), is_edge.device
    edge = torch.arange(room, device=device)
    # Every edge goes behind those before it, and what is none behind the room, where it is cut off.
    place = torch.where(is_edge.flatten(), is_edge.flatten().cumsum(0) - 1, room)
    slot = torch.zeros(room + 1, dtype=torch.int64, device=device).scatter_(0, place, edge)[:room]
    degree = is_edge.sum(1)
    first = torch.cat([degree.new_zeros(1), degree.cumsum(0)])
    has_edge = edge < first[-1]
    sender = torch.where(has_edge, sender.flatten()[slot].long(), num_rows)
    edge_index = torch.stack([torch.where(has_edge, slot // max(width, 1), num_rows), sender])
    # Half the passes over 32 bits; the kernels have no more rows than that.
    tables = EdgeTables(first, torch.where(has_edge, sender, 0), *by_sender(sender.int(), num_rows))
    return tables, edge_index, slot
