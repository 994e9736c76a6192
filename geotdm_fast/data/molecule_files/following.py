"""Atoms that jump across a periodic box, followed chunk by chunk."""

from typing import NamedTuple

import numpy as np

from geotdm_fast.data.molecule_files.boxes import checked_cell, follow, heights, periodic_cell
from geotdm_fast.data.molecule_files.contents import Frames
from geotdm_fast.data.molecule_files.plan import Part

# A step by more than this part of half of the box may belong to another image.
_DOUBTFUL = 0.8
# How the box is passed over where `unwrap` and `box` are arguments of a function or keys of a data section.
WITHOUT_BOX = "unwrap: no takes positions as they are, and box: no leaves the box out"


class Follower:
    """Follows atoms from frame to frame, and counts what it mends.

    pbc: [3] bool - the periodic directions; atoms: [N] - the atoms' numbers in the file, for messages
    """

    def __init__(self, pbc: np.ndarray, atoms: np.ndarray):
        self._pbc, self._atoms = pbc, atoms
        self.jumps, self._first_jump = 0, ""
        self._longest, self._longest_part = 0.0, 0.0

    def begin(self, first: np.ndarray, cell: np.ndarray) -> None:
        """Follow from the positions `first` [N, 3] in the cell [3, 3] of their frame."""
        self._fractional = first @ np.linalg.inv(cell)  # of the last frame, as followed
        self._images = None

    def follow(self, frames: Frames, cell: np.ndarray) -> np.ndarray:
        """The positions of a chunk, [T, N, 3] float64, followed; cell: [T, 3, 3], see `box_of`."""
        x = frames.x.astype(np.float64)
        images = follow(x, cell, self._pbc, self._fractional)
        self._count(frames.numbers, images)
        x += images @ cell
        s = x @ np.linalg.inv(cell)
        self._measure(s, cell)
        self._fractional, self._images = s[-1], images[-1]
        return x

    def _count(self, numbers: np.ndarray, images: np.ndarray) -> None:
        jumps = np.diff(images, axis=0, prepend=images[:1] if self._images is None else self._images[None]).any(axis=-1)
        if jumps.any() and not self.jumps:
            frame, atom = np.argwhere(jumps)[0]
            self._first_jump = f"atom {self._atoms[atom]} at frame {numbers[frame]}"
        self.jumps += int(jumps.sum())

    def _measure(self, s: np.ndarray, cell: np.ndarray) -> None:
        """Steps of fractional coordinates [T, N, 3]: how far a box that changes carries a far image is no step."""
        steps = np.linalg.norm(np.diff(s, axis=0, prepend=self._fractional[None]) @ cell, axis=-1).max(axis=1)
        part = steps / (heights(cell)[:, self._pbc].min(axis=1) / 2)
        worst = int(part.argmax())
        if part[worst] > self._longest_part:
            self._longest, self._longest_part = float(steps[worst]), float(part[worst])

    def report(self, without_box: str) -> list[str]:
        """What is to be said when all frames are read; without_box: how the caller passes over the box."""
        said = []
        if self.jumps:
            said.append(
                f"{self.jumps} jumps across the box were mended, the first of {self._first_jump}; {without_box}"
            )
        if self._longest_part > _DOUBTFUL:
            said.append(
                f"a step of {self._longest:.3g} angstrom between frames is {self._longest_part:.0%} of half of the "
                "box: which way the atom went is in doubt; frames closer in time would tell"
            )
        return said


class Followed(NamedTuple):
    """What a follower has followed, [M] frames of the file, and of what atoms, bonds and radii (key)."""

    key: tuple
    follower: Follower
    frames: np.ndarray

    def goes_on_to(self, part: Part) -> bool:
        """Whether the wanted frames of a stretch come later in the stretch that was followed."""
        begun = part.in_order[: len(self.frames)]
        return bool(self.frames[-1] < part.wanted[0]) and np.array_equal(self.frames, begun)


def box_of(frames: Frames, pbc: np.ndarray) -> np.ndarray:
    """The cells [T, 3, 3], periodic in the directions `pbc`. ValueError where a frame has no such box."""
    box = None if frames.cells is None else periodic_cell(frames.cells, pbc)
    if box is None or not np.array_equal(box[1], pbc):
        raise ValueError(
            f"every frame must have a box, as the first has; got none in frames {frames.numbers[0]} to "
            f"{frames.numbers[-1]}"
        )
    return box[0]


def first_box(frames: Frames, pbc: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """The cell [1, 3, 3] of the first frame and its periodic directions; None where it has no box.

    Raises ValueError as `checked_cell` does.
    """
    box = None if frames.cells is None else checked_cell(frames.cells[0], pbc, f"in frame {frames.numbers[0]}")
    return None if box is None else (box[0][None], box[1])
