"""Launches the neighbour search: tensors in, a table of fixed width out; nothing waits for the device."""

import torch
import triton
from torch import Tensor

from geotdm_fast.kernels.egcl_launch import on_device
from geotdm_fast.kernels.radius_graph import radius_cells_kernel, radius_pairs_kernel, radius_search_kernel
from geotdm_fast.reference.radius_graph import squared_cutoff

# Rows of a program: [BLOCK, BLOCK] pairs are held at a time (32 spill on sm_90), or BLOCK rows walk over the cells
# around them.
PAIRS_BLOCK, CELLS_BLOCK = 16, 128
# From so many nodes of a graph on cells are searched: a row has 27 of them to look at whatever is in them.
CELLS_FROM = 1024
# Cells along the longest axis: few enough that rounding moves a point by less than 2^-11 of a cell.
CELLS_ALONG = 4096.0
# Keys of cells: twice the rows, so that few cells share one, up to a table of 64 MB.
MOST_KEYS = 2**24


def radius_table(
    x: Tensor, cutoff: float, capacity: int, batch: Tensor | None, loop: bool, max_num_nodes: int | None = None
) -> tuple[Tensor, Tensor]:
    """sender [N T, capacity] int32, -1 where there is none, and degree [N T] int32, the senders that there are.

    x: [N, T, D]; batch: [N] or None; max_num_nodes: of one graph, as far as known: it decides how to search
    Senders ascend; which of them are there when the degree is over the capacity is not defined. The same in every run.
    Raises ValueError from 2^31 rows on.
    """
    x = x.detach().contiguous()
    num_nodes, num_frames, dim = x.shape
    num_rows = num_nodes * num_frames
    if num_rows >= 2**31:
        raise ValueError(f"radius_neighbours: nodes times frames must be under 2^31, got {num_rows}")
    sender = torch.full((num_rows, capacity), -1, dtype=torch.int32, device=x.device)
    degree = torch.zeros(num_rows, dtype=torch.int32, device=x.device)
    if num_rows == 0:
        return sender, degree
    limit = squared_cutoff(cutoff, x)
    shared = {"DIM": dim, "LOOP": loop, "enable_fp_fusion": False}
    with on_device(x):
        if dim in (2, 3) and min(max_num_nodes or num_nodes, num_nodes) >= CELLS_FROM:
            _by_cells(x, cutoff, batch, limit, sender, degree, shared)
            sender = _ascending(sender)
        else:
            node, begin, end = nodes_by_graph(batch, num_nodes, x.device)
            radius_pairs_kernel[(triton.cdiv(num_nodes, PAIRS_BLOCK) * num_frames,)](
                x, node, begin, end, limit, sender, degree, num_nodes, num_frames, capacity,
                BLOCK=PAIRS_BLOCK, num_warps=4, **shared,
            )  # fmt: skip
    return sender, degree


def nodes_by_graph(batch: Tensor | None, num_nodes: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Nodes graph by graph, ascending in each; for every place, where its graph begins and ends."""
    if batch is None:
        every = torch.arange(num_nodes, device=device)
        return every, torch.zeros_like(every), torch.full_like(every, num_nodes)
    graph, node = batch.sort(stable=True)
    return node, torch.searchsorted(graph, graph), torch.searchsorted(graph, graph, right=True)


def _by_cells(
    x: Tensor, cutoff: float, batch: Tensor | None, limit: Tensor, sender: Tensor, degree: Tensor, shared: dict
) -> None:
    """Cells a little larger than the cutoff: two points within it, whatever is rounded, are in cells that touch."""
    num_rows, num_frames, dim = degree.numel(), x.shape[1], x.shape[2]
    points = x.view(num_rows, dim).to(limit.dtype)
    points = points.where(points.isfinite(), 0)
    low = points.amin(0)
    size = ((points.amax(0) - low).amax() / CELLS_ALONG).clamp(min=cutoff * (1 + 2.0**-9))
    cell = torch.empty(num_rows, dim, dtype=torch.int32, device=x.device)
    key = torch.empty(num_rows, dtype=torch.int32, device=x.device)
    num_keys = min(MOST_KEYS, triton.next_power_of_2(2 * num_rows))
    grid = (triton.cdiv(num_rows, CELLS_BLOCK),)
    options = {"HAS_BATCH": batch is not None, "BLOCK": CELLS_BLOCK, "num_warps": 4}
    given = x if batch is None else batch
    loop = shared["LOOP"]
    shared = {name: value for name, value in shared.items() if name != "LOOP"} | options
    radius_cells_kernel[grid](x, given, low, size, cell, key, num_rows, num_frames, num_keys, **shared)
    key, row = key.sort(stable=True)
    bucket = torch.searchsorted(key, torch.arange(num_keys + 1, dtype=torch.int32, device=x.device), out_int32=True)
    radius_search_kernel[grid](
        x, given, cell, row, bucket, limit, sender, degree, num_rows, num_frames, num_keys, sender.shape[1],
        LOOP=loop, **shared,
    )  # fmt: skip


def _ascending(sender: Tensor) -> Tensor:
    none = torch.iinfo(sender.dtype).max
    sender = sender.where(sender >= 0, none).sort(dim=1).values
    return sender.where(sender != none, -1)
