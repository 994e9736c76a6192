"""The compiled CPU module `geotdm_fast._C`: whether it is there, and which inputs its kernels take."""

import torch
from torch import Tensor

try:
    from geotdm_fast import _C

    missing = None
except ImportError as error:
    _C = None
    # A module that is not built and one that does not load are different faults: say which.
    missing = "not built" if isinstance(error, ModuleNotFoundError) else f"does not load ({error})"


def build_info() -> dict[str, str] | None:
    """`isa`, the instruction set that runs here, and `compiler`; None without the module."""
    return None if _C is None else _C.build_info()


def why_not(x: Tensor, h: Tensor, params: tuple[Tensor, ...]) -> str | None:
    """Why the CPU kernels do not take these inputs, or None if they do.

    They take float32 on the CPU, D = 2 or 3, and widths that are a multiple of 16 up to 256, one width throughout.
    """
    width = h.shape[-1]
    if _C is None:
        return f"geotdm_fast._C is {missing}"
    if x.device.type != "cpu":
        return f"inputs are on {x.device.type}"
    if any(t.dtype != torch.float32 for t in (x, h, *params)):
        return "inputs are not all float32"
    if x.shape[-1] not in (2, 3):
        return f"D = {x.shape[-1]} is not 2 or 3"
    if width % 16 or not 16 <= width <= 256:
        return f"the width {width} is not a multiple of 16 up to 256"
    return None
