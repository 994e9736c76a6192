"""The radius graph as a table of fixed width: what a captured step can hold, whatever the number of edges."""

from typing import NamedTuple

import torch
from torch import Tensor

from geotdm_fast.reference.radius_graph import radius_graph


class Neighbours(NamedTuple):
    """The senders of every receiver, all on the device; M rows, the nodes of [N, D] or the node-frames of [N, T, D].

    sender: [M, capacity] int32 - ascending, -1 behind the last; count: [M] int32 - how many of them there are
    needed: [] int32 - the capacity that would do; larger than the table's, some senders are missing
    finite: [] bool - whether every coordinate was finite; one that is not is near to nothing
    """

    sender: Tensor
    count: Tensor  # type: ignore[assignment]  # hides the tuple's method, which nobody calls
    needed: Tensor
    finite: Tensor

    def check(self) -> None:
        """Raise ValueError if senders are missing, naming the capacity that would do. Waits for the device."""
        capacity = self.sender.shape[1]
        if bool(self.finite & (self.needed <= capacity)):
            return
        if not bool(self.finite):
            raise ValueError("radius_neighbors: x must be finite")
        raise ValueError(
            f"radius_neighbors: capacity={capacity} is too small for a receiver; {int(self.needed)} would do"
        )

    def edge_index(self) -> Tensor:
        """[2, E] int64, as `radius_graph` returns it. Raises as `check` does; waits for the device."""
        self.check()
        row, place = (self.sender >= 0).nonzero(as_tuple=True)
        return torch.stack([row, self.sender[row, place].long()])


def radius_neighbours(
    x: Tensor, cutoff: float, capacity: int, batch: Tensor | None = None, loop: bool = False
) -> Neighbours:
    """The edges of `radius_graph`, up to `capacity` of each receiver; told at `geotdm_fast.radius_neighbors`."""
    return listed(radius_graph(x, cutoff, batch, loop=loop), x, capacity)


def listed(edge_index: Tensor, x: Tensor, capacity: int) -> Neighbours:
    """The edges of `radius_graph(x, ...)` as a table."""
    row, col = edge_index
    num_rows = x.shape[:-1].numel()
    degree = torch.bincount(row, minlength=num_rows)
    place = torch.arange(len(row), device=row.device) - (degree.cumsum(0) - degree)[row]
    sender = torch.full((num_rows, capacity), -1, dtype=torch.int32, device=x.device)
    fits = place < capacity
    sender[row[fits], place[fits]] = col[fits].int()
    return counted(sender, degree.int(), x)


def counted(sender: Tensor, degree: Tensor, x: Tensor) -> Neighbours:
    """What is known of a table and the number of senders that there are, without waiting for the device."""
    needed = degree.amax() if degree.numel() else degree.sum(dtype=torch.int32)
    return Neighbours(sender, degree.clamp(max=sender.shape[1]), needed, x.isfinite().all())
