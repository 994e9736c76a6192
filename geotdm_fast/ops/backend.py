"""Which implementation of an op runs: chosen here, used by every op, shown by `geotdm doctor`."""

import contextlib
import contextvars
from collections.abc import Iterator
from typing import NamedTuple

import torch

from geotdm_fast.keys import check_choice
from geotdm_fast.ops import native, neighbour_search

BACKENDS = ("auto", "reference")
# Those with a C++ implementation.
OPS = ("egcl", "temporal_attention")
_current = contextvars.ContextVar("geotdm_fast_backend", default="auto")


@contextlib.contextmanager
def backend(name: str) -> Iterator[None]:
    """Run the block with the implementation `name`: `auto` (the fastest that fits the input) or `reference`.

    The choice follows the context (threads and tasks do not disturb one another). Raises ValueError for another name.
    """
    check_choice("backend: name", name, BACKENDS)
    token = _current.set(name)
    try:
        yield
    finally:
        _current.reset(token)


def current_backend() -> str:
    """The name that the innermost `backend` block chose; `auto` outside.

    While `torch.compile` traces, `reference`: it fuses that, and cannot look into a context variable or sorted edges.
    """
    return "reference" if torch.compiler.is_compiling() else _current.get()


class OpStatus(NamedTuple):
    """One op, the implementation that `auto` takes on this machine, and why not a faster one."""

    op: str
    active: str
    reason: str


def status() -> list[OpStatus]:
    """What runs for each op on the CPU and why; CUDA inputs run the reference (radius graphs: all pairs)."""
    search = OpStatus("radius_graph", *neighbour_search.status())
    info = native.build_info()
    if info is None:
        return [*(OpStatus(op, "reference", f"geotdm_fast._C is {native.missing}") for op in OPS), search]
    low = info["low_precision_isa"]
    products = low if low != info["isa"] else "in float32, without AVX512_BF16"
    takes = "float32 and bfloat16 on the CPU, H a multiple of 16 up to 256; other inputs run the reference; "
    takes += f"bfloat16 products: {products}"
    return [*(OpStatus(op, f"cpu ({info['isa']})", takes) for op in OPS), search]
