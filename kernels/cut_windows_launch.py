"""Launches the cutting of a batch on the current stream of its tensors' device."""

import triton
from torch import Tensor

from geotdm_fast.kernels.cut_windows import cut_windows_kernel
from geotdm_fast.kernels.egcl_launch import on_device
from geotdm_fast.reference.cut_windows import BatchLayout, CutBatch, WindowTables

BLOCK = 256


def cut_windows(
    tables: WindowTables, layout: BatchLayout, items: Tensor, steps: Tensor | None, weight: Tensor | None
) -> CutBatch:
    """`geotdm_fast.reference.cut_windows` by one kernel; all contiguous."""
    num_nodes, num_edges, num_scored = len(layout.batch), len(layout.edge), len(layout.graph_of_scored)
    has_attr, is_drawn = tables.edge_attr is not None, steps is not None
    x = tables.x.new_empty(num_nodes, tables.dim, tables.num_frames)
    h = tables.h.new_empty(num_nodes, *tables.h.shape[1:])
    edge_attr = tables.edge_attr.new_empty(num_edges, *tables.edge_attr.shape[1:]) if has_attr else None
    cut = CutBatch(
        x, h, edge_attr, steps.new_empty(num_nodes) if is_drawn else None,
        weight.new_empty(num_scored) if is_drawn else None,
    )  # fmt: skip
    sizes = [0 if value is None else value.numel() for value in cut]
    # In the place of what is not there: never read nor written.
    results = [items if value is None else value for value in cut]
    drawn = (steps, weight) if is_drawn else (items, items)
    row_size = lambda value: max(1, value[:1].numel()) if value is not None else 1
    with on_device(x):
        cut_windows_kernel[(triton.cdiv(max(*sizes, 1), BLOCK), 5)](
            tables.first, tables.x, tables.h, tables.edge_attr if has_attr else items, *layout,
            items, *drawn, *results, *sizes, tables.num_frames, row_size(h), row_size(edge_attr),
            DIM=tables.dim, BLOCK=BLOCK, num_warps=4,
        )  # fmt: skip
    return cut
