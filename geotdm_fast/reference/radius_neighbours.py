"""The radius graph as a table of fixed width: what a captured step can hold, whatever the number of edges."""

from typing import NamedTuple

import torch
from torch import Tensor

from geotdm_fast.reference.cell import Cell
from geotdm_fast.reference.cell_search import MOST_BOXES_AWAY, CellSearch
from geotdm_fast.reference.radius_graph import radius_graph


class Neighbours(NamedTuple):
    """The senders of every receiver, all on the device; M rows, the nodes of [N, D] or the node-frames of [N, T, D].

    sender: [M, capacity] int32 - ascending, -1 behind the last; count: [M] int32 - how many of them there are
    needed: [] int32 - the capacity that would do; larger than the table's, some senders are missing
    finite: [] bool - whether every coordinate was finite; one that is not is near to nothing. With a cell also whether
        every position was near enough to the box at the origin
    image: [M, capacity, 3] int8 - the image of each sender, 0 behind the last; None without a cell
    """

    sender: Tensor
    count: Tensor  # type: ignore[assignment]  # hides the tuple's method, which nobody calls
    needed: Tensor
    finite: Tensor
    image: Tensor | None = None

    def check(self) -> None:
        """Raise ValueError if senders are missing, naming the capacity that would do. Waits for the device."""
        capacity = self.sender.shape[1]
        if bool(self.finite & (self.needed <= capacity)):
            return
        if not bool(self.finite):
            away = "" if self.image is None else f", at most {MOST_BOXES_AWAY} boxes away from the one at the origin"
            raise ValueError(f"radius_neighbors: x must be finite{away}")
        raise ValueError(
            f"radius_neighbors: capacity={capacity} is too small for a receiver; {int(self.needed)} would do"
        )

    def edge_index(self) -> Tensor:
        """[2, E] int64, as `radius_graph` returns it. Raises as `check` does; waits for the device."""
        self.check()
        row, place = (self.sender >= 0).nonzero(as_tuple=True)
        return torch.stack([row, self.sender[row, place].long()])

    def edge_image(self) -> Tensor:
        """[E, 3] int8, the image of each edge of `edge_index()`. Raises as `check` does; waits for the device."""
        self.check()
        if self.image is None:
            raise ValueError("radius_neighbors: edge_image must be asked of a search with a cell, got one without")
        return self.image[self.sender >= 0]


def radius_neighbours(
    x: Tensor,
    cutoff: float,
    capacity: int,
    batch: Tensor | None = None,
    loop: bool = False,
    *,
    cell: Tensor | Cell | CellSearch | None = None,
    pbc: Tensor | None = None,
) -> Neighbours:
    """The edges of `radius_graph`, up to `capacity` of each receiver; told at `geotdm_fast.radius_neighbors`."""
    if cell is None:
        return listed(radius_graph(x, cutoff, batch, loop=loop), x, capacity)
    boxes = CellSearch.within("radius_neighbors", cell, cutoff, pbc, batch)
    edge_index, image = radius_graph(x, cutoff, batch, loop=loop, cell=boxes)
    frames = x if x.dim() == 3 else x[:, None]
    moved, _ = boxes.wrapped(frames, boxes.cell.of_nodes(batch, len(x)))
    found = listed(edge_index, x, capacity)
    table = image.new_zeros(*found.sender.shape, 3)
    place = _places(edge_index[0], len(found.count))
    fits = place < capacity
    table[edge_index[0, fits], place[fits]] = image[fits]
    return found._replace(finite=~moved.isnan().any(), image=table)


def listed(edge_index: Tensor, x: Tensor, capacity: int) -> Neighbours:
    """The edges of `radius_graph(x, ...)` as a table."""
    row, col = edge_index
    num_rows = x.shape[:-1].numel()
    degree = torch.bincount(row, minlength=num_rows)
    place = _places(row, num_rows)
    sender = torch.full((num_rows, capacity), -1, dtype=torch.int32, device=x.device)
    fits = place < capacity
    sender[row[fits], place[fits]] = col[fits].int()
    return counted(sender, degree.int(), x)


def _places(row: Tensor, num_rows: int) -> Tensor:
    """[E]: the column of each edge in a table, of receivers that ascend."""
    degree = torch.bincount(row, minlength=num_rows)
    return torch.arange(len(row), device=row.device) - (degree.cumsum(0) - degree)[row]


def counted(sender: Tensor, degree: Tensor, x: Tensor) -> Neighbours:
    """What is known of a table and the number of senders that there are, without waiting for the device."""
    needed = degree.amax() if degree.numel() else degree.sum(dtype=torch.int32)
    return Neighbours(sender, degree.clamp(max=sender.shape[1]), needed, x.isfinite().all())


def counted_images(sender: Tensor, image: Tensor, degree: Tensor) -> Neighbours:
    """The same of a table with images; degree is -1 where a position is near to nothing, whatever is there."""
    needed = degree.amax().clamp(min=0) if degree.numel() else degree.sum(dtype=torch.int32)
    count = degree.clamp(min=0, max=sender.shape[1])
    return Neighbours(sender, count, needed, (degree >= 0).all(), image)
