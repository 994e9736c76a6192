"""Frames of a file into one array: which, in what order, and across which boxes."""

import warnings
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from geotdm_fast.data.frames import frame_slice
from geotdm_fast.data.molecule_files.boxes import follow, heights, periodic_cell, whole
from geotdm_fast.data.molecule_files.contents import Frames, Source
from geotdm_fast.data.molecule_files.times import check_spacing, frames_in_time
from geotdm_fast.data.splits import split_range

# XTC holds no more than 2147483.75 nm and writes that for what is more.
_TOO_FAR = 2.1e7
# Beyond so many angstrom positions stay float64, so that an origin can be subtracted before they are rounded.
_ROUNDED = 1e3
# Frames of a restarted run agree with those that they replace to so many angstrom.
_SAME = 0.1
# A step by more than this part of half of the box may belong to another image.
_DOUBTFUL = 0.8


def readable(where: str, error: Exception) -> ValueError:
    """What a reader raised, as a ValueError that names the file."""
    path = where.removeprefix("file_dataset: ")
    if isinstance(error, ValueError) and path in str(error):
        return ValueError(f"file_dataset: {str(error).removeprefix('file_dataset: ')}")
    return ValueError(f"{where} must be readable, got {type(error).__name__}: {error}")


class Plan(NamedTuple):
    """in_order: the frames of the file that follow each other; wanted: those that are kept; again: frames that two runs
    share, as (old, new)."""

    in_order: np.ndarray
    wanted: np.ndarray
    again: list[tuple[int, int]]


def plan_frames(
    where: str,
    source: Source,
    frames: Sequence | str | None,
    every: int | None,
    split: str | None,
    ratio: Sequence[float],
) -> Plan:
    """Which frames to read: of `frames` those with positions, each once, then every n-th, then those of the split."""
    chosen = frame_slice(where, frames, every, source.num_frames)
    numbers = np.arange(chosen.start, chosen.stop)
    if source.has_positions is not None and not source.has_positions[numbers].all():
        total, numbers = len(numbers), numbers[source.has_positions[numbers]]
        warnings.warn(
            f"{where}: {total - len(numbers)} of {total} frames hold no positions and are left out", stacklevel=3
        )
        if len(numbers) == 0:
            raise ValueError(f"{where} must have frames with positions, got none")
    numbers, again = frames_in_time(where, source.times, numbers)
    kept = numbers[:: chosen.step]
    check_spacing(where, source.times, kept)
    part = range(len(kept)) if split is None else split_range(where, len(kept), split, ratio)
    return Plan(numbers, kept[part.start : part.stop], again)


