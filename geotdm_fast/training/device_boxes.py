"""The periodic boxes of a data set in a few tensors on the device, and those of a batch cut out of them."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from geotdm_fast.data.periodic import Boxes
from geotdm_fast.data.windows import Windows
from geotdm_fast.reference import Cell


class DeviceBoxes(NamedTuple):
    """The boxes of all trajectories; tensors are on the device.

    vectors: [M, 3, 3] float32 - of every block's frames, where they change, one after the other
    first: [trajectories] int64 - the row of a trajectory's first frame; step: [trajectories] int64 - 1 where its box
        changes from frame to frame, else 0
    pbc: [trajectories, 3] bool
    frames: [1 or T] int64 - 0 ... T - 1; 0 where no box changes
    """

    vectors: Tensor
    first: Tensor
    step: Tensor
    pbc: Tensor
    frames: Tensor

    @classmethod
    def of(cls, name: str, blocks: Sequence[Windows], device: torch.device) -> "DeviceBoxes | None":
        """Of the blocks of the data set `name`, which all have boxes or none; None for none.

        Raises ValueError as `Cell.of` does, once for all boxes.
        """
        vectors, firsts, steps, flags, begin = [], [], [], [], 0
        for block in blocks:
            if block.boxes is None:
                return None
            own = checked_vectors(name, block.boxes)
            trajectory, start = torch.as_tensor(block.places, dtype=torch.int64).reshape(-1, 2).T
            changes = int(own.shape[1] > 1)
            firsts.append(begin + trajectory * own.shape[1] + changes * start)
            steps.append(torch.full_like(trajectory, changes))
            flags.append(block.boxes.pbc.expand(len(trajectory), 3))
            vectors.append(own.flatten(0, 1))
            begin += len(vectors[-1])
        step = torch.cat(steps)
        span = blocks[0].span if bool(step.any()) else 1
        there = lambda parts: torch.cat(parts).to(device)
        return cls(there(vectors), there(firsts), step.to(device), there(flags), torch.arange(span, device=device))

    @property
    def every(self) -> Cell:
        """All of them, each periodic in the directions in which any trajectory is."""
        return Cell(self.vectors[:, None], self.pbc.any(0).expand(len(self.vectors), 3))

    def batch(self, items: Tensor, turn: Tensor | None) -> tuple[Tensor, Tensor]:
        """cell [B, 1 or T, 3, 3] and pbc [B, 3] of the trajectories `items` [B] int64, as `collate` would have them.

        turn: [B, 3, 3] - x <- turn x, and so every vector. Launches alone, no wait.
        """
        rows = self.first[items][:, None] + self.step[items][:, None] * self.frames
        cell = self.vectors[rows]  # [B, 1 or T, 3, 3]
        return cell if turn is None else cell @ turn[:, None].mT, self.pbc[items]


def checked_vectors(name: str, boxes: Boxes) -> Tensor:
    """The vectors [B, 1 or frames, 3, 3] float32, of one trajectory where all have the same in memory."""
    vectors = boxes.vectors
    return Cell.of(f"DeviceData: {name}", vectors.float().contiguous(), boxes.pbc).vectors
