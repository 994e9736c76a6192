"""Launches the neighbour search in periodic boxes: tensors in, a table of fixed width out; nothing waits."""

import math
from typing import NamedTuple

import torch
import triton
from torch import Tensor

from geotdm_fast.kernels.egcl_launch import on_device
from geotdm_fast.kernels.radius_graph_launch import MOST_KEYS, nodes_by_graph
from geotdm_fast.kernels.radius_image_cells import (
    radius_image_cells_kernel,
    radius_image_grid_kernel,
    radius_image_order_kernel,
    radius_image_search_kernel,
)
from geotdm_fast.kernels.radius_images import radius_images_kernel, radius_shifts_kernel, radius_wrap_kernel
from geotdm_fast.reference import CellSearch
from geotdm_fast.reference.cell_search import squared

# Rows of a program, and candidates that are held at a time: all images of all pairs, or those in a cell.
BLOCK, COLUMNS = 16, 16
CELLS_BLOCK, CELLS_COLUMNS = 16, 32
# Rows of a program where each is for itself, and senders of a row that a program puts in order.
ROWS_BLOCK, ORDER_BLOCK = 128, 64
SHIFTS_BLOCK = 32  # images of a program
# From so many nodes of a graph on cells are searched: a row has 27 of them and more to look at, whatever is in them,
# which costs as much as 27 images of so many nodes do.
CELLS_FROM = 256
# Cells along a vector of a box.
CELLS_MOST = 2.0**20


class _Given(NamedTuple):
    """What both ways to search read: positions in their boxes, how far they were moved, and the boxes."""

    moved: Tensor
    away: Tensor
    batch: Tensor | None
    box: Tensor
    inverse: Tensor
    shift: Tensor
    numbers: Tensor
    pbc: Tensor
    cutoff: Tensor
    limit: Tensor
    num_nodes: int
    num_frames: int

    @property
    def of_frame(self) -> tuple[int, int]:
        """How many boxes a graph has, and how many lie between those of two frames."""
        box_frames = self.shift.shape[1]
        return box_frames, int(box_frames > 1)


class _Found(NamedTuple):
    """As `radius_images_table` returns it."""

    sender: Tensor
    image: Tensor
    degree: Tensor


def radius_images_table(
    x: Tensor,
    cutoff: float,
    capacity: int,
    batch: Tensor | None,
    loop: bool,
    boxes: CellSearch,
    max_num_nodes: int | None = None,
) -> _Found:
    """sender [N T, capacity] int32, -1 where there is none, image [N T, capacity, 3] int8, 0 there, and degree [N T]
    int32, the senders that there are, -1 for a position that is nowhere.

    x: [N, T, 3]; batch: [N] or None; max_num_nodes: of one graph, as far as known: it decides how to search
    Senders are sorted, by their image where they are the same. Where the degree is over the capacity some are there,
    the first ones if all pairs were looked at. The same in every run.
    Raises ValueError from 2^31 rows, or nodes times images, on.
    """
    x = x.detach().contiguous()
    num_nodes, num_frames, _ = x.shape
    num_rows = num_nodes * num_frames
    num_images = math.prod(2 * most + 1 for most in boxes.images)
    if max(num_rows, num_nodes * num_images) >= 2**31:
        raise ValueError(
            f"radius_neighbours: nodes times frames, and nodes times images, must be under 2^31, got {num_nodes} "
            f"nodes, {num_frames} frames, {num_images} images"
        )
    found = _Found(
        torch.full((num_rows, capacity), -1, dtype=torch.int32, device=x.device),
        torch.zeros(num_rows, capacity, 3, dtype=torch.int8, device=x.device),
        torch.zeros(num_rows, dtype=torch.int32, device=x.device),
    )
    if num_rows == 0:
        return found
    moved = torch.empty(num_rows, 3, dtype=torch.float64, device=x.device)
    away = torch.empty(num_rows, 3, dtype=torch.int8, device=x.device)
    box = boxes.cell.of_nodes(batch, num_nodes)
    number = lambda value: torch.full((), value, dtype=torch.float64, device=x.device)
    shift = torch.empty(*boxes.vectors.shape[:2], num_images, 3, dtype=torch.float64, device=x.device)
    numbers = torch.empty(num_images, 3, dtype=torch.int8, device=x.device)
    pbc = boxes.cell.pbc.contiguous()
    vectors, inverse = boxes.vectors.contiguous(), boxes.inverse.contiguous()
    of_box = box, inverse, shift, numbers, pbc
    given = _Given(moved, away, batch, *of_box, number(cutoff), number(squared(cutoff)), num_nodes, num_frames)
    with on_device(x):
        # Along one axis: CUDA's others end at 65,535 programs.
        radius_shifts_kernel[(shift[..., 0, 0].numel() * triton.cdiv(num_images, SHIFTS_BLOCK),)](
            vectors, pbc, shift, numbers, given.of_frame[0], *boxes.images,
            BLOCK=SHIFTS_BLOCK, num_warps=1, enable_fp_fusion=False,
        )  # fmt: skip
        radius_wrap_kernel[(triton.cdiv(num_rows, ROWS_BLOCK),)](
            x, box, vectors, inverse, pbc, moved, away, num_rows, num_frames,
            *given.of_frame, boxes.most_boxes_away, BLOCK=ROWS_BLOCK, num_warps=4, enable_fp_fusion=False,
        )  # fmt: skip
        if min(max_num_nodes or num_nodes, num_nodes) >= CELLS_FROM:
            _by_cells(given, found, loop, boxes.images)
        else:
            _by_pairs(given, found, loop)
    return found


