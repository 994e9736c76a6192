"""The radius graph at fixed capacity: `geotdm_fast.reference.radius_neighbours` by the fastest implementation."""

import numbers

from torch import Tensor

from geotdm_fast import reference
from geotdm_fast.graphs.groups import Groups
from geotdm_fast.graphs.periodic_search import periodic_radius
from geotdm_fast.ops import kernels, neighbour_search
from geotdm_fast.ops.backend import current_backend
from geotdm_fast.ops.radius_checks import check_no_pbc, check_search
from geotdm_fast.ops.radius_graph import radius_graph
from geotdm_fast.reference import Cell, CellSearch, Neighbours
from geotdm_fast.reference.radius_neighbours import counted, counted_images, listed

_WHERE = "radius_neighbors"


def radius_neighbors(
    x: Tensor,
    cutoff: float,
    capacity: int,
    batch: Tensor | None = None,
    loop: bool = False,
    max_num_nodes: int | None = None,
    *,
    cell: Tensor | Cell | CellSearch | None = None,
    pbc: Tensor | None = None,
) -> Neighbours:
    """The radius graph as a table [M, capacity], whose shape does not depend on the positions.

        sender[i] = { j : |x_i - x_j| <= cutoff and (i != j or loop) }, ascending, then -1

    x, cutoff, batch, loop: as for `geotdm_fast.radius_graph`; every edge is the same
    capacity: the most senders of a receiver, its loop included
    max_num_nodes: the most nodes of a graph, if known: graphs of a thousand and more (in boxes: of 256 and more) are
        searched by cells on CUDA
    cell, pbc: periodic boxes, as for `radius_graph`; then senders come with their `image` [M, capacity, 3] int8
    Returns `Neighbours(sender, count, needed, finite, image)`: `.check()` raises where the capacity was too small,
    naming the one that would do, `.edge_index()` and `.edge_image()` give what `radius_graph` does.

    On CUDA, by Triton kernels, nothing waits for the device, so a CUDA graph may capture it and `.check()` is called
    once after all replays; a coordinate that is not finite is told there too. The compiled module on the CPU does the
    same. Without both such a coordinate raises at once. Deterministic, also in which senders are there when some are
    missing. No gradient, the result being indices.
    With a cell nothing waits where it is a `geotdm_fast.reference.CellSearch`, which `CellSearch.within` makes once, in
    plain PyTorch neither. A position that is not finite, or more than 60 boxes away from the one at the origin, is
    told by `.check()`.
    Raises ValueError/TypeError for wrong shapes, dtypes, devices, cutoff, cell and numbers.
    """
    check_search(_WHERE, x, cutoff, batch, loop)
    _check_number("capacity", capacity, 0)
    if max_num_nodes is not None:
        _check_number("max_num_nodes", max_num_nodes, 1)
    if cell is not None:
        boxes = CellSearch.within(_WHERE, cell, cutoff, pbc, batch)
        return _in_boxes(x, cutoff, capacity, batch, loop, max_num_nodes, boxes)
    check_no_pbc(_WHERE, pbc)
    if current_backend() == "reference":
        return reference.radius_neighbours(x, cutoff, capacity, batch, loop)
    if kernels.take_search(_WHERE, x, current_backend()):
        from geotdm_fast.kernels.radius_graph_launch import radius_table

        frames = x if x.dim() == 3 else x[:, None]
        sender, degree = radius_table(frames, cutoff, capacity, batch, loop, max_num_nodes)
        return counted(sender, degree, x)
    if neighbour_search.is_compiled(x):
        return counted(*neighbour_search.compiled_table(x, cutoff, capacity, batch, loop), x)
    return listed(radius_graph(x, cutoff, batch, loop=loop), x, capacity)


# The name of before, kept.
radius_neighbours = radius_neighbors


def _in_boxes(
    x: Tensor,
    cutoff: float,
    capacity: int,
    batch: Tensor | None,
    loop: bool,
    max_num_nodes: int | None,
    boxes: CellSearch,
) -> Neighbours:
    frames = x.detach() if x.dim() == 3 else x.detach()[:, None]
    boxes.check_fits(_WHERE, frames)
    if kernels.take_search(_WHERE, x, current_backend()):
        from geotdm_fast.kernels.radius_images_launch import radius_images_table

        return counted_images(*radius_images_table(frames, cutoff, capacity, batch, loop, boxes, max_num_nodes))
    if current_backend() == "reference":
        return reference.radius_neighbours(frames, cutoff, capacity, batch, loop, cell=boxes)
    if neighbour_search.is_compiled(x):
        found = neighbour_search.compiled_periodic_table(frames, cutoff, capacity, batch, loop, boxes)
        return counted_images(*found)
    groups = Groups.of(batch, len(frames), x.device)
    box = boxes.cell.of_nodes(batch, len(frames))
    sender, image, degree = periodic_radius(frames, cutoff, capacity, groups, box, boxes, loop)
    return counted_images(sender.int(), image, degree.int())


def _check_number(name: str, value: int, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise TypeError(f"{_WHERE}: {name} must be a whole number, got {value!r}")
    if value < least:
        raise ValueError(f"{_WHERE}: {name} must be at least {least}, got {value}")
