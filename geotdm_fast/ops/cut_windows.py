"""A batch cut out of a data set on the device: `geotdm_fast.reference.cut_windows` by the fastest implementation."""

from torch import Tensor

from geotdm_fast import reference
from geotdm_fast.ops import kernels
from geotdm_fast.ops.backend import current_backend
from geotdm_fast.reference.cut_windows import BatchLayout, CutBatch, WindowTables


def cut_windows(
    tables: WindowTables,
    layout: BatchLayout,
    items: Tensor,
    steps: Tensor | None = None,
    weight: Tensor | None = None,
) -> CutBatch:
    """Equal to `geotdm_fast.reference.cut_windows`; on CUDA one Triton kernel, which a CUDA graph can hold.

    Raises ValueError where `backend("triton")` is asked for and Triton cannot run here.
    """
    if current_backend() != "reference" and kernels.take_search("cut_windows", items, current_backend()):
        from geotdm_fast.kernels.cut_windows_launch import cut_windows as launch

        return launch(tables, layout, items, steps, weight)
    return reference.cut_windows(tables, layout, items, steps, weight)