def _by_pairs(given: _Given, found: _Found, loop: bool) -> None:
    """All images of all pairs of a graph."""
    node, begin, end = nodes_by_graph(given.batch, given.num_nodes, given.moved.device)
    radius_images_kernel[(triton.cdiv(given.num_nodes, BLOCK) * given.num_frames,)](
        given.moved, given.away, node, begin, end, given.box, given.shift, given.numbers, given.limit, *found,
        given.num_nodes, given.num_frames, len(given.numbers), *given.of_frame, found.sender.shape[1],
        LOOP=loop, BLOCK=BLOCK, COLUMNS=COLUMNS, num_warps=4, enable_fp_fusion=False,
    )  # fmt: skip


def _by_cells(given: _Given, found: _Found, loop: bool, images: tuple[int, int, int]) -> None:
    """Cells around each row, then each row's senders in order."""
    (num_rows, capacity), device = found.sender.shape, found.sender.device
    farthest = given.moved.abs().nan_to_num(nan=0.0).amax(0)  # [3]
    per_cell = torch.empty(given.inverse.shape[:3], dtype=torch.float64, device=device)
    size = torch.empty_like(per_cell, dtype=torch.int32)
    radius_image_grid_kernel[(per_cell[..., 0].numel(),)](
        given.inverse, given.pbc, farthest, given.cutoff, per_cell, size, given.of_frame[0],
        MOST=CELLS_MOST, num_warps=1,
    )  # fmt: skip
    cell = torch.empty(num_rows, 3, dtype=torch.int32, device=device)
    key = torch.empty(num_rows, dtype=torch.int32, device=device)
    num_keys = min(MOST_KEYS, triton.next_power_of_2(2 * num_rows))
    batch = given.box if given.batch is None else given.batch
    has_batch = given.batch is not None
    counts = num_rows, given.num_frames, *given.of_frame, num_keys
    radius_image_cells_kernel[(triton.cdiv(num_rows, ROWS_BLOCK),)](
        given.moved, batch, given.box, given.inverse, per_cell, size, cell, key, *counts,
        HAS_BATCH=has_batch, BLOCK=ROWS_BLOCK, num_warps=4, enable_fp_fusion=False,
    )  # fmt: skip
    key, row = key.sort(stable=True)
    bucket = torch.searchsorted(key, torch.arange(num_keys + 1, dtype=torch.int32, device=device), out_int32=True)
    listed = torch.empty(num_rows, capacity, dtype=torch.int64, device=device)
    radius_image_search_kernel[(triton.cdiv(num_rows, CELLS_BLOCK),)](
        given.moved, batch, given.box, cell, size, given.shift, row, bucket, given.limit, listed, found.degree,
        *counts, capacity, *images,
        HAS_BATCH=has_batch, LOOP=loop, BLOCK=CELLS_BLOCK, COLUMNS=CELLS_COLUMNS, num_warps=4, enable_fp_fusion=False,
    )  # fmt: skip
    if capacity:
        radius_image_order_kernel[(num_rows * triton.cdiv(capacity, ORDER_BLOCK),)](
            listed, found.degree, given.away, given.numbers, found.sender, found.image, len(given.numbers), capacity,
            BLOCK=ORDER_BLOCK, num_warps=4,
        )  # fmt: skip
