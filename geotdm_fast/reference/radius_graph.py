"""Every pair of nodes within a distance: the definition, pair by pair, in any dtype and on any device."""

from typing import cast, overload

import torch
from torch import Tensor

from geotdm_fast.reference.cell import Cell
from geotdm_fast.reference.cell_search import CellSearch, squared

_PAIRS_AT_ONCE = 2**22


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
    """The edges (i, j) of nodes of one graph, in one frame, at most `cutoff` apart; every pair is looked at.

        (x_i1 - x_j1)^2 + ... + (x_iD - x_jD)^2 <= cutoff^2

    x: [N, D], or [N, T, D]: a graph for each frame of its own, whose node (i, t) is numbered i T + t
    batch: [N] int64 - the graph of each node, in any order; None: one graph
    Returns edge_index [2, E] int64, receivers first, sorted by receiver, then by sender.
    With a cell every image of every pair is looked at, as `CellSearch` says, and the second result is the image
    [E, 3] int8 of each edge; edges of one pair are sorted by it.
    Rounding, `max_num_neighbors`, `loop` and errors are told at `geotdm_fast.radius_graph`, which checks its arguments.
    """
    if cell is not None:
        boxes = CellSearch.within("radius_graph", cell, cutoff, pbc, batch)
        return _periodic(x if x.dim() == 3 else x[:, None], cutoff, batch, max_num_neighbors, loop, boxes)
    num_nodes, dim = x.shape[0], x.shape[-1]
    frames = x.detach().reshape(num_nodes, -1, dim) if x.numel() else x.new_zeros(num_nodes, 0, dim)
    num_frames = frames.shape[1]
    found = [x.new_zeros(2, 0, dtype=torch.int64)]
    for t in range(num_frames):
        found += [edges * num_frames + t for edges in _edges(frames[:, t], cutoff, batch, loop)]
    edge_index = torch.cat(found, dim=1)
    # A receiver's senders come from one frame and ascend already.
    edge_index = edge_index[:, edge_index[0].argsort(stable=True)]
    check_capacity(torch.bincount(edge_index[0]), num_nodes * num_frames, max_num_neighbors)
    return edge_index


def _periodic(
    x: Tensor, cutoff: float, batch: Tensor | None, max_num_neighbors: int | None, loop: bool, boxes: CellSearch
) -> tuple[Tensor, Tensor]:
    """edge_index [2, E] and image [E, 3] of positions x [N, T, 3] in boxes, image by image."""
    num_nodes, num_frames, _ = x.shape
    box = boxes.cell.of_nodes(batch, num_nodes)
    moved, w = boxes.wrapped(x, box)
    numbers = boxes.numbers()
    shifts = boxes.shifts(numbers)[box]  # [N, 1 or T, K, 3]
    found = [torch.zeros(2, 0, dtype=torch.int64, device=x.device)]
    image = [numbers[:0]]
    rows_at_once = max(1, _PAIRS_AT_ONCE // max(1, num_nodes))
    for t in range(num_frames):
        for start in range(0, num_nodes, rows_at_once):
            rows = slice(start, start + rows_at_once)
            between = moved[rows, None, t] - moved[None, :, t]  # [n, N, 3]
            for k, number in enumerate(numbers):
                d = between - shifts[rows, None, t if shifts.shape[1] > 1 else 0, k]
                near = d[..., 0] * d[..., 0] + d[..., 1] * d[..., 1] + d[..., 2] * d[..., 2] <= squared(cutoff)
                if batch is not None:
                    near &= batch[rows, None] == batch
                if not loop and not number.any():
                    near.diagonal(start).zero_()
                row, col = near.nonzero().T
                row = row + start
                found.append(torch.stack([row, col]) * num_frames + t)
                image.append(number + w[row, t] - w[col, t])
    edge_index, images = torch.cat(found, dim=1), torch.cat(image)
    # Images of one pair ascend already.
    order = edge_index[1].argsort(stable=True)
    order = order[edge_index[0, order].argsort(stable=True)]
    edge_index, images = edge_index[:, order], images[order]
    check_capacity(torch.bincount(edge_index[0]), num_nodes * num_frames, max_num_neighbors)
    return edge_index, images


def _edges(x: Tensor, cutoff: float, batch: Tensor | None, loop: bool) -> list[Tensor]:
    """Those of one frame [N, D], some receivers at a time."""
    limit = squared_cutoff(cutoff, x)
    found = []
    rows_at_once = max(1, _PAIRS_AT_ONCE // len(x))
    for start in range(0, len(x), rows_at_once):
        rows = slice(start, start + rows_at_once)
        near = squared_distances(x[rows, None], x) <= limit
        if batch is not None:
            near &= batch[rows, None] == batch
        if not loop:
            near.diagonal(start).zero_()
        row, col = near.nonzero().T
        found.append(torch.stack([row + start, col]))
    return found


def computed_in(dtype: torch.dtype) -> torch.dtype:
    """The dtype of the distances: 16-bit coordinates are exact in float32, their squares would overflow."""
    return torch.float32 if dtype in (torch.float16, torch.bfloat16) else dtype


def squared_distances(a: Tensor, b: Tensor) -> Tensor:
    """|a - b|^2 over the last dimension, each operation rounded, coordinates in order: what decides near the cutoff."""
    total = None
    for one, other in zip(a.to(computed_in(a.dtype)).unbind(-1), b.to(computed_in(b.dtype)).unbind(-1), strict=True):
        difference = one - other
        difference *= difference
        total = difference if total is None else total.add_(difference)
    return cast(Tensor, total)  # there is a coordinate


def squared_cutoff(cutoff: float, x: Tensor) -> Tensor:
    """cutoff^2 [] for the positions x: rounded to their dtype, squared and rounded as the distances are."""
    return torch.full((), cutoff, dtype=x.dtype, device=x.device).to(computed_in(x.dtype)).square()


def check_capacity(degree: Tensor, num_receivers: int, max_num_neighbors: int | None) -> None:
    """Raise ValueError if a receiver has more than `max_num_neighbors` edges, naming the number that would do."""
    if max_num_neighbors is None:
        return
    over = int((degree > max_num_neighbors).sum())
    if over:
        raise ValueError(
            f"radius_graph: max_num_neighbors={max_num_neighbors} is too few for {over} of {num_receivers} receivers; "
            f"{int(degree.max())} would do"
        )
