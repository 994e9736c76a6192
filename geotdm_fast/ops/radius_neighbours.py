"""The radius graph at fixed capacity: `geotdm_fast.reference.radius_neighbours` by the fastest implementation."""

import numbers

from torch import Tensor

from geotdm_fast import reference
from geotdm_fast.ops import kernels, neighbour_search
from geotdm_fast.ops.backend import current_backend
from geotdm_fast.ops.radius_checks import check_search
from geotdm_fast.ops.radius_graph import radius_graph
from geotdm_fast.reference import Neighbours
from geotdm_fast.reference.radius_neighbours import counted, listed

_WHERE = "radius_neighbors"


def radius_neighbors(
    x: Tensor,
    cutoff: float,
    capacity: int,
    batch: Tensor | None = None,
    loop: bool = False,
    max_num_nodes: int | None = None,
) -> Neighbours:
    """The radius graph as a table [M, capacity], whose shape does not depend on the positions.

        sender[i] = { j : |x_i - x_j| <= cutoff and (i != j or loop) }, ascending, then -1

    x, cutoff, batch, loop: as for `geotdm_fast.radius_graph`; every edge is the same
    capacity: the most senders of a receiver, its loop included
    max_num_nodes: the most nodes of a graph, if known: graphs of a thousand and more are searched by cells on CUDA
    Returns `Neighbours(sender, count, needed, finite)`: `.check()` raises where the capacity was too small, naming the
    one that would do, `.edge_index()` gives what `radius_graph` does.

    On CUDA, by Triton kernels, nothing waits for the device, so a CUDA graph may capture it and `.check()` is called
    once after all replays; a coordinate that is not finite is told there too. The compiled module on the CPU does the
    same. Without both such a coordinate raises at once. Deterministic, also in which senders are there when some are
    missing. No gradient, the result being indices.
    Raises ValueError/TypeError for wrong shapes, dtypes, devices, cutoff and numbers.
    """
    check_search(_WHERE, x, cutoff, batch, loop)
    _check_number("capacity", capacity, 0)
    if max_num_nodes is not None:
        _check_number("max_num_nodes", max_num_nodes, 1)
    if current_backend() == "reference":
        return reference.radius_neighbours(x, cutoff, capacity, batch, loop)
    if kernels.take_search(_WHERE, x, current_backend()):
        from geotdm_fast.kernels.radius_graph_launch import radius_table

        frames = x if x.dim() == 3 else x[:, None]
        sender, degree = radius_table(frames, cutoff, capacity, batch, loop, max_num_nodes)
        return counted(sender, degree, x)
    if neighbour_search.is_compiled(x):
        return counted(*neighbour_search.compiled_table(x, cutoff, capacity, batch, loop), x)
    return listed(radius_graph(x, cutoff, batch, loop=loop), x, capacity)


# The name of before, kept.
radius_neighbours = radius_neighbors


def _check_number(name: str, value: int, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise TypeError(f"{_WHERE}: {name} must be a whole number, got {value!r}")
    if value < least:
        raise ValueError(f"{_WHERE}: {name} must be at least {least}, got {value}")
