"""The edges of a graph in the order that kernels read them."""

import dataclasses
import functools
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from geotdm_fast.runtime.copies import to_device
from geotdm_fast.runtime.tensor_cache import TensorCache, normal_tensors

if TYPE_CHECKING:
    from geotdm_fast.kernels.egcl_launch import Graph


@dataclasses.dataclass(frozen=True, eq=False)
class SortedEdges:
    """Edges sorted by receiver (stable), and for every sender the sorted edges that leave it.

    order: [E] - sorted edge to its place in edge_index; sender: [E] - senders in sorted order
    first: [N + 1] - the edges of receiver i are first[i] .. first[i + 1] - 1
    sender_first: [N + 1], by_sender: [E] - the sorted edges of sender j, ascending, from sender_first[j]
    came_sorted: the order changes nothing; False where that is not known
    """

    order: Tensor
    sender: Tensor
    first: Tensor
    sender_first: Tensor
    by_sender: Tensor
    came_sorted: bool = False

    @functools.cached_property
    def tables(self) -> "Graph":
        """What the Triton kernels read, `geotdm_fast.kernels.egcl_launch.Graph`."""
        from geotdm_fast.kernels.egcl_launch import graph_tables

        with normal_tensors():
            return graph_tables(self.first, self.sender, self.sender_first, self.by_sender)


def sorted_edges(edge_index: Tensor, num_nodes: int) -> SortedEdges:
    """Sort `edge_index` [2, E], once for as long as the tensor lives and is not written to.

    Raises ValueError for an index outside 0..num_nodes-1: the kernels trust their indices.
    """
    if torch.compiler.is_compiling():
        return SortedEdges(*_sorted_edges_op(edge_index, num_nodes))
    return _sort_for(edge_index, num_nodes)


def edges_on(device: torch.device, edge_index: Tensor, num_nodes: int) -> Tensor:
    """`edge_index` of the CPU, sorted there for the kernels and copied to `device`, where nothing then waits for it.

    Raises ValueError for an index outside 0..num_nodes-1.
    """
    edges = sorted_edges(edge_index, num_nodes)
    if device.type == "cpu":
        return edge_index
    fields = (edges.order, edges.sender, edges.first, edges.sender_first, edges.by_sender)
    with normal_tensors():
        there = to_device(edge_index, device)
        moved = SortedEdges(*(to_device(field, device) for field in fields), edges.came_sorted)
    _sort.remember(there, moved)
    _sort_for.remember(there, moved, num_nodes)
    return there


def edge_tables(edge_index: Tensor, num_nodes: int) -> "Graph":
    """The edges as the Triton kernels read them; as `sorted_edges` otherwise."""
    if torch.compiler.is_compiling():
        from geotdm_fast.kernels.egcl_launch import Graph

        return Graph(*_edge_tables_op(edge_index, num_nodes))
    return sorted_edges(edge_index, num_nodes).tables


@torch.library.custom_op("geotdm_fast::sorted_edges", mutates_args=())
def _sorted_edges_op(edge_index: Tensor, num_nodes: int) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """`sorted_edges` for `torch.compile`, which cannot trace it: copies, because a compiled graph may reuse memory."""
    edges = sorted_edges(edge_index, num_nodes)
    copies = (edges.order, edges.sender, edges.first, edges.sender_first, edges.by_sender)
    order, sender, first, sender_first, by_sender = map(torch.clone, copies)
    return order, sender, first, sender_first, by_sender


@_sorted_edges_op.register_fake
def _(edge_index: Tensor, num_nodes: int) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    per_edge = lambda: edge_index.new_empty(edge_index.shape[1], dtype=torch.int64)
    per_node = lambda: edge_index.new_empty(num_nodes + 1, dtype=torch.int64)
    return per_edge(), per_edge(), per_node(), per_node(), per_edge()


@torch.library.custom_op("geotdm_fast::edge_tables", mutates_args=())
def _edge_tables_op(edge_index: Tensor, num_nodes: int) -> list[Tensor]:
    """`edge_tables` for `torch.compile`, in copies as above."""
    return [table.clone() for table in edge_tables(edge_index, num_nodes)]


@_edge_tables_op.register_fake
def _(edge_index: Tensor, num_nodes: int) -> list[Tensor]:
    per_edge = lambda dtype: edge_index.new_empty(edge_index.shape[1], dtype=dtype)
    per_node = lambda dtype: edge_index.new_empty(num_nodes, dtype=dtype)
    first = lambda: edge_index.new_empty(num_nodes + 1, dtype=torch.int64)
    index, real = torch.int32, torch.float32
    return [
        per_node(index), per_node(index), per_node(real), per_edge(index), per_edge(index), first(), first(),
        per_edge(torch.int64), per_node(real),
    ]  # fmt: skip


def edges_of_frames(edge_index: Tensor, num_frames: int) -> Tensor:
    """[2, E T]: the same edges in every frame, between rows i T + t, for as long as `edge_index` is not written to."""
    if torch.compiler.is_compiling():
        return _of_frames(edge_index, num_frames)
    return _frames(edge_index, num_frames)


def _of_frames(edge_index: Tensor, num_frames: int) -> Tensor:
    frame = torch.arange(num_frames, device=edge_index.device)
    return (edge_index.long()[:, :, None] * num_frames + frame).flatten(1)


def _sorted(edge_index: Tensor) -> SortedEdges:
    row, col = edge_index.long()
    if edge_index.numel() and int(edge_index.min()) < 0:
        raise ValueError(f"egcl: edge_index must not be negative, got {int(edge_index.min())}")
    size = int(edge_index.max()) + 1 if edge_index.numel() else 0
    order = torch.argsort(row, stable=True)
    sender = col[order]
    by_sender = torch.argsort(sender, stable=True)
    came_sorted = bool((row.diff() >= 0).all())
    return SortedEdges(order, sender, _offsets(row, size), _offsets(col, size), by_sender, came_sorted)


def _offsets(index: Tensor, size: int) -> Tensor:
    """[size + 1]: how many entries of `index` are below each number."""
    counts = torch.bincount(index, minlength=size)
    return torch.cat([counts.new_zeros(1), counts.cumsum(0)])


def _extended(edge_index: Tensor, num_nodes: int) -> SortedEdges:
    """The sorted edges of a graph of `num_nodes`, which may have nodes without edges behind the last with some."""
    edges = _sort(edge_index)
    missing = num_nodes - (len(edges.first) - 1)
    if missing < 0:
        raise ValueError(f"egcl: edge_index must be in 0..{num_nodes - 1}, got {num_nodes - missing - 1}")
    extended = lambda first: torch.cat([first, first[-1:].expand(missing)])
    firsts = {"first": extended(edges.first), "sender_first": extended(edges.sender_first)}
    return dataclasses.replace(edges, **firsts)


_sort = TensorCache(_sorted)
_sort_for = TensorCache(_extended)
_frames = TensorCache(_of_frames)
