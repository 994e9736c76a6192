"""Edges of a table of fixed width in tables of fixed size: nothing waits for the device, whatever the positions."""

import torch
from torch import Tensor

from geotdm_fast.graphs.edges import EdgeTables, by_sender


def packed(sender: Tensor, is_edge: Tensor) -> tuple[EdgeTables, Tensor, Tensor]:
    """The edges of a table, sorted by receiver, with room for M K.

    sender: [M, K] int - of the row's edges; is_edge: [M, K] bool - where there is one
    Returns the tables; edge_index [2, M K] int64, whose places without an edge are (M, M), a row behind the last; and
    slot [M K] int64: which place of the table, row K + column, an edge comes from, 0 where there is none.
    Deterministic; a CUDA graph may capture it.
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
