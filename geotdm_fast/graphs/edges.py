"""Edges sorted by receiver and by sender: the tables that the kernels of `egcl` read."""

from typing import NamedTuple

import torch
from torch import Tensor


class EdgeTables(NamedTuple):
    """The E edges of a graph of M rows, sorted by receiver, and an index of them by sender.

    A row is a node, or a node in a frame where every frame has its own edges.

    first: [M + 1] int64 - edges first[i] .. first[i + 1] - 1 go to receiver i; first[M] is the number of edges
    sender: [E] int64 - the sender of each edge. Where there is room for more edges than there are, places from first[M]
        on are no edges, and hold a number in 0..M-1
    sender_first: [M + 1] int64, by_sender: [E] int64 - the edges of sender j are by_sender[sender_first[j]] ..
        by_sender[sender_first[j + 1] - 1], ascending
    """

    first: Tensor
    sender: Tensor
    sender_first: Tensor
    by_sender: Tensor


def sorted_edges(edge_index: Tensor, num_rows: int) -> tuple[Tensor | None, EdgeTables]:
    """Sort `edge_index` by receiver. Returns (order, tables): edge k of the tables is edge order[k] of `edge_index`.

    edge_index: [2, E] int64 or int32 - receivers, senders; num_rows: M
    order: [E] int64, or None where the edges were sorted already. Edges of one receiver keep their order
    The compiled module counts them on the CPU. Waits once for a CUDA device, so no CUDA graph may capture it. Raises
    ValueError for an index outside 0..num_rows-1, because the kernels do not check indices.
    """
    if torch.compiler.is_compiling():
        order, *tables = _sorted_edges_op(edge_index, num_rows)
        return order, EdgeTables(*tables)
    from geotdm_fast.ops import native  # which imports this package

    edge_index = edge_index.long().contiguous()
    if edge_index.device.type == "cpu" and native.missing is None:
        order, *tables = torch.ops.geotdm_fast.edge_tables.default(edge_index, num_rows)
        return order if order.numel() else None, EdgeTables(*tables)
    row, col = edge_index
    order = None
    if row.numel():
        low, high, falls = torch.stack([*torch.aminmax(edge_index), (row[1:] < row[:-1]).any()]).tolist()
        if low < 0:
            raise ValueError(f"egcl: edge_index must not be negative, got {low}")
        if high >= num_rows:
            raise ValueError(f"egcl: edge_index must be in 0..{num_rows - 1}, got {high}")
        if falls:
            row, order = row.sort(stable=True)
            col = col[order]
    return order, EdgeTables(_first(row, num_rows), col.clone(), *by_sender(col, num_rows))


def by_sender(sender: Tensor, num_rows: int) -> tuple[Tensor, Tensor]:
    """`sender_first` and `by_sender` of `EdgeTables`, for the senders [E] of edges that are sorted by receiver.

    A sender equal to num_rows marks a place without an edge; these places come last.
    """
    sender, by_sender = sender.sort(stable=True)
    return _first(sender, num_rows), by_sender


def _first(ascending: Tensor, num_rows: int) -> Tensor:
    """[num_rows + 1]: for each i the number of entries of `ascending` that are smaller than i."""
    return torch.searchsorted(ascending, torch.arange(num_rows + 1, dtype=ascending.dtype, device=ascending.device))


@torch.library.custom_op("geotdm_fast::sorted_edges", mutates_args=())
def _sorted_edges_op(edge_index: Tensor, num_rows: int) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """`sorted_edges` as an op that `torch.compile` does not look into; the order is always a tensor."""
    order, tables = sorted_edges(edge_index, num_rows)
    if order is None:
        order = torch.arange(edge_index.shape[1], device=edge_index.device)
    return order, *tables


@_sorted_edges_op.register_fake
def _(edge_index: Tensor, num_rows: int) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    per_edge = lambda: edge_index.new_empty(edge_index.shape[1], dtype=torch.int64)
    per_row = lambda: edge_index.new_empty(num_rows + 1, dtype=torch.int64)
    return per_edge(), per_row(), per_edge(), per_row(), per_edge()
