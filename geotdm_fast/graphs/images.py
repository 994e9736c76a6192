"""Which image of its sender each edge of a graph is from, in periodic boxes."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from geotdm_fast.reference import Cell
from geotdm_fast.runtime.checks import check_tensor, is_transformed
from geotdm_fast.runtime.copies import to_device


class EdgeImages(NamedTuple):
    """The images of the edges of a graph; see `geotdm_fast.reference.Cell`.

    number: [E, 3] int8 - n, in the order of edge_index; 0 at places without an edge
    cell: the boxes; batch: [N] int64 - the graph of each node, which need not be there where they share one box
    """

    number: Tensor
    cell: Cell
    batch: Tensor | None

    @property
    def num_frames(self) -> int:
        """1, or T where boxes change from frame to frame."""
        return self.cell.vectors.shape[1]

    @property
    def last(self) -> bool:
        """Whether what is made of the boxes may be held: it leads back to nothing that wants a gradient."""
        return not (self.cell.vectors.requires_grad or torch.compiler.is_compiling() or is_transformed())

    def checked(self, where: str, num_edges: int, num_nodes: int, num_frames: int | None) -> "EdgeImages":
        """The same; TypeError / ValueError unless they are of so many edges, nodes and frames (None: any)."""
        check_tensor(where, "images.number", self.number, (num_edges, 3))
        if self.number.dtype != torch.int8:
            raise TypeError(f"{where}: images.number must be int8, got {self.number.dtype}")
        if self.batch is not None:
            check_tensor(where, "images.batch", self.batch, (num_nodes,), integer=True)
        num_graphs = 1 if self.batch is None else None
        return self._replace(cell=Cell.of(where, self.cell, num_graphs=num_graphs, num_frames=num_frames))

    def to(self, device: torch.device) -> "EdgeImages":
        batch = None if self.batch is None else to_device(self.batch, device)
        cell = Cell(to_device(self.cell.vectors, device), to_device(self.cell.pbc, device))
        return EdgeImages(to_device(self.number, device), cell, batch)

    def at_frames(self, frames: Sequence[int]) -> "EdgeImages":
        """With the boxes of these frames alone, where they change."""
        return self._replace(cell=self.cell.at_frames(frames))

    def shift(self, receiver: Tensor, num_nodes: int, num_frames: int, *, by_row: bool) -> Tensor:
        """n C of every edge: [E, 3], or [E, T, 3] where the same edges are in boxes that change from frame to frame.

        receiver: [E] int64 - the node of each edge, or where `by_row` the row i T + t
        """
        number, cell, batch = self
        if cell.vectors.shape[:2] == (1, 1):
            return cell.shift(number, None)
        box = cell.of_nodes(batch, num_nodes)
        if by_row:
            return cell.shift(number, box[receiver // num_frames], receiver % num_frames)
        if self.num_frames == 1:
            return cell.shift(number, box[receiver])
        frame = torch.arange(num_frames, device=number.device)
        every = lambda value: value.repeat_interleave(num_frames, dim=0, output_size=len(number) * num_frames)
        shift = cell.shift(every(number), every(box[receiver]), frame.repeat(len(number)))
        return shift.unflatten(0, (len(number), num_frames))
