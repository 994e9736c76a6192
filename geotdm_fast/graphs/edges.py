"""The edges of a graph in the order that kernels read them."""

from typing import NamedTuple

import torch
from torch import Tensor


class EdgeTables(NamedTuple):
    """Edges sorted by receiver, and for every sender the edges that leave it.

    first: [M + 1] int64 - the edges of receiver i are first[i] .. first[i + 1] - 1; first[M] is how many there are
    sender: [E] int64 - of every edge; places from first[M] on have no edge, and hold a number in 0 .. M - 1
    sender_first: [M + 1], by_sender: [E] int64 - the edges of sender j, ascending, begin at sender_first[j]
    """

    first: Tensor
    sender: Tensor
    sender_first: Tensor
    by_sender: Tensor


def sorted_edges(edge_index: Tensor, num_rows: int) -> tuple[Tensor | None, EdgeTables]:
    """The tables of `edge_index` [2, E], and the place there of every sorted edge [E]; None where they came sorted.

    Edges of one receiver stay in their order. On CUDA the host waits once. Raises ValueError for an index outside
    0..num_rows-1: the kernels trust their indices.
    """
    if torch.compiler.is_compiling():
        order, *tables = _sorted_edges_op(edge_index, num_rows)
        return order, EdgeTables(*tables)
    row, col = edge_index.long().contiguous()
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
    """sender_first and by_sender of `EdgeTables`; a sender num_rows is of no edge, and comes behind the others."""
    sender, by_sender = sender.sort(stable=True)
    return _first(sender, num_rows), by_sender


def _first(ascending: Tensor, num_rows: int) -> Tensor:
    """[num_rows + 1]: how many of `ascending` are below each number."""
    return torch.searchsorted(ascending, torch.arange(num_rows + 1, dtype=ascending.dtype, device=ascending.device))


@torch.library.custom_op("geotdm_fast::sorted_edges", mutates_args=())
def _sorted_edges_op(edge_index: Tensor, num_rows: int) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """`sorted_edges` for `torch.compile`, which cannot trace it: the order, whatever it is, and the tables."""
    order, tables = sorted_edges(edge_index, num_rows)
    if order is None:
        order = torch.arange(edge_index.shape[1], device=edge_index.device)
    return order, *tables


@_sorted_edges_op.register_fake
def _(edge_index: Tensor, num_rows: int) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    per_edge = lambda: edge_index.new_empty(edge_index.shape[1], dtype=torch.int64)
    per_row = lambda: edge_index.new_empty(num_rows + 1, dtype=torch.int64)
    return per_edge(), per_row(), per_edge(), per_row(), per_edge()
