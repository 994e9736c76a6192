"""The radius graph: `geotdm_fast.reference.radius_graph` by the fastest implementation that takes the input."""

import numbers
from typing import overload

import torch
from torch import Tensor

from geotdm_fast import reference
from geotdm_fast.graphs.groups import Groups
from geotdm_fast.graphs.periodic_search import periodic_edges
from geotdm_fast.ops import kernels, neighbour_search
from geotdm_fast.ops.backend import current_backend
from geotdm_fast.ops.radius_checks import check_no_pbc, check_search
from geotdm_fast.reference import Cell, CellSearch
from geotdm_fast.reference.cell_search import check_near_enough
from geotdm_fast.reference.radius_graph import check_capacity
from geotdm_fast.reference.radius_neighbours import counted, counted_images

_WHERE = "radius_graph"


@overload
def radius_graph(
    x: Tensor,
    cutoff: float,
    batch: Tensor | None = None,
    max_num_neighbors: int | None = None,
    loop: bool = False,
    *,
    cell: None = None,
    pbc: None = None,
) -> Tensor: ...
@overload
def radius_graph(
    x: Tensor,
    cutoff: float,
    batch: Tensor | None = None,
    max_num_neighbors: int | None = None,
    loop: bool = False,
    *,
    cell: Tensor | Cell | CellSearch,
    pbc: Tensor | None = None,
) -> tuple[Tensor, Tensor]: ...
def radius_graph(
    x: Tensor,
    cutoff: float,
    batch: Tensor | None = None,
    max_num_neighbors: int | None = None,
    loop: bool = False,
    *,
    cell: Tensor | Cell | CellSearch | None = None,
    pbc: Tensor | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    """The edges between nodes of one graph that are at most `cutoff` apart, for one frame or for each of many.

        (i, j) is an edge when |x_i - x_j| <= cutoff and (i != j or loop)

    x: [N, D] float - positions, D = 2 or 3 (any D >= 1); or [N, T, D], the engine's own layout: a graph for each frame
    cutoff: in the unit of x; a pair exactly so far apart is an edge
    batch: [N] int64 - the graph of each node, in any order, numbers without nodes allowed; None: all are one graph
    max_num_neighbors: the most edges that a receiver may have, its loop included; None: any number
    loop: whether each node is its own neighbour
    Returns edge_index [2, E] int64: row = receiver, col = sender, sorted by receiver, then by sender; both directions
    of a pair are in it. For [N, T, D] the nodes are (node, frame), numbered i T + t as the rows of `x.flatten(0, 1)`,
    so the edges are those of a graph of N T nodes with one frame.

    cell: [3, 3], [G, 3, 3] or [G, T, 3, 3] float - the vectors of a periodic box, in rows: of all graphs and frames, of
        each graph, of each frame too; or a `Cell`; or a `CellSearch`, which was made once. Any vectors that span a
        volume, and any cutoff that needs at most 64 images along each. D must be 3
    pbc: [3] or [G, 3] bool - the directions that are periodic; None: all
    With a cell it returns (edge_index [2, E], image [E, 3] int8), with every image of every node, its own too:

        (i, j, n) is an edge when |x_i - x_j - n C| <= cutoff, and (i, n) != (j, 0) or loop

    sorted by receiver, sender, and n, first vector first. Positions need not lie in the box; n belongs to them as they
    came. Which pairs are near is decided in float64, as `geotdm_fast.reference.CellSearch` says.

    Exact: coordinates and cutoff in the dtype of x (16-bit ones computed in float32), squares added in the order of the
    coordinates, each operation rounded, compared with the square of the cutoff; equal to the reference in every edge.
    Deterministic. No gradient, the result being indices; reads values, so a CUDA graph cannot capture it.
    Raises ValueError for coordinates that are not finite, for a cutoff whose square the dtype cannot hold, and when a
    receiver has more than `max_num_neighbors` edges (nothing is ever left out); ValueError/TypeError for wrong shapes
    and dtypes, for a cell that is none (`Cell.of`), and for a position more than 60 boxes away from the one at the
    origin (fewer where the cutoff spans more than seven).
    Source: as in PyG, but for a pair at the cutoff (<= as in the official molecule graphs; torch_cluster takes <), for
    the order, and for what happens above `max_num_neighbors` (torch_cluster drops edges).
    """
    _check(x, cutoff, batch, max_num_neighbors, loop)
    if cell is not None:
        return _in_boxes(x, cutoff, batch, max_num_neighbors, loop, CellSearch.within(_WHERE, cell, cutoff, pbc, batch))
    check_no_pbc(_WHERE, pbc)
    if current_backend() == "reference":
        return reference.radius_graph(x, cutoff, batch, max_num_neighbors, loop)
    if kernels.take_search(_WHERE, x, current_backend()):
        return _by_kernels(x, cutoff, batch, max_num_neighbors, loop)
    if neighbour_search.is_compiled(x):
        edge_index, degree = neighbour_search.compiled_graph(x, cutoff, batch, loop)
        check_capacity(degree, len(degree), max_num_neighbors)
        return edge_index
    points, order, sizes = _grouped(x.detach(), batch)
    row, col = neighbour_search.search(points, sizes, cutoff, loop)
    degree = torch.bincount(row, minlength=len(points))
    edge_index = _numbered(row, col, degree, order)
    check_capacity(degree, len(points), max_num_neighbors)
    return edge_index


def _in_boxes(
    x: Tensor, cutoff: float, batch: Tensor | None, max_num_neighbors: int | None, loop: bool, boxes: CellSearch
) -> tuple[Tensor, Tensor]:
    """edge_index [2, E] and image [E, 3] int8."""
    frames = x.detach() if x.dim() == 3 else x.detach()[:, None]
    boxes.check_fits(_WHERE, frames)
    if kernels.take_search(_WHERE, x, current_backend()):
        return _in_boxes_by_kernels(frames, cutoff, batch, max_num_neighbors, loop, boxes)
    if current_backend() != "reference" and neighbour_search.is_compiled(x):
        edge_index, image, degree = neighbour_search.compiled_periodic_graph(frames, cutoff, batch, loop, boxes)
        if degree.numel() and int(degree.min()) < 0:
            check_near_enough(_WHERE, frames, boxes, batch)
        check_capacity(degree, len(degree), max_num_neighbors)
        return edge_index, image
    check_near_enough(_WHERE, frames, boxes, batch)
    if current_backend() == "reference":
        return reference.radius_graph(frames, cutoff, batch, max_num_neighbors, loop, cell=boxes)
    groups = Groups.of(batch, len(frames), x.device)
    edge_index, image = periodic_edges(frames, cutoff, groups, boxes.cell.of_nodes(batch, len(x)), boxes, loop)
    num_rows = frames.shape[:2].numel()
    check_capacity(torch.bincount(edge_index[0], minlength=num_rows), num_rows, max_num_neighbors)
    return edge_index, image


def _in_boxes_by_kernels(
    x: Tensor, cutoff: float, batch: Tensor | None, max_num_neighbors: int | None, loop: bool, boxes: CellSearch
) -> tuple[Tensor, Tensor]:
    """Counted, then listed in a table that is wide enough."""
    from geotdm_fast.kernels.radius_images_launch import radius_images_table

    most_nodes = _most_nodes(x, batch)
    *_, degree = radius_images_table(x, cutoff, 0, batch, loop, boxes, most_nodes)
    least, most = (int(degree.min()), int(degree.max())) if len(degree) else (0, 0)
    if least < 0:
        check_near_enough(_WHERE, x, boxes, batch)
    check_capacity(degree, len(degree), max_num_neighbors)
    found = counted_images(*radius_images_table(x, cutoff, most, batch, loop, boxes, most_nodes))
    return found.edge_index(), found.edge_image()


def _by_kernels(x: Tensor, cutoff: float, batch: Tensor | None, max_num_neighbors: int | None, loop: bool) -> Tensor:
    """Counted, then listed in a table that is wide enough."""
    from geotdm_fast.kernels.radius_graph_launch import radius_table

    frames = x if x.dim() == 3 else x[:, None]
    most_nodes = _most_nodes(frames, batch)
    _, degree = radius_table(frames, cutoff, 0, batch, loop, most_nodes)
    check_capacity(degree, len(degree), max_num_neighbors)
    capacity = int(degree.max()) if len(degree) else 0
    sender, degree = radius_table(frames, cutoff, capacity, batch, loop, most_nodes)
    return counted(sender, degree, x).edge_index()


def _most_nodes(x: Tensor, batch: Tensor | None) -> int | None:
    """Of one graph, as `max_num_nodes` of the tables: small graphs of a large batch are not searched by cells."""
    return None if batch is None else Groups.of(batch, len(x), x.device).most or None


def _grouped(x: Tensor, batch: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """The points of every graph and frame together, small groups first: points [M, D], their numbers [M], sizes [G]."""
    num_nodes, dim = x.shape[0], x.shape[-1]
    num_frames = x.shape[1] if x.dim() == 3 else 1
    frames = torch.arange(num_frames, device=x.device)
    if batch is None:
        order = (torch.arange(num_nodes, device=x.device) * num_frames + frames[:, None]).flatten()
        sizes = torch.full((num_frames if num_nodes else 0,), num_nodes, device=x.device)
    else:
        group = (batch.long()[:, None] * num_frames + frames).flatten()
        group, order = group.sort(stable=True)
        came = torch.unique_consecutive(group, return_counts=True)[1]
        sizes, by_size = came.sort(stable=True)
        move = _begin(came)[by_size] - _begin(sizes)
        order = order[torch.arange(len(order), device=x.device) + move.repeat_interleave(sizes)]
    return x.reshape(num_nodes * num_frames, dim)[order], order, sizes


def _numbered(row: Tensor, col: Tensor, degree: Tensor, order: Tensor) -> Tensor:
    """edge_index of edges between points, which are sorted: their own numbers, and sorted again by those, in O(E)."""
    if torch.equal(order, torch.arange(len(order), device=order.device)):
        return torch.stack([row, col])
    degree_of_node = torch.empty_like(degree)
    degree_of_node[order] = degree
    # Within a group numbers ascend, so the edges of a receiver stay in order: only their first place changes.
    move = _begin(degree_of_node)[order] - _begin(degree)
    place = torch.arange(len(row), device=row.device) + move.repeat_interleave(degree)
    sender = torch.empty_like(col).scatter_(0, place, order.index_select(0, col))
    return torch.stack([torch.arange(len(order), device=row.device).repeat_interleave(degree_of_node), sender])


def _begin(sizes: Tensor) -> Tensor:
    """Where each of consecutive segments begins."""
    return sizes.cumsum(0) - sizes


def _check(x: Tensor, cutoff: float, batch: Tensor | None, max_num_neighbors: int | None, loop: bool) -> None:
    check_search(_WHERE, x, cutoff, batch, loop)
    if batch is not None and batch.numel() and int(batch.min()) < 0:
        raise ValueError(f"{_WHERE}: batch must not be negative, got {int(batch.min())}")
    if max_num_neighbors is not None:
        if isinstance(max_num_neighbors, bool) or not isinstance(max_num_neighbors, numbers.Integral):
            raise TypeError(f"{_WHERE}: max_num_neighbors must be a whole number or None, got {max_num_neighbors!r}")
        if max_num_neighbors < 1:
            raise ValueError(f"{_WHERE}: max_num_neighbors must be at least 1, got {max_num_neighbors}")
    finite = torch.isfinite(x)
    if not bool(finite.all()):
        node, *frame, axis = place = (~finite).nonzero()[0].tolist()
        at = f"node {node}" + (f", frame {frame[0]}" if frame else "")
        raise ValueError(f"{_WHERE}: x must be finite, got {x[tuple(place)].item()} at {at}, coordinate {axis}")
