"""Neighbours in periodic boxes in plain PyTorch, everywhere: all images of all pairs of a graph. Nothing waits.

`geotdm_fast.reference.CellSearch` says what is near. Positions that are not finite, or too many boxes away, are near to
nothing.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from geotdm_fast.graphs.groups import Groups
from geotdm_fast.reference import CellSearch
from geotdm_fast.reference.cell_search import squared

# Pairs whose distances are in memory at once, 8 bytes each.
_PAIRS_AT_ONCE = 2**20


class FoundImages(NamedTuple):
    """Senders in boxes: sender [N T, width] int64 or int32, ascending in a search of a radius, -1 where there is none;
    image [N T, width, 3] int8, 0 there; degree [N T], how many there are, -1 for a position that is near to nothing."""

    sender: Tensor
    image: Tensor
    degree: Tensor


class _Pairs(NamedTuple):
    """Some receivers with candidates c K + k, image k of the c-th node of the receiver's graph.

    square: [n, T, C K] float64 - squared distances, NaN where there is no candidate; is_self: [n, 1, C K] bool - the
    node itself, in its own box; node: [n, C] - the nodes
    """

    square: Tensor
    is_self: Tensor
    node: Tensor


def periodic_radius(
    x: Tensor, cutoff: float, capacity: int, groups: Groups, box: Tensor, boxes: CellSearch, loop: bool = False
) -> FoundImages:
    """Up to `capacity` senders of each row of x [N, T, 3]: the first where there are more. box: [N] of each node"""
    limit = squared(cutoff)

    def chosen(pairs: _Pairs) -> tuple[Tensor, Tensor]:
        near = pairs.square <= limit
        if not loop:
            near &= ~pairs.is_self
        rank = near.cumsum(-1)
        place = torch.where(near & (rank <= capacity), rank - 1, capacity)
        every = torch.arange(near.shape[-1], device=x.device).expand_as(near)
        table = every.new_full((*near.shape[:2], capacity + 1), -1).scatter_(-1, place, every)[..., :capacity]
        return table, near.sum(-1)

    return _found(x, capacity, groups, box, boxes, chosen)


def periodic_nearest(x: Tensor, k: int, groups: Groups, box: Tensor, boxes: CellSearch) -> FoundImages:
    """The `k` nearest images, nearest first, of two as near the lower sender and image; a node's own ones too."""

    def chosen(pairs: _Pairs) -> tuple[Tensor, Tensor]:
        exists = pairs.square.isfinite() & ~pairs.is_self
        square, order = pairs.square.where(exists, torch.inf).sort(dim=-1, stable=True)
        square, order = square[..., :k], order[..., :k]
        table = torch.nn.functional.pad(order.where(square < torch.inf, -1), (0, k - order.shape[-1]), value=-1)
        return table, (table >= 0).sum(-1)

    return _found(x, k, groups, box, boxes, chosen)


def periodic_edges(
    x: Tensor, cutoff: float, groups: Groups, box: Tensor, boxes: CellSearch, loop: bool
) -> tuple[Tensor, Tensor]:
    """edge_index [2, E] and image [E, 3] int8, as the reference has them. Waits for the device."""
    num_frames, numbers = x.shape[1], boxes.numbers()
    moved, w = boxes.wrapped(x, box)
    w = w.flatten(0, 1)
    found, image, first = [torch.zeros(2, 0, dtype=torch.int64, device=x.device)], [numbers[:0]], 0
    for pairs in _pairs(moved, groups, box, boxes):
        near = pairs.square <= squared(cutoff)
        if not loop:
            near &= ~pairs.is_self
        receiver, frame, candidate = near.nonzero(as_tuple=True)
        sender = pairs.node[receiver, candidate // len(numbers)] * num_frames + frame
        receiver = (receiver + first) * num_frames + frame
        found.append(torch.stack([receiver, sender]))
        image.append(numbers[candidate % len(numbers)] + w[receiver] - w[sender])
        first += len(pairs.node)
    return torch.cat(found, dim=1), torch.cat(image)


def _found(
    x: Tensor,
    width: int,
    groups: Groups,
    box: Tensor,
    boxes: CellSearch,
    chosen: Callable[[_Pairs], tuple[Tensor, Tensor]],
) -> FoundImages:
    """chosen: pairs to candidates [n, T, width], -1 where there is none, and degrees [n, T]."""
    num_frames = x.shape[1]
    moved, w = boxes.wrapped(x, box)
    numbers = boxes.numbers()
    frame = torch.arange(num_frames, device=x.device)[:, None]
    tables, degrees = [frame.new_zeros(0, num_frames, width)], [frame.new_zeros(0, num_frames)]
    senders = [frame.new_zeros(0, num_frames, width)]
    for pairs in _pairs(moved, groups, box, boxes):
        table, degree = chosen(pairs)
        node = pairs.node[:, None].expand(-1, num_frames, -1).gather(-1, table.clamp(min=0) // len(numbers))
        senders.append((node * num_frames + frame).where(table >= 0, -1))
        tables.append(table)
        degrees.append(degree)
    table, sender = torch.cat(tables).flatten(0, 1), torch.cat(senders).flatten(0, 1)
    w = w.flatten(0, 1)
    image = numbers[table.clamp(min=0) % len(numbers)] + w[:, None] - w[sender.clamp(min=0)] if len(w) else None
    image = numbers.new_zeros(0, width, 3) if image is None else image.where(sender[..., None] >= 0, 0)
    degree = torch.cat(degrees).where(~moved.isnan().any(-1), -1)
    return FoundImages(sender, image, degree.flatten())


def _pairs(moved: Tensor, groups: Groups, box: Tensor, boxes: CellSearch) -> Iterator[_Pairs]:
    """Some receivers at a time, with the nodes of the largest graph as senders; moved: [N, T, 3], in their boxes."""
    num_nodes, num_frames, _ = moved.shape
    numbers = boxes.numbers()
    shifts = boxes.shifts(numbers)  # [G, 1 or T, K, 3]
    is_home = (numbers == 0).all(-1)
    column = torch.arange(groups.most, device=moved.device)
    at_once = max(1, _PAIRS_AT_ONCE // max(1, groups.most * num_frames * len(numbers)))
    for start in range(0, num_nodes, at_once):
        rows = slice(start, start + at_once)
        place = groups.begin[rows, None] + column
        is_there = place < groups.end[rows, None]
        node = groups.node[place.clamp(max=num_nodes - 1)]  # [n, C]
        shift = shifts[box[rows]][:, :, None]  # [n, 1 or T, 1, K, 3]
        square = torch.zeros((), dtype=torch.float64, device=moved.device)
        for axis in range(3):
            between = moved[rows, :, None, axis] - moved[node, :, axis].transpose(1, 2)  # [n, T, C]
            d = between[..., None] - shift[..., axis]
            square = square + d * d
        square = square.where(is_there[:, None, :, None], torch.nan).flatten(2)
        receiver = torch.arange(start, start + len(node), device=moved.device)
        is_self = (node == receiver[:, None])[..., None] & is_home
        yield _Pairs(square, is_self.flatten(1)[:, None], node)
