"""The compiled CPU module `geotdm_fast._C`: whether it is there, and which inputs its kernels take."""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from geotdm_fast.ops.module import load_module, warn_missing

_C, missing = load_module()

# The kernels take and return float32; bfloat16 is converted at the op's border.
DTYPES = frozenset((torch.float32, torch.bfloat16))


def build_info() -> dict[str, str | int] | None:
    """What the module was built with and what runs here; None without the module.

    `isa` and `low_precision_isa` are the instruction sets of float32 and of bfloat16 products, `compiler`, `torch`, and
    `panel` (see fakes.py).
    """
    return None if _C is None else _C.info


def why_not(x: Tensor, h: Tensor, params: tuple[Tensor, ...]) -> str | None:
    """Why the CPU kernels do not take these inputs, or None if they do.

    They take float32 or bfloat16 on the CPU, D = 2 or 3, and widths that are a multiple of 16 up to 256, one width
    throughout.
    """
    width = h.shape[-1]
    if x.device.type != "cpu":
        return f"inputs are on {x.device.type}"
    if not _dtypes((x, h, *params)) <= DTYPES:
        return "inputs are not all float32 or bfloat16"
    if x.shape[-1] not in (2, 3):
        return f"D = {x.shape[-1]} is not 2 or 3"
    if width % 16 or not 16 <= width <= 256:
        return f"the width {width} is not a multiple of 16 up to 256"
    if _C is None:
        warn_missing(missing)
        return f"geotdm_fast._C is {missing}"
    return None


def as_kernels_read(params: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """The weights in float32 and contiguous: the same tensors where they are."""
    if are_as_kernels_read(params):
        return tuple(params)
    return tuple(param.float().contiguous() for param in params)


def are_as_kernels_read(params: Sequence[Tensor]) -> bool:
    """Whether all weights are float32 and contiguous."""
    return _dtypes(params) <= {torch.float32} and all(param.is_contiguous() for param in params)


def needs_grad(*inputs: Tensor | None) -> bool:
    """Whether a forward must keep anything for its backward."""
    return torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in inputs)


def low_precision(precision: str, h: Tensor, *params: Tensor) -> bool:
    """Whether the factors of matrix products may be rounded to bfloat16."""
    return precision == "bf16" or torch.bfloat16 in _dtypes((h, *params))


def _dtypes(tensors: Iterable[Tensor]) -> set[torch.dtype]:
    # A draw of one system asks of 180 weights, some three times: a set takes half of what `any` takes.
    return {tensor.dtype for tensor in tensors}
