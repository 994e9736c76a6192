"""Neighbours within a radius, and the nearest ones, in tables of fixed width.

Triton kernels search a radius on CUDA, and C++ on the CPU. Here are all pairs of a graph in plain PyTorch, everywhere.
Nothing waits, and positions that are not finite are near to nothing, so that a chain that diverges comes to its end.
"""

import numbers
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from geotdm_fast.graphs.groups import Groups
from geotdm_fast.graphs.periodic_search import periodic_nearest, periodic_radius
from geotdm_fast.reference import Cell, CellSearch
from geotdm_fast.reference.radius_graph import squared_cutoff, squared_distances
from geotdm_fast.runtime.checks import check_tensor

# Pairs whose distances are in memory at once, 4 or 8 bytes each.
_PAIRS_AT_ONCE = 2**21


class Found(NamedTuple):
    """What a search found.

    sender: [N T, width] int - -1 where there is none; needed: [] int - the width that would do, None where any does
    image: [N T, width, 3] int8 - of every sender, and cell: the boxes; None without
    """

    sender: Tensor
    needed: Tensor | None = None
    image: Tensor | None = None
    cell: Cell | None = None


def radius_senders(
    x: Tensor,
    cutoff: float,
    capacity: int,
    batch: Tensor | None,
    groups: Groups | None,
    cell: Tensor | Cell | CellSearch | None = None,
) -> Found:
    """The senders of `Graph.radius`."""
    # The ops look for graphs themselves.
    from geotdm_fast.ops import kernels, neighbour_search
    from geotdm_fast.ops.backend import current_backend
    from geotdm_fast.ops.radius_checks import check_search
    from geotdm_fast.ops.radius_neighbours import radius_neighbours

    where = "Graph.radius"
    check_tensor(where, "x", x, ("N", "T", "D"), integer=False)
    check_search(where, x, cutoff, batch, False)
    check_count(where, "capacity", capacity)
    boxes = known = None
    if cell is not None:
        boxes = CellSearch.within(where, cell, cutoff, batch=batch)
        boxes.check_fits(where, x)
        known = boxes.cell
    if kernels.take_search(where, x, current_backend()):
        most = groups.most or None if groups is not None else None
        found = radius_neighbours(x, cutoff, capacity, batch, max_num_nodes=most, cell=boxes)
        return Found(found.sender, found.needed, found.image, known)
    if current_backend() != "reference" and neighbour_search.is_compiled(x):
        found = radius_neighbours(x, cutoff, capacity, batch, cell=boxes)
        return Found(found.sender, found.needed, found.image, known)
    groups, image = groups or Groups.of(batch, len(x), x.device), None
    if boxes is None:
        sender, degree = within_radius(x, cutoff, capacity, groups)
    else:
        box = boxes.cell.of_nodes(batch, len(x))
        sender, image, degree = periodic_radius(x, cutoff, capacity, groups, box, boxes)
    return Found(sender, degree.amax().clamp(min=0) if len(degree) else degree.sum(), image, known)


def nearest_senders(
    x: Tensor,
    k: int,
    batch: Tensor | None,
    groups: Groups | None,
    cell: Tensor | Cell | CellSearch | None = None,
) -> Found:
    """The senders of `Graph.nearest`."""
    from geotdm_fast.ops.radius_checks import check_batch

    where = "Graph.nearest"
    check_tensor(where, "x", x, ("N", "T", "D"), integer=False)
    check_batch(where, x, batch)
    check_count(where, "k", k)
    if cell is None:
        return Found(nearest(x, k, groups or Groups.of(batch, len(x), x.device)))
    boxes = CellSearch.nearest(where, cell, k, len(x), batch=batch)
    boxes.check_fits(where, x)
    groups = groups or Groups.of(batch, len(x), x.device)
    sender, image, _ = periodic_nearest(x, k, groups, boxes.cell.of_nodes(batch, len(x)), boxes)
    return Found(sender, None, image, boxes.cell)


def check_count(where: str, name: str, value: int) -> None:
    """Raise TypeError / ValueError unless `value` is a whole number from 1 on."""
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise TypeError(f"{where}: {name} must be a whole number, got {value!r}")
    if value < 1:
        raise ValueError(f"{where}: {name} must be at least 1, got {value}")


def within_radius(x: Tensor, cutoff: float, capacity: int, groups: Groups) -> tuple[Tensor, Tensor]:
    """sender [N T, capacity] int64, ascending, -1 behind the last, and degree [N T], of x [N, T, D]: all pairs.

    Which pairs are near is decided as in `geotdm_fast.radius_graph`. Of more senders than fit the first are there.
    """
    limit, found = squared_cutoff(cutoff, x), []
    for square, sender, is_other in _pairs(x, groups):
        near = (square <= limit) & (sender >= 0) & is_other
        rank = near.cumsum(-1)  # [n, T, C]
        place = torch.where(near & (rank <= capacity), rank - 1, capacity)
        table = sender.new_full((*near.shape[:2], capacity + 1), -1).scatter_(-1, place, sender)[..., :capacity]
        found.append((table, near.sum(-1)))
    table, degree = _joined(found, x, capacity)
    return table, degree


def nearest(x: Tensor, k: int, groups: Groups) -> Tensor:
    """sender [N T, k] int64, nearest first, of two as near the lower, -1 behind the last.

    A node is none of its own; one that is not at a finite distance is nobody's.
    """
    found = []
    for square, sender, is_other in _pairs(x, groups):
        square = square.where((sender >= 0) & is_other & square.isfinite(), torch.inf)
        square, order = square.sort(dim=-1, stable=True)
        square, order = square[..., :k], order[..., :k]
        table = sender.gather(-1, order).where(square < torch.inf, -1)
        table = torch.nn.functional.pad(table, (0, k - table.shape[-1]), value=-1)
        found.append((table,))
    return _joined(found, x, k)[0]


def _pairs(x: Tensor, groups: Groups) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Some receivers at a time, with the C nodes of the largest graph as senders: squared distances [n, T, C], the
    senders' rows j T + t, ascending, or -1 where the own graph is smaller, and whether they are other nodes."""
    num_nodes, num_frames, _ = x.shape
    x = x.detach()
    frame = torch.arange(num_frames, device=x.device)[:, None]
    column = torch.arange(groups.most, device=x.device)
    at_once = max(1, _PAIRS_AT_ONCE // max(1, groups.most * num_frames))
    for start in range(0, num_nodes, at_once):
        rows = slice(start, start + at_once)
        place = groups.begin[rows, None] + column
        is_there = place < groups.end[rows, None]
        node = groups.node[place.clamp(max=num_nodes - 1)]  # [n, C]
        square = squared_distances(x[rows, :, None], x[node].transpose(1, 2))
        sender = torch.where(is_there[:, None], node[:, None] * num_frames + frame, -1)
        receiver = torch.arange(start, start + len(node), device=x.device)
        yield square, sender, (node != receiver[:, None])[:, None]


def _joined(found: Sequence[tuple[Tensor, ...]], x: Tensor, width: int) -> tuple[Tensor, ...]:
    """Tables [N T, width], and what else is known of each row [N T]."""
    if not found:  # no nodes
        return x.new_zeros((0, width), dtype=torch.int64), x.new_zeros(0, dtype=torch.int64)
    table, *others = (torch.cat(parts) for parts in zip(*found, strict=True))
    return table.reshape(-1, width), *(other.flatten() for other in others)