class Motion:
    """The motion of chosen `atoms`, read once: `first` [N, 3], the first frame, whole; `keep` for the wanted frames."""

    def __init__(self, where: str, source: Source, atoms: np.ndarray, plan: Plan, unwrap: bool):
        self._where, self._source, self._atoms, self._plan = where, source, atoms, plan
        frames = next(self._read(plan.in_order[:1]))
        self.first = frames.x[0].astype(np.float64)
        self._box = periodic_cell(frames.cells, source.pbc) if unwrap and frames.cells is not None else None
        self._float64 = frames.x.dtype == np.float64 and np.abs(frames.x).max() > _ROUNDED
        self._jumps, self._where_first, self._doubtful = 0, "", (0.0, 0.0)

    @property
    def has_box(self) -> bool:
        return self._box is not None

    def make_whole(self, bonds: np.ndarray | None, reach: float) -> None:
        """Put the bonded atoms of the first frame beside each other; see `boxes.whole`."""
        if self._box is None:
            return
        (cell,), pbc = self._box
        images, broken = whole(self.first, cell, pbc, bonds, reach)
        self.first = self.first + images @ cell
        moved = int((images != 0).any(axis=1).sum())
        if moved:
            self._warn(
                f"molecules cut by the box are made whole in the first frame: {moved} of {len(images)} atoms moved"
            )
        if broken:
            self._warn(f"{broken} bonds run through the box and out at its other side: the molecule has no end, and "
                       "these bonds stay long")  # fmt: skip

    def keep(self) -> np.ndarray:
        """The wanted frames, [T, N, 3] as a view of [N, 3, T], which needs no copy later."""
        shape = (len(self._atoms), 3, len(self._plan.wanted))
        store = np.empty(shape, np.float64 if self._float64 else np.float32)
        for begin, x in self.blocks():
            store[:, :, begin : begin + len(x)] = x.transpose(1, 2, 0)
        return store.transpose(2, 0, 1)

    def blocks(self) -> Iterator[tuple[int, np.ndarray]]:
        """The wanted frames, some at a time: the place of the first of them, and their positions [T, N, 3]."""
        self._check_again()
        wanted, numbers = self._plan.wanted, self._plan.wanted
        if self._box is not None:  # every frame up to the last tells where the atoms went
            numbers = self._plan.in_order[: np.searchsorted(self._plan.in_order, wanted[-1]) + 1]
        before = done = None
        begin = 0
        for frames in self._read(numbers):
            x = frames.x
            if self._box is not None:
                x, before, done = self._unwrapped(frames, before, done)
            here = np.isin(frames.numbers, wanted, assume_unique=True)
            if here.any():
                yield begin, x[here]
            begin += int(here.sum())
        self._report()

    def _unwrapped(self, frames: Frames, before: np.ndarray | None, done: np.ndarray | None) -> tuple:
        """Positions of a chunk, followed; fractional coordinates and images of its last frame, as followed."""
        box = None if frames.cells is None else periodic_cell(frames.cells, self._source.pbc)
        if box is None:
            raise ValueError(
                f"{self._where}: every frame must have a box, as the first has; got none in frames {frames.numbers[0]} "
                f"to {frames.numbers[-1]}; unwrap: no takes positions as they are"
            )
        cell, pbc = box
        x = frames.x.astype(np.float64)
        if before is None:
            before = self.first @ np.linalg.inv(self._box[0][0])
        images = follow(x, cell, pbc, before)
        moves = np.diff(images, axis=0, prepend=images[:1] if done is None else done[None]).any(axis=-1)
        if moves.any() and not self._jumps:
            frame, atom = np.argwhere(moves)[0]
            self._where_first = f"atom {self._atoms[atom]} at frame {frames.numbers[frame]}"
        self._jumps += int(moves.sum())
        x = x + images @ cell
        steps = np.linalg.norm(np.diff(x, axis=0), axis=-1)
        if steps.size:
            half = heights(cell)[1:, pbc].min(axis=1) / 2
            part = steps.max(axis=1) / half
            worst = int(part.argmax())
            self._doubtful = max(self._doubtful, (float(part[worst]), float(steps[worst].max())))
        return x, (x[-1:] @ np.linalg.inv(cell[-1:]))[0], images[-1]

    def _report(self) -> None:
        if self._jumps:
            self._warn(
                f"{self._jumps} jumps across the box were mended, the first of {self._where_first}; unwrap: no takes "
                "positions as they are"
            )
        if self._doubtful[0] > _DOUBTFUL:
            self._warn(
                f"a step of {self._doubtful[1]:.3g} angstrom between frames is {self._doubtful[0]:.0%} of half of the "
                "box: which way the atom went is in doubt; frames closer in time would tell"
            )

    def _check_again(self) -> None:
        """Raise where a run that begins again does not begin where the earlier one was."""
        for old, new in self._plan.again:
            x = np.concatenate([frames.x for frames in self._read(np.array([old, new]))]).astype(np.float64)
            if self._box is not None:
                (cell,), pbc = self._box
                x = x + follow(x, np.stack([cell, cell]), pbc) @ cell
            apart = float(np.linalg.norm(x[1] - x[0], axis=-1).max())
            if apart > _SAME:
                raise ValueError(
                    f"{self._where}: frames {old} and {new} have the same time and must agree, as where a run is "
                    f"restarted, but an atom is {apart:.3g} angstrom apart: two trajectories in one file. Read each by "
                    f"itself: frames: [{self._plan.in_order[0]}, {new}] and frames: [{new}, null]"
                )

    def _read(self, numbers: np.ndarray) -> Iterator[Frames]:
        """The frames `numbers`, checked; whatever a reader raises for a broken file is a ValueError that names it."""
        chunks, arrived = self._source.read(self._atoms, numbers), 0
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
            if not (np.abs(frames.x) < _TOO_FAR).all():  # NaN is not less either
                t, i, k = np.argwhere(~(np.abs(frames.x) < _TOO_FAR))[0]
                raise ValueError(
                    f"{self._where}: positions must be finite and below {_TOO_FAR:g} angstrom, got "
                    f"{frames.x[t, i, k]:g} for atom {self._atoms[i]} in frame {frames.numbers[t]}"
                )
            yield frames

    def _warn(self, text: str) -> None:
        warnings.warn(f"{self._where}: {text}", stacklevel=5)
