"""The motion of chosen atoms out of a file: checked, followed across its box, a block at a time."""

import warnings
from collections.abc import Callable, Iterator
from typing import TypeVar, cast

import numpy as np

from geotdm_fast.data.molecule_files.boxes import follow, whole
from geotdm_fast.data.molecule_files.contents import Frames
from geotdm_fast.data.molecule_files.following import WITHOUT_BOX, Followed, Follower, box_of, first_box
from geotdm_fast.data.molecule_files.plan import Part, Plan
from geotdm_fast.data.molecule_files.reading import Reading
from geotdm_fast.data.npy import StoredArray
from geotdm_fast.data.periodic import Boxes

# XTC holds no more than 2147483.75 nm and writes that for what is more.
_TOO_FAR = 2.1e7
# Frames of a restarted run agree with those that they replace to so many angstrom.
_SAME = 0.1

Result = TypeVar("Result")


class Motion(StoredArray):
    """The motion of the chosen `atoms` in the frames of a plan, [T, N, 3], read when asked for its blocks.

    first: [N, 3] - their positions in the first frame; unwrap: whether to follow them where the file has a box; carry:
        whether the box goes with them; without_box: how the caller passes over the box, for messages
    """

    def __init__(
        self,
        where: str,
        reading: Reading,
        atoms: np.ndarray,
        plan: Plan,
        unwrap: bool,
        carry: bool = False,
        progress: bool = False,
        without_box: str = WITHOUT_BOX,
    ):
        self._progress, self._without_box = progress, without_box
        self._where, self._reading, self._atoms, self._plan = where, reading, atoms, plan
        self._bonds: np.ndarray | None = None
        self._radii: np.ndarray | None = None
        self._follower: Follower | None = None
        self._cut = 0  # stretches after the first in whose first frame a molecule was cut
        frames = self._first_of(plan.first)
        self.first = frames.x[0].astype(np.float64)
        found = self._named(lambda: first_box(frames, reading.source.pbc)) if unwrap or carry else None
        self._box = found if unwrap else None  # to follow atoms through
        self._pbc = found[1] if found is not None and carry else None
        self._cells: list[np.ndarray] = []
        self.shape, self.dtype = (len(plan.stretches.frames), len(atoms), 3), frames.x.dtype

    def make_whole(self, bonds: np.ndarray | None, radii: np.ndarray | None) -> None:
        """Put the bonded atoms of the first frame beside each other, of all atoms of the file, see `boxes.whole`.

        The same is done where the motion begins anew after a gap in time.
        """
        if self._box is None:
            return
        self._bonds, self._radii = bonds, radii
        images, broken = self._images(self._plan.first, self._box)
        self.first = self.first + images @ self._box[0][0]
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

    @property
    def boxes(self) -> Boxes | None:
        """The boxes of the wanted frames, when all blocks are read; None where there are none to go with them."""
        return None if self._pbc is None else Boxes.of(np.concatenate(self._cells)[None], self._pbc)

    def first_row(self) -> np.ndarray:
        return self.first

    def blocks(self) -> Iterator[tuple[int, np.ndarray]]:
        """The wanted frames, some at a time: the place of the first of them, and their positions [T, N, 3]."""
        from geotdm_fast.runtime.bars import progress_bar

        self._check_again()
        self._cells = []
        begin, about = 0, f"reading {self._where.split()[-1]}"
        with progress_bar(total=self.shape[0], desc=about, unit=" frames", disable=not self._progress) as bar:
            for part in self._plan.parts:
                for numbers, x, cells in self._as_stored(part) if self._box is None else self._followed(part):
                    # Of millions of frames: a search in order, not a comparison with all of them for each chunk.
                    place = np.minimum(np.searchsorted(part.wanted, numbers), len(part.wanted) - 1)
                    here = part.wanted[place] == numbers
                    if here.any():
                        if cells is not None:
                            self._cells.append(cells[here])
                        yield begin, x[here]
                    begin += int(here.sum())
                    bar.update(int(here.sum()))
        for text in [] if self._follower is None else self._follower.report(self._without_box):
            self._warn(text)
        if self._cut:
            self._warn(f"molecules cut by the box are made whole after {self._cut} gaps in time too")

    def _as_stored(self, part: Part) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray | None]]:
        for frames in self._chunks(part.wanted):
            yield frames.numbers, frames.x, None if self._pbc is None else self._box_of(frames, self._pbc)

    def _box_of(self, frames: Frames, pbc: np.ndarray) -> np.ndarray:
        return self._named(lambda: box_of(frames, pbc))

    def _named(self, function: Callable[[], Result]) -> Result:
        """What `function` returns of a box; its ValueErrors name the file and how the box is passed over."""
        try:
            return function()
        except ValueError as error:
            raise ValueError(f"{self._where}: {error}; {self._without_box}") from None

    def _followed(self, part: Part) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """All frames of a stretch up to the last wanted one: they tell where the atoms went.

        What an earlier data set has followed of the same stretch is not read again.
        """
        key = tuple(None if a is None else a.tobytes() for a in (self._atoms, self._bonds, self._radii))
        earlier, self._reading.followed = self._reading.followed, None
        if earlier is not None and earlier.key == key and earlier.goes_on_to(part):
            self._follower, ahead = earlier.follower, part.in_order[len(earlier.frames) :]
        else:
            self._begin_to_follow(part.in_order[0])
            ahead = part.in_order
        follower, (_, pbc) = cast(Follower, self._follower), cast("tuple[np.ndarray, np.ndarray]", self._box)
        for frames in self._chunks(ahead):
            cells = self._box_of(frames, pbc)
            yield frames.numbers, follower.follow(frames, cells), cells
        self._reading.followed = Followed(key, follower, part.in_order)

    def _begin_to_follow(self, number: int) -> None:
        """From frame `number`, where molecules are made whole."""
        cells, pbc = cast("tuple[np.ndarray, np.ndarray]", self._box)
        first = self.first
        if number != self._plan.first:
            frames = self._first_of(number)
            cells = self._box_of(frames, pbc)
            images, _ = self._images(number, (cells, pbc))
            self._cut += bool((images != 0).any())
            first = frames.x[0].astype(np.float64) + images @ cells[0]
        if self._follower is None:
            self._follower = Follower(pbc, self._atoms)
        self._follower.begin(first, cells[0])

    def _images(self, number: int, box: tuple[np.ndarray, np.ndarray]) -> tuple[np.ndarray, int]:
        """What makes the molecules of a frame whole, of the chosen atoms; and how many bonds it cannot."""
        frames = self._reading.frame(number)
        self._check(np.arange(frames.x.shape[1]), frames)
        (cell,), pbc = box
        images, broken = whole(frames.x[0].astype(np.float64), cell, pbc, self._bonds, self._radii)
        return images[self._atoms], broken

    def _check_again(self) -> None:
        """Raise where a run that begins again does not begin where the earlier one was."""
        for old, new in self._plan.again:
            pair = (old, new, self._atoms.tobytes())
            if pair in self._reading.agreeing:
                continue
            x = np.concatenate([frames.x for frames in self._chunks(np.array([old, new]))]).astype(np.float64)
            if self._box is not None:
                cell, pbc = self._box
                cell = np.repeat(cell, 2, axis=0)
                x = x + follow(x, cell, pbc) @ cell
            apart = float(np.linalg.norm(x[1] - x[0], axis=-1).max())
            if apart > _SAME:
                raise ValueError(
                    f"{self._where}: frames {old} and {new} have the same time and must agree, as where a run is "
                    f"restarted, but an atom is {apart:.3g} angstrom apart: two trajectories in one file. Read each by "
                    f"itself: frames: [{self._plan.first}, {new}] and frames: [{new}, null]"
                )
            self._reading.agreeing.add(pair)

    def _first_of(self, number: int) -> Frames:
        """A frame where a motion begins, of the chosen atoms."""
        frames = self._reading.frame(number)
        frames = frames._replace(x=frames.x[:, self._atoms])
        self._check(self._atoms, frames)
        return frames

    def _chunks(self, numbers: np.ndarray) -> Iterator[Frames]:
        """The frames `numbers` of the chosen atoms, checked."""
        for frames in self._reading.frames(self._atoms, numbers):
            self._check(self._atoms, frames)
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
