"""The compiled CUDA module, `geotdm_fast/_C_cuda*.so`: whether it runs here, and which inputs its kernels take.

Nothing is looked for before a CUDA tensor comes or `geotdm doctor` asks.
"""

import functools
import re
import warnings
from pathlib import Path
from typing import NamedTuple, cast

import torch
from torch import Tensor

import geotdm_fast
from geotdm_fast.ops import kernels, native
from geotdm_fast.ops.module import INSTALL
from geotdm_fast.ops.traced import constant_in_graphs

MAX_WIDTH, MAX_TIME_EMB_DIM, MAX_FRAMES = 256, 33, 4096  # those of csrc/cuda/temporal_attention.h
# Above this width float32 and tf32 need more shared memory than a block has on GPUs of capability 8.6, 8.9 and 12.0.
NARROW, WIDE_BYTES = 128, 141 * 1024
# What the module implements; _C defines them.
OPS = ("temporal_attention_forward", "temporal_attention_backward")
HOW = f"with nvcc beside torch, ninja and a C++ compiler: {INSTALL}"
# The stable ABI that the module is compiled against.
OLDEST_TORCH = (2, 10)


class Built(NamedTuple):
    """A module that fits this version of the package: its file, the CUDA of its compiler, and for which GPUs it is."""

    path: Path
    cuda: str
    architectures: str  # as in TORCH_CUDA_ARCH_LIST


def why_not(x: Tensor, h: Tensor, params: tuple[Tensor, ...], products: str = "fp32") -> str | None:
    """Why the CUDA kernels do not take these inputs of temporal_attention, or None if they do.

    products: the precision of the factors

    They take float32 or bfloat16, D = 2 or 3, widths up to 256, one throughout, time embeddings up to 33 wide and up
    to 4096 frames, on a GPU of compute capability 8.0 or more for which the module was built.
    """
    num_frames, width = h.shape[1:]
    if any(t.dtype not in native.DTYPES for t in (x, h, *params)):
        return "inputs are not all float32 or bfloat16"
    if x.shape[-1] not in (2, 3):
        return f"D = {x.shape[-1]} is not 2 or 3"
    sizes = {"width": (width, MAX_WIDTH), "time_emb_dim": (params[-2].shape[1], MAX_TIME_EMB_DIM)}
    sizes["number of frames"] = (num_frames, MAX_FRAMES)
    for name, (size, most) in sizes.items():
        if not 1 <= size <= most:
            return f"the {name} {size} is not in 1..{most}"
    reason = why_not_on(x.device)
    if reason is None and width > NARROW and products != "bf16" and shared_memory(x.device) < WIDE_BYTES:
        return f"the GPU has too little shared memory for the width {width} in {products}"
    return reason


@constant_in_graphs
def shared_memory(device: torch.device) -> int:
    """The bytes that a block may have."""
    return torch.cuda.get_device_properties(device).shared_memory_per_block_optin  # type: ignore[attr-defined]  # not in torch's stub


@constant_in_graphs
def why_not_on(device: torch.device) -> str | None:
    """Why the CUDA kernels do not run on this device, or None. A user whose GPU could run them is warned, once."""
    hardware = kernels.why_not_device(device)
    if hardware is not None:
        return hardware
    reason = why_not_module(device)
    if reason is not None:
        _warn(reason)
    return reason


def why_not_module(device: torch.device) -> str | None:
    """Why the module does not run on this GPU, or None; without a warning."""
    wrong = missing() or why_not_built_for(torch.cuda.get_device_capability(device), cast(Built, found()).architectures)
    return None if wrong is None else f"geotdm_fast._C_cuda is {wrong}"


@functools.cache
def _warn(reason: str) -> None:
    text = f"{reason}. temporal_attention on CUDA runs the reference, which is slower."
    warnings.warn(text, RuntimeWarning, stacklevel=6)


@functools.cache
def found() -> Built | str:
    """The module beside this package, not loaded yet; or what is wrong with it."""
    return find(Path(geotdm_fast.__path__[0]))


@functools.cache
def missing() -> str | None:
    """Why the module does not run in this process, or None; it is loaded here."""
    built = found()
    return built if isinstance(built, str) else load(built.path)


def find(folder: Path) -> Built | str:
    """The module in `folder` without loading it, or what is wrong with it.

    The file says what it is: functions for other schemas than those of `_C` would read what they are not given.
    """
    files = sorted(folder.glob("_C_cuda*.so"))
    if not files:
        return f"not built ({HOW})"
    if len(files) > 1:
        return f"there more than once: {', '.join(file.name for file in files)} in {folder}"
    if native._C is None:
        return f"of no use without geotdm_fast._C, which defines its ops and is {native.missing}"
    content = files[0].read_bytes()
    marker = re.search(rb"geotdm_fast\._C_cuda built with CUDA ([\d.]+) for ([\w.+ ;,]+)", content)
    if marker is None:
        return f"not a module of geotdm_fast: {files[0]}"
    if not all(schema.encode() in content for schema in _schemas()):
        return f"built for another version of geotdm_fast (anew, {HOW})"
    return Built(files[0], marker[1].decode(), marker[2].decode().strip())


def load(path: Path) -> str | None:
    """Register the kernels of a module that `find` has found; what is wrong, or None."""
    release = tuple(map(int, cast("re.Match[str]", re.match(r"(\d+)\.(\d+)", torch.__version__)).groups()))
    if release < OLDEST_TORCH:
        return f"for torch {'.'.join(map(str, OLDEST_TORCH))} or newer, and this is {torch.__version__}"
    try:
        torch.ops.load_library(path)
    except OSError as error:
        return f"not loading: {error.__cause__ or error}"  # torch says no more than the file
    lacking = [op for op in OPS if not torch._C._dispatch_has_kernel_for_dispatch_key(f"geotdm_fast::{op}", "CUDA")]
    return f"without kernels for {', '.join(lacking)}" if lacking else None


def why_not_built_for(capability: tuple[int, int], architectures: str) -> str | None:
    """Why code for `architectures` does not run on a GPU of this compute capability, or None.

    Code for 8.0 runs on 8.x from there on, 9.0a on 9.0 alone, 10.0f on 10.x, and 8.0+PTX on all that are newer.
    """
    for major, minor, kind, ptx in re.findall(r"(\d+)\.(\d)([af]?)(\+PTX)?", architectures):
        built = int(major), int(minor)
        same_family = built[0] == capability[0] and built <= capability and kind != "a"
        newer = ptx and not kind and built <= capability
        if built == capability or same_family or newer:
            return None
    return f"built for compute capability {architectures}, and this GPU has {capability[0]}.{capability[1]}"


def _schemas() -> list[str]:
    """What `_C` defines, as csrc/temporal_schemas.h spells it."""
    return [str(getattr(torch.ops.geotdm_fast, op).default._schema).removeprefix("geotdm_fast::") for op in OPS]
