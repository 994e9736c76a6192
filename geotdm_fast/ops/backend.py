"""Which implementation of an op runs: chosen here, used by every op, shown by `geotdm doctor`."""

import contextlib
import contextvars
from collections.abc import Iterator
from typing import NamedTuple

import torch

from geotdm_fast.ops import cuda_native, kernels, native, neighbour_search
from geotdm_fast.ops.traced import constant_in_graphs
from geotdm_fast.runtime.checks import is_transformed
from geotdm_fast.runtime.choices import check_choice

BACKENDS = ("auto", "reference", "triton")
# Those with a C++ implementation.
OPS = ("egcl", "temporal_attention")
_current = contextvars.ContextVar("geotdm_fast_backend", default="auto")


@contextlib.contextmanager
def backend(name: str) -> Iterator[None]:
    """Run the block with the implementation `name`: `auto` (the fastest that fits the input), `reference` or `triton`.

    `triton` is `auto`, but for an op that has Triton kernels: that runs them, on the CPU in Triton's interpreter, or
    raises ValueError with the reason why it cannot. The choice follows the context (threads and tasks do not disturb
    one another). Raises ValueError for another name.
    """
    check_choice("backend: name", name, BACKENDS)
    token = _current.set(name)
    try:
        yield
    finally:
        _current.reset(token)


@constant_in_graphs
def current_backend() -> str:
    """What the innermost `backend` block chose, `auto` outside; a graph that `torch.compile` traces keeps it."""
    return _current.get()


def prefers_triton(*tensors: torch.Tensor) -> bool:
    """Whether Triton kernels take these tensors of an op that has a reference for all else: float32 on CUDA, or on the
    CPU in Triton's interpreter where `backend("triton")` asks for it. `torch.compile`, `torch.func` and forward-mode
    differentiation get the reference.
    """
    backend = current_backend()
    asked = backend == "triton" or (backend == "auto" and tensors[0].device.type != "cpu")
    return (
        asked
        and not torch.compiler.is_compiling()
        and not is_transformed()
        and all(tensor.dtype == torch.float32 for tensor in tensors)
        and kernels.why_not_on(tensors[0].device) is None
    )


class OpStatus(NamedTuple):
    """One op, the implementation that `auto` takes on this machine, and why not a faster one."""

    op: str
    active: str
    reason: str


def status() -> list[OpStatus]:
    """What runs for each op on this machine, and why: on the CPU, and on CUDA where there is a device."""
    info = native.build_info()
    if info is None:
        on_cpu = [OpStatus(op, "reference", f"geotdm_fast._C is {native.missing}") for op in OPS]
    else:
        low = info["low_precision_isa"]
        products = low if low != info["isa"] else "in float32, without AMX or AVX512_BF16"
        takes = "float32 and bfloat16 on the CPU, H a multiple of 16 up to 256; other inputs run the reference; "
        takes += f"bfloat16 products: {products}"
        on_cpu = [OpStatus(op, f"cpu ({info['isa']})", takes) for op in OPS]
    on_cpu.append(OpStatus("radius_graph", *neighbour_search.status()))
    if not torch.cuda.is_available():
        return on_cpu
    device = torch.device("cuda", torch.cuda.current_device())
    return [*on_cpu, *_on_cuda(device)]


def _on_cuda(device: torch.device) -> list[OpStatus]:
    why_not = kernels.missing() or kernels.why_not_device(device)
    takes = f"float32 and bfloat16 on CUDA, H up to {kernels.MAX_WIDTH}; other inputs run the reference"
    egcl = OpStatus("egcl", "reference" if why_not else "triton", why_not or takes)
    why_not = kernels.why_not_device(device) or cuda_native.why_not_module(device)
    takes = f"float32 and bfloat16 on CUDA, H up to {cuda_native.MAX_WIDTH}, T up to {cuda_native.MAX_FRAMES}, "
    takes += f"time_emb_dim up to {cuda_native.MAX_TIME_EMB_DIM}; other inputs run the reference"
    return [egcl, OpStatus("temporal_attention", "reference" if why_not else "cuda", why_not or takes)]
