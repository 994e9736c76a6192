"""The motion of chosen atoms out of a file: checked, followed across its box, a block at a time."""

import warnings
from collections.abc import Iterator

import numpy as np

from geotdm_fast.data.molecule_files.boxes import follow, periodic_cell, whole
from geotdm_fast.data.molecule_files.contents import Frames, Source, readable
from geotdm_fast.data.molecule_files.following import Follower
from geotdm_fast.data.molecule_files.plan import Plan
from geotdm_fast.data.npy import StoredArray

# XTC holds no more than 2147483.75 nm and writes that for what is more.
_TOO_FAR = 2.1e7
# Frames of a restarted run agree with those that they replace to so many angstrom.
_SAME = 0.1


class Motion(StoredArray):
    """The motion of the chosen `atoms` in the frames of a plan, [T, N, 3], read when asked for its blocks.

    first: [N, 3] - their positions in the first frame; unwrap: whether to follow them where the file has a box
    """

    def __init__(self, where: str, source: Source, atoms: np.ndarray, plan: Plan, unwrap: bool, progress: bool = False):
        self._progress = progress
        self._where, self._source, self._atoms, self._plan = where, source, atoms, plan
        frames = next(self._read(atoms, plan.in_order[:1]))
        self.first = frames.x[0].astype(np.float64)
        self._box = periodic_cell(frames.cells, source.pbc) if unwrap and frames.cells is not None else None
        self.shape, self.dtype = (len(plan.wanted), len(atoms), 3), frames.x.dtype

    def make_whole(self, bonds: np.ndarray | None, radii: np.ndarray | None) -> None:
        """Put the bonded atoms of the first frame beside each other, of all atoms of the file, see `boxes.whole`."""
        if self._box is None:
            return
        (cell,), pbc = self._box
        everything = next(self._read(np.arange(self._source.num_atoms), self._plan.in_order[:1])).x[0]
        images, broken = whole(everything.astype(np.float64), cell, pbc, bonds, radii)
        images = images[self._atoms]
        self.first = self.first + images @ cell
        moved = int((images != 0).any(axis=1).sum())
        if moved:
            self._warn(
                f"molecules cut by the box are made whole in the first frame: {moved} of {len(images)} atoms moved"
            )
        if broken:
            self._warn(
                f"{broken} bonds leave the box at one side and enter it at the other: such a molecule has no end, and "
                "these bonds stay long"
            )

    def first_row(self) -> np.ndarray:
        return self.first

    def blocks(self) -> Iterator[tuple[int, np.ndarray]]:
        """The wanted frames, some at a time: the place of the first of them, and their positions [T, N, 3]."""
        from geotdm_fast.runtime.bars import progress_bar

        self._check_again()
        wanted, numbers, follower = self._plan.wanted, self._plan.wanted, None
        if self._box is not None:  # every frame up to the last tells where the atoms went
            numbers = self._plan.in_order[: np.searchsorted(self._plan.in_order, wanted[-1]) + 1]
            follower = Follower(self.first, self._box[0][0], self._box[1], self._atoms)
        begin, about = 0, f"reading {self._where.split()[-1]}"
        with progress_bar(total=len(wanted), desc=about, unit=" frames", disable=not self._progress) as bar:
            for frames in self._read(self._atoms, numbers):
                try:
                    x = frames.x if follower is None else follower.follow(frames)
                except ValueError as error:
                    raise ValueError(f"{self._where}: {error}") from None
                here = np.isin(frames.numbers, wanted, assume_unique=True)
                if here.any():
                    yield begin, x[here]
                begin += int(here.sum())
                bar.update(int(here.sum()))
        for text in [] if follower is None else follower.report():
            self._warn(text)

    def _check_again(self) -> None:
        """Raise where a run that begins again does not begin where the earlier one was."""
        for old, new in self._plan.again:
            pair = self._read(self._atoms, np.array([old, new]))
            x = np.concatenate([frames.x for frames in pair]).astype(np.float64)
            if self._box is not None:
                cell, pbc = self._box
                cell = np.repeat(cell, 2, axis=0)
                x = x + follow(x, cell, pbc) @ cell
            apart = float(np.linalg.norm(x[1] - x[0], axis=-1).max())
            if apart > _SAME:
                raise ValueError(
                    f"{self._where}: frames {old} and {new} have the same time and must agree, as where a run is "
                    f"restarted, but an atom is {apart:.3g} angstrom apart: two trajectories in one file. Read each by "
                    f"itself: frames: [{self._plan.in_order[0]}, {new}] and frames: [{new}, null]"
                )

    def _read(self, atoms: np.ndarray, numbers: np.ndarray) -> Iterator[Frames]:
        """The frames `numbers`, checked; whatever a reader raises for a broken file is a ValueError that names it."""
        chunks, arrived = self._source.read(atoms, numbers), 0
        while True:
            try:
                frames = next(chunks, None)
            except Exception as error:  # readers raise anything for a broken file
                raise readable(self._where, error) from error
            if frames is None:
                if arrived < len(numbers):
                    raise ValueError(f"{self._where} must have its frames to the end, got {arrived} of {len(numbers)}")
                return
            arrived += len(frames.numbers)
            self._check(atoms, frames)
            yield frames

    def _check(self, atoms: np.ndarray, frames: Frames) -> None:
        held = np.abs(frames.x) < _TOO_FAR  # NaN is not
        if not held.all():
            t, i, k = np.argwhere(~held)[0]
            raise ValueError(
                f"{self._where}: positions must be finite and below {_TOO_FAR:g} angstrom, got {frames.x[t, i, k]:g} "
                f"for atom {atoms[i]} in frame {frames.numbers[t]}"
            )

    def _warn(self, text: str) -> None:
        warnings.warn(f"{self._where}: {text}", stacklevel=5)
