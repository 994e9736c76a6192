"""Which frames of a trajectory are kept, and where windows may lie in them."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


class TooShort(ValueError):
    """A trajectory has no stretch with room for a window."""


@dataclass(frozen=True)
class Stretches:
    """Frames that are kept, in stretches that no window may leave.

    frames: [T] int64 - their numbers in the file, ascending
    ends: [S] int64 - where each stretch ends: stretch i is frames[ends[i - 1] : ends[i]]
    """

    frames: np.ndarray
    ends: np.ndarray

    @classmethod
    def of(cls, parts: Sequence[Sequence[int]]) -> "Stretches":
        """Of the stretches' frame numbers."""
        numbers = [np.arange(p.start, p.stop, p.step) if isinstance(p, range) else np.asarray(p) for p in parts]
        return cls(np.concatenate(numbers).astype(np.int64, copy=False), np.cumsum([*map(len, parts)]))

    def cut(self, part: range) -> "Stretches":
        """Frames part.start ... part.stop - 1 of these."""
        return Stretches(self.frames[part.start : part.stop], np.clip(self.ends - part.start, 0, len(part)))

    def without(self, places: Sequence[int] | np.ndarray) -> "Stretches":
        """All but the frames at `places`, whose neighbours are joined."""
        kept = np.ones(len(self.frames), dtype=bool)
        kept[places] = False
        return Stretches(self.frames[kept], np.concatenate([[0], np.cumsum(kept)])[self.ends])

    def cut_before(self, places: Sequence[int]) -> "Stretches":
        """The same frames, with a stretch beginning at each of `places`."""
        return Stretches(self.frames, np.union1d(self.ends, np.asarray(places, dtype=np.int64)))

    @property
    def seams(self) -> list[int]:
        """The places whose next frame is of another stretch."""
        inner = np.unique(self.ends)
        return [int(end) - 1 for end in inner if 0 < end < len(self.frames)]

    @property
    def longest(self) -> int:
        return int(np.diff(self.ends, prepend=0).max())

    def starts(self, span: int, stride: int) -> np.ndarray:
        """Where windows of `span` frames begin, `stride` apart, each within a stretch: [M] int64."""
        begins = [0, *self.ends[:-1].tolist()]
        bounds = zip(begins, self.ends.tolist(), strict=True)
        return np.concatenate([np.arange(begin, end - span + 1, stride) for begin, end in bounds])


def written_twice(repeats: np.ndarray) -> tuple[list[int], list[int]]:
    """Of frames that equal an earlier one: those that were written twice, and those from which a run starts anew.

    Frames 50 ... 59 again after frame 59 were written twice: the last of them is the frame that they follow. Frame 0
    again after frame 59 is where another run starts.
    repeats: [T] - the place of the first equal frame, its own where it is the first
    """
    twice: list[int] = []
    anew: list[int] = []
    t = 0
    while t < len(repeats):
        end = t + 1
        if repeats[t] != t:
            while end < len(repeats) and repeats[end] != end and repeats[end] == repeats[end - 1] + 1:
                end += 1
            if repeats[end - 1] == repeats[t - 1]:
                twice += range(t, end)
            else:
                anew.append(t)
        t = end
    return twice, anew
