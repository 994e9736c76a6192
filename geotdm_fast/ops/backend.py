"""Which implementation of an op runs: chosen here, used by every op, shown by `geotdm doctor`."""

import contextlib
import contextvars
from collections.abc import Callable, Iterator
from typing import NamedTuple

from geotdm_fast import reference
from geotdm_fast.keys import check_choice

BACKENDS = ("auto", "reference")
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


class OpStatus(NamedTuple):
    """One op, the implementation that `auto` takes on this machine, and why not a faster one."""

    op: str
    active: str
    reason: str


# The fused kernels register here as they come; until then `auto` has one candidate for each op.
_IMPLEMENTATIONS: dict[str, Callable] = {
    "egcl": reference.egcl,
    "temporal_attention": reference.temporal_attention,
}


def implementation(op: str) -> Callable:
    """The function that computes `op` under the current backend."""
    return _IMPLEMENTATIONS[op]


def status() -> list[OpStatus]:
    """What runs for each op and why."""
    return [OpStatus(op, "reference", "no fused kernel in this version") for op in _IMPLEMENTATIONS]
