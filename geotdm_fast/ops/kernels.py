"""The Triton kernels `geotdm_fast.kernels`: whether they run here, and which inputs they take."""

import functools
import importlib.util

import torch
from torch import Tensor

from geotdm_fast.ops.traced import constant_in_graphs

DTYPES = (torch.float32, torch.bfloat16)
MAX_WIDTH = 256


@functools.cache
def missing() -> str | None:
    """Why no Triton kernel can run here, or None."""
    if importlib.util.find_spec("triton") is None:
        return "triton is not installed"
    if importlib.util.find_spec("geotdm_fast.kernels") is None:
        return "geotdm_fast.kernels is not installed (pip install . in the sources, or make venv in a clone)"
    return None


def interpreted() -> bool:
    """Whether Triton interprets its kernels (TRITON_INTERPRET=1 as it was imported): then they take CPU tensors."""
    import triton

    return triton.knobs.runtime.interpret


def why_not(x: Tensor, h: Tensor, params: tuple[Tensor, ...]) -> str | None:
    """Why the Triton kernels do not take these inputs, or None if they do.

    They take float32 or bfloat16 on a CUDA device of compute capability 8.0 or more (on the CPU in Triton's
    interpreter), D = 2 or 3, and one width throughout, up to 256.
    """
    if any(t.dtype not in DTYPES for t in (x, h, *params)):
        return "inputs are not all float32 or bfloat16"
    if x.shape[-1] not in (2, 3):
        return f"D = {x.shape[-1]} is not 2 or 3"
    if not 1 <= h.shape[-1] <= MAX_WIDTH:
        return f"the width {h.shape[-1]} is not in 1..{MAX_WIDTH}"
    return why_not_on(x.device)


@constant_in_graphs
def why_not_on(device: torch.device) -> str | None:
    """Why no Triton kernel runs on this device, or None."""
    if missing():
        return missing()
    if device.type == "cpu":
        return None if interpreted() else "inputs are on cpu, and TRITON_INTERPRET is not 1"
    return why_not_device(device)


def take_search(op: str, x: Tensor, backend: str) -> bool:
    """Whether the Triton kernels search the neighbours of x. Raises ValueError where `backend` triton cannot."""
    if x.device.type == "cpu" and backend != "triton":
        return False
    why_not = why_not_on(x.device)
    if why_not and backend == "triton":
        raise ValueError(f"{op}: backend triton does not take the input: {why_not}")
    return not why_not


@functools.cache
def why_not_device(device: torch.device) -> str | None:
    if device.type != "cuda" or torch.version.hip:
        return f"inputs are on {'hip' if torch.version.hip else device.type}"
    major, minor = torch.cuda.get_device_capability(device)
    return None if major >= 8 else f"compute capability {major}.{minor} is under 8.0"
