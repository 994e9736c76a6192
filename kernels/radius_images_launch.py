"""Launches the neighbour search in periodic boxes: tensors in, a table of fixed width out; nothing waits."""

import torch
import triton
from torch import Tensor

from geotdm_fast.kernels.egcl_launch import on_device
from geotdm_fast.kernels.radius_graph_launch import nodes_by_graph
from geotdm_fast.kernels.radius_images import radius_images_kernel, radius_wrap_kernel
from geotdm_fast.reference import CellSearch
from geotdm_fast.reference.cell_search import squared

# Rows of a program, and candidates that are held at a time.
BLOCK, COLUMNS = 16, 16
WRAP_BLOCK = 128


def radius_images_table(
    x: Tensor, cutoff: float, capacity: int, batch: Tensor | None, loop: bool, boxes: CellSearch
) -> tuple[Tensor, Tensor, Tensor]:
    """sender [N T, capacity] int32, -1 where there is none, image [N T, capacity, 3] int8, 0 there, and degree [N T]
    int32, the senders that there are, -1 for a position that is nowhere.

    x: [N, T, 3]; batch: [N] or None. Senders are sorted, by their image where they are the same; the first are there
    when the degree is over the capacity. The same in every run.
    Raises ValueError from 2^31 rows, or nodes times images, on.
    """
    x = x.detach().contiguous()
    num_nodes, num_frames, _ = x.shape
    num_rows = num_nodes * num_frames
    numbers = boxes.numbers()
    if max(num_rows, num_nodes * len(numbers)) >= 2**31:
        raise ValueError(
            f"radius_neighbours: nodes times frames, and nodes times images, must be under 2^31, got {num_nodes} "
            f"nodes, {num_frames} frames, {len(numbers)} images"
        )
    sender = torch.full((num_rows, capacity), -1, dtype=torch.int32, device=x.device)
    image = torch.zeros(num_rows, capacity, 3, dtype=torch.int8, device=x.device)
    degree = torch.zeros(num_rows, dtype=torch.int32, device=x.device)
    if num_rows == 0:
        return sender, image, degree
    moved = torch.empty(num_rows, 3, dtype=torch.float64, device=x.device)
    away = torch.empty(num_rows, 3, dtype=torch.int8, device=x.device)
    box = boxes.cell.of_nodes(batch, num_nodes)
    box_frames = boxes.vectors.shape[1]
    frame_step = int(box_frames > 1)
    limit = torch.full((), squared(cutoff), dtype=torch.float64, device=x.device)
    node, begin, end = nodes_by_graph(batch, num_nodes, x.device)
    pbc = boxes.cell.pbc.contiguous()
    shift = boxes.shifts(numbers).contiguous()
    with on_device(x):
        radius_wrap_kernel[(triton.cdiv(num_rows, WRAP_BLOCK),)](
            x, box, boxes.vectors, boxes.inverse, pbc, moved, away, num_rows, num_frames, box_frames,
            frame_step, boxes.most_boxes_away, BLOCK=WRAP_BLOCK, num_warps=4, enable_fp_fusion=False,
        )  # fmt: skip
        radius_images_kernel[(triton.cdiv(num_nodes, BLOCK) * num_frames,)](
            moved, away, node, begin, end, box, shift, numbers, limit, sender, image, degree,
            num_nodes, num_frames, len(numbers), box_frames, frame_step, capacity,
            LOOP=loop, BLOCK=BLOCK, COLUMNS=COLUMNS, num_warps=4, enable_fp_fusion=False,
        )  # fmt: skip
    return sender, image, degree
