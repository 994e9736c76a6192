"""The neighbours of a radius graph without Triton: by the compiled module on the CPU, or by blocks of all pairs."""

import math
import warnings
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from geotdm_fast.ops import native
from geotdm_fast.reference import CellSearch
from geotdm_fast.reference.radius_graph import computed_in, squared_cutoff, squared_distances

# A block's distances stay in cache.
_PAIRS_AT_ONCE = 2**18
# From here on all pairs take seconds.
_MANY = 10_000


def is_compiled(x: Tensor) -> bool:
    """Whether the compiled module searches the neighbours of x."""
    return x.device.type == "cpu" and native.missing is None


def compiled_graph(x: Tensor, cutoff: float, batch: Tensor | None, loop: bool) -> tuple[Tensor, Tensor]:
    """edge_index [2, E] int64 as `geotdm_fast.reference.radius_graph` has it, and the degree [M] int32 of each row."""
    return torch.ops.geotdm_fast.radius_graph(*_taken(x, cutoff, batch), loop)


def compiled_table(x: Tensor, cutoff: float, capacity: int, batch: Tensor | None, loop: bool) -> tuple[Tensor, Tensor]:
    """The first `capacity` senders of every row, [M, capacity] int32 with -1 behind the last, and how many there are,
    [M] int32. Nothing depends on the values: a coordinate that is not finite is near to nothing."""
    x, batch, cutoff = _taken(x, cutoff, batch)
    return torch.ops.geotdm_fast.radius_neighbours(x, batch, cutoff, capacity, loop)


def compiled_periodic_graph(
    x: Tensor, cutoff: float, batch: Tensor | None, loop: bool, boxes: CellSearch
) -> tuple[Tensor, Tensor, Tensor]:
    """edge_index [2, E] int64 and image [E, 3] int8 of x [N, T, 3], and the degree [N T] int32 of each row, -1 where a
    position is near to nothing whatever is there."""
    return torch.ops.geotdm_fast.radius_graph_periodic(*_in_boxes(x, batch, boxes), float(cutoff), loop)


def compiled_periodic_table(
    x: Tensor, cutoff: float, capacity: int, batch: Tensor | None, loop: bool, boxes: CellSearch
) -> tuple[Tensor, Tensor, Tensor]:
    """sender [N T, capacity] int32, image [N T, capacity, 3] int8 and the degree [N T] int32, as above."""
    given = _in_boxes(x, batch, boxes)
    return torch.ops.geotdm_fast.radius_neighbours_periodic(*given, float(cutoff), capacity, loop)


def _in_boxes(x: Tensor, batch: Tensor | None, boxes: CellSearch) -> tuple:
    """What the module takes before the cutoff."""
    batch = None if batch is None else batch.long().contiguous()
    flags, away = boxes.cell.pbc.contiguous(), boxes.most_boxes_away
    return x.detach().double(), batch, boxes.vectors, boxes.inverse, flags, list(boxes.images), away


def _taken(x: Tensor, cutoff: float, batch: Tensor | None) -> tuple[Tensor, Tensor | None, float]:
    """What the module takes: [N, T, D] in the dtype of the distances, the cutoff as the dtype of x has it."""
    cutoff = float(cutoff)
    if computed_in(x.dtype) != x.dtype:
        cutoff = torch.full((), cutoff, dtype=x.dtype).item()
    frames = x.detach() if x.dim() == 3 else x.detach()[:, None]
    return frames.to(computed_in(x.dtype)), None if batch is None else batch.long().contiguous(), cutoff


def search(points: Tensor, sizes: Tensor, cutoff: float, loop: bool) -> tuple[Tensor, Tensor]:
    """The pairs at most `cutoff` apart, as `geotdm_fast.reference.radius_graph` decides; all are looked at.

    points: [M, D] - group after group; sizes: [G] - how many points each group has, ascending
    Returns receivers and senders [E] int64, by their places in `points`, sorted by receiver, then by sender.
    """
    sizes = sizes.tolist()
    if points.device.type == "cpu" and sizes and sizes[-1] >= _MANY:
        warnings.warn(
            f"radius_graph: geotdm_fast._C is {native.missing}. Every pair of {sizes[-1]} nodes is looked at, which "
            "takes seconds.",
            RuntimeWarning,
            stacklevel=3,
        )
    found = [_empty(points), *_by_blocks(points, sizes, squared_cutoff(cutoff, points), loop)]
    return torch.cat([row for row, _ in found]), torch.cat([col for _, col in found])


def status() -> tuple[str, str]:
    """What searches on the CPU, and why: for `geotdm doctor`."""
    info = native.build_info()
    if info is None:
        return "all pairs", f"geotdm_fast._C is {native.missing}, so large graphs are slow"
    return f"cpu ({info['isa']})", "cells a cutoff wide, on the CPU"


def _empty(points: Tensor) -> tuple[Tensor, Tensor]:
    none = torch.zeros(0, dtype=torch.int64, device=points.device)
    return none, none


def _by_blocks(points: Tensor, sizes: list[int], limit: Tensor, loop: bool) -> Iterator[tuple[Tensor, Tensor]]:
    """All pairs of many small groups at once, padded to the largest; of a large group, some receivers at once."""
    # The last point is nowhere, so padding is near to nothing.
    padded = torch.cat([points, points.new_full((1, points.shape[1]), math.nan)])
    first, start = 0, 0
    while first < len(sizes):
        stop = min(len(sizes), first + max(1, _PAIRS_AT_ONCE // sizes[first] ** 2))
        while stop > first + 1 and (stop - first) * sizes[stop - 1] ** 2 > _PAIRS_AT_ONCE:
            stop = max(first + 1, first + _PAIRS_AT_ONCE // sizes[stop - 1] ** 2)
        size = sizes[stop - 1]
        count = torch.tensor(sizes[first:stop], device=points.device)
        begin = start + count.cumsum(0) - count  # [B]
        within = torch.arange(size, device=points.device)
        place = torch.where(within < count[:, None], begin[:, None] + within, len(points))  # [B, S]
        block = padded[place]  # [B, S, D]
        rows_at_once = max(1, _PAIRS_AT_ONCE // size) if stop == first + 1 else size
        for row_start in range(0, size, rows_at_once):
            rows = slice(row_start, row_start + rows_at_once)
            near = squared_distances(block[:, rows, None], block[:, None]) <= limit  # [B, rows, S]
            if not loop:
                near.diagonal(row_start, dim1=1, dim2=2).zero_()
            pair = _nonzero(near)
            row = pair // size
            num_rows = near.shape[1]
            col = pair - row * size + begin.repeat_interleave(num_rows)[row]
            yield place[:, rows].flatten()[row], col
        start += sum(sizes[first:stop])
        first = stop


def _nonzero(mask: Tensor) -> Tensor:
    """The places of True in the flattened mask; NumPy finds them several times faster than torch does on the CPU."""
    if mask.device.type == "cpu":
        return torch.from_numpy(np.flatnonzero(mask.numpy()))
    return mask.flatten().nonzero().flatten()
