"""Which frames the blocks of a rollout are given, draw and keep."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from geotdm_fast.data.trajectory import Batch
from geotdm_fast.runtime.shown import shown
from geotdm_fast.task import Task

# Given positions [N, D, G] and T to features h [N, F, T] of a block.
FeatureFunction = Callable[[Tensor, int], Tensor]
# Displacements of the given frames beyond which a block has exploded.
BOUND = 1000.0
MOST_BLOCKS = 10**6


@dataclass(frozen=True)
class Rollout:
    """A forecast that goes on beyond the window of the model, block by block.

    num_frames: frames to draw behind the given ones
    window, num_given: T and G of the model, whose first G frames are given
    overlap: frames that a block shares with the next one, G ... T - 1. The first G of them are the next block's given
        frames; the others, if there are any, are drawn anew there, and only the next block's are kept.
    bound: a block has exploded where a node is farther from its last given place than `bound` times the largest
        displacement from the first given frame in all graphs of the data (where nothing moves, or G = 1: times the
        largest distance of a node from the centre of its graph); inf: where a position is not finite, alone
    recentres: whether a block is moved to where the first one was, for which the model must be equivariant
    features: makes h of each block after the first of its given frames, which may have been moved as a whole; None: h
        is the data's, in which a time axis belongs to the trajectory

    Block b has the frames b (T - overlap) ... b (T - overlap) + T - 1 of the trajectory.
    Raises ValueError naming the argument.
    """

    num_frames: int
    window: int
    num_given: int
    overlap: int
    bound: float = BOUND
    recentres: bool = True
    features: FeatureFunction | None = None

    @classmethod
    def of(
        cls, task: Task, window: int, num_frames: int, overlap: int | None = None, bound: float = BOUND
    ) -> "Rollout":
        """The rollout of a model of this task and window.

        overlap: default G, so that every frame is drawn once
        Raises ValueError for a task that gives no frames, or others than the first ones.
        """
        given = task.given_frames
        if not given or given != tuple(range(len(given))):
            came = f"one that is given frames {list(map(list, task.given))}" if given else "one that is given none"
            raise ValueError(f"rollout: the model must be given frames at the beginning of its window, got {came}")
        return cls(num_frames, window, len(given), len(given) if overlap is None else overlap, float(bound))

    def __post_init__(self) -> None:
        first, last = self.num_given, self.window - 1
        if type(self.num_frames) is not int or self.num_frames < 1:
            raise ValueError(f"rollout: num_frames must be a whole number of at least 1, got {shown(self.num_frames)}")
        if type(self.overlap) is not int or not first <= self.overlap <= last:
            raise ValueError(
                f"rollout: overlap must be in {first}..{last}, from the model's given frames to all of its "
                f"{self.window} frames but one, got {shown(self.overlap)}"
            )
        if not self.bound > 0:
            raise ValueError(f"rollout: bound must be above 0, got {shown(self.bound)}")
        if self.num_blocks > MOST_BLOCKS:
            raise ValueError(f"rollout: there must be at most {MOST_BLOCKS} blocks, got {shown(self.num_blocks)}")

    @property
    def step(self) -> int:
        """Frames from the beginning of a block to that of the next one."""
        return self.window - self.overlap

    @property
    def num_blocks(self) -> int:
        """How many blocks there are, the last of which may be cut short."""
        beyond_first = self.num_frames - (self.window - self.num_given)
        return 1 + max(0, -(-beyond_first // self.step))

    @property
    def num_drawn(self) -> int:
        """T - G: the frames that a block draws."""
        return self.window - self.num_given

    @property
    def length(self) -> int:
        """Frames of the whole trajectory, given and drawn."""
        return self.num_given + self.num_frames

    def kept(self, block: int) -> int:
        """How many of its first drawn frames a block contributes."""
        return self.step if block < self.num_blocks - 1 else self.num_frames - block * self.step

    def first_batch(self, batch: Batch) -> Batch:
        """The window of block 0: the given frames of `batch`, whose x has at least G, and room for the others.

        Raises ValueError where the data have too few frames.
        """
        if batch.x.shape[-1] < self.num_given:
            raise ValueError(f"rollout: data must have the {self.num_given} given frames, got {batch.x.shape[-1]}")
        self._check_reach(batch)
        return replace(self.fields_of(batch, 0), x=self.with_room(batch.x[..., : self.num_given]))

    def with_room(self, given: Tensor) -> Tensor:
        """[N, D, T]: given frames [N, D, G], and the last of them in the place of the others, which nobody reads."""
        return torch.cat([given, given[..., -1:].expand(-1, -1, self.num_drawn)], dim=-1)

    def fields_of(self, batch: Batch, block: int) -> Batch:
        """`batch`, of which all that changes with the frames is cut to those of a block; not x, nor h that is made.

        Boxes that change are known of the given frames of block 0; all later frames have that of the last of these.
        """
        frames = slice(block * self.step, block * self.step + self.window)
        changes: dict[str, Any] = {}
        for name, axis in self._over_time(batch).items():
            if block == 0 or not self._is_made(name):
                changes[name] = batch[name][(slice(None),) * axis + (frames,)]
        if _has_boxes_that_change(batch):
            changes["cell"] = batch["cell"][:, _up_to(self.num_given, range(frames.start, frames.stop))]
        return replace(batch, **changes)

    def changes_over_time(self, batch: Batch) -> bool:
        """Whether the data say something else of every frame, beside x."""
        return bool(self._over_time(batch)) or _has_boxes_that_change(batch)

    def record(self, batch: Batch) -> Batch:
        """`batch` with the frames that the rollout has: NaN for x where the data end before it, features cut to it.

        Where the data have no more than the given frames there is no target.
        """
        known = batch.x[..., : self.length]
        missing = self.length - known.shape[-1]
        unknown = known.new_full((*known.shape[:-1], missing), float("nan"))
        frames = lambda name: self.window if self._is_made(name) else self.length
        about = {name: batch[name].narrow(axis, 0, frames(name)) for name, axis in self._over_time(batch).items()}
        if _has_boxes_that_change(batch):
            cell = batch["cell"]
            about["cell"] = cell[:, _up_to(cell.shape[1], range(self.length))]
        has_target = batch.has_target and known.shape[-1] > self.num_given
        return replace(batch, x=torch.cat([known, unknown], dim=-1), has_target=has_target, **about)

    def _is_made(self, name: str) -> bool:
        """Whether a field is the data's in block 0 alone, and made of the given frames in the others."""
        return name == "h" and self.features is not None

    def _over_time(self, batch: Batch) -> dict[str, int]:
        """The fields that have an axis of frames, and which axis that is."""
        found = {}
        if batch.h.dim() == 3:
            found["h"] = 2
        if batch.edge_attr is not None and batch.edge_attr.dim() == 3:
            found["edge_attr"] = 2
        return found

    def _check_reach(self, batch: Batch) -> None:
        """ValueError for what changes with the frames and ends before the last block does."""
        for name, axis in self._over_time(batch).items():
            last = 0 if self._is_made(name) else self.num_blocks - 1
            needed = last * self.step + self.window
            if batch[name].shape[axis] < needed:
                raise ValueError(
                    f"rollout: {name} changes from frame to frame and must be known for all {needed} frames of the "
                    f"{self.num_blocks} blocks, got {batch[name].shape[axis]}; give longer data, fewer num_frames"
                    + (", or features, which makes h of the given frames of a block" if name == "h" else "")
                )


def _has_boxes_that_change(batch: Batch) -> bool:
    return batch.cell is not None and batch.cell.shape[1] > 1


def _up_to(num_frames: int, frames: range) -> list[int]:
    """The numbers of frames, of those from `num_frames` on that of the last before."""
    return [min(t, num_frames - 1) for t in frames]
