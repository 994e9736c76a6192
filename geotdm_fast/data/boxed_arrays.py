"""Arrays of positions in a periodic box: followed through it as files of molecules are."""

import warnings
from collections.abc import Iterator
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from geotdm_fast.data.checks import check_positions, check_shape
from geotdm_fast.data.distances import unit_factor
from geotdm_fast.data.given_graph import CheckedGraph
from geotdm_fast.data.molecule_files.boxes import touching_radii, whole
from geotdm_fast.data.molecule_files.contents import Atoms, Frames
from geotdm_fast.data.molecule_files.following import Follower
from geotdm_fast.data.molecule_files.motion import Motion
from geotdm_fast.data.molecule_files.plan import Plan, plan_frames
from geotdm_fast.data.molecule_files.reading import Reading
from geotdm_fast.data.npy import StoredArray
from geotdm_fast.data.own_windows import SPAN, OwnSource, Wanted
from geotdm_fast.data.periodic import Boxes
from geotdm_fast.data.positions import blocks_of, check_finite


class InBox(NamedTuple):
    """Positions in their boxes, as they come.

    x: [frames, N, 3] one trajectory, or [B, frames, N, 3] many; name: of x, for messages
    vectors: [1 or B, 1 or frames, 3, 3] float64; pbc: [3] bool; factor: what both are multiplied by
    z, bonds: [N] and [M, 2] or None - what is bonded stays together; without z atoms are followed one by one
    without_box: how the caller passes over the box, for messages
    """

    name: str
    x: np.ndarray | StoredArray
    vectors: np.ndarray
    pbc: np.ndarray
    factor: float
    z: np.ndarray | None
    bonds: np.ndarray | None
    without_box: str

    @property
    def radii(self) -> np.ndarray | None:
        return None if self.z is None else touching_radii(self.z)


class ArrayFrames:
    """One trajectory of an `InBox` as a `Source`."""

    has_positions = None

    def __init__(self, given: InBox, times: np.ndarray | None):
        self._given, self.times, self.pbc = given, times, given.pbc
        self.num_frames, self.num_atoms = given.x.shape[:2]

    def read(self, atoms: np.ndarray, numbers: np.ndarray) -> Iterator[Frames]:
        """See `Source`."""
        given, (vectors,) = self._given, self._given.vectors
        for first, block in blocks_of(given.x):
            here = numbers[np.searchsorted(numbers, first) : np.searchsorted(numbers, first + len(block))]
            if len(here):
                x = block[here - first]
                x = x[:, atoms] * np.float64(given.factor) if given.factor != 1 else x[:, atoms]
                cells = vectors[here] if len(vectors) > 1 else np.broadcast_to(vectors, (len(here), 3, 3))
                yield Frames(here, x, cells * given.factor)
            if len(numbers) and first + len(block) > numbers[-1]:
                return

    def close(self) -> None:
        """See `Source`; nothing is open."""


class FollowedMany(StoredArray):
    """Many trajectories of an `InBox`, each followed through its box from its first frame, molecules whole there."""

    def __init__(self, where: str, given: InBox):
        self._where, self._given = where, given
        self.shape, self.dtype = given.x.shape, given.x.dtype

    def first_row(self) -> np.ndarray:
        return next(self.blocks())[1][0]

    def blocks(self) -> Iterator[tuple[int, np.ndarray]]:
        """The number of the first trajectory, and some, [b, frames, N, 3] float64."""
        given, follower = self._given, Follower(self._given.pbc, np.arange(self.shape[2]))
        cut = broken = 0
        for first, block in blocks_of(given.x):
            rows, frames = np.arange(first, first + len(block)), np.arange(block.shape[1])
            check_finite(self._where, given.name, block, rows, frames, absent=False)
            block = block.astype(np.float64) * given.factor
            for x, number in zip(block, rows, strict=True):
                vectors = given.vectors[number if len(given.vectors) > 1 else 0] * given.factor
                cells = np.broadcast_to(vectors, (len(x), 3, 3))
                images, long = whole(x[0], cells[0], given.pbc, given.bonds, given.radii)
                cut, broken = cut + bool(images.any()), broken + long
                follower.begin(x[0] + images @ cells[0], cells[0])
                x[:] = follower.follow(Frames(frames, x, cells), cells)
            yield first, block
        said = follower.report(given.without_box)
        if cut:
            said.append(f"molecules cut by the box are made whole in the first frame of {cut} of {self.shape[0]}")
        if broken:
            said.append(f"{broken} bonds leave the box at one side and enter it at the other, and stay long")
        for text in said:
            warnings.warn(f"{self._where}: {text}", stacklevel=5)


def in_boxes(
    source: OwnSource,
    wanted: Wanted,
    graph: CheckedGraph,
    boxes: tuple[np.ndarray, np.ndarray],
    follow: bool,
    carry: bool,
    without_box: str,
) -> tuple[OwnSource, Wanted]:
    """A source of positions in boxes, and what is wanted of it then.

    boxes: of `check_boxes`; follow: whether atoms are followed through them, and molecules made whole; carry: whether
        the boxes go with the windows; without_box: how the caller passes over them, for messages
    """
    where, (vectors, pbc) = source.where, boxes
    factor = 1.0 if graph.z is None else unit_factor(where, source.unit)
    unit = source.unit if factor == 1 else "angstrom"
    given = InBox(source.name, source.x, vectors, pbc, factor, graph.z, graph.bonds, without_box)
    if not follow:
        return source._replace(boxes=lambda: Boxes.of(vectors, pbc)), wanted
    if source.many:
        scaled = Boxes.of(vectors * factor, pbc) if carry else None
        return source._replace(x=FollowedMany(where, given), boxes=lambda: scaled, unit=unit), wanted
    times = source.times
    if times is not None:
        times = check_positions(where, source.times_name, times, "frames", np.float64)
        check_shape(where, source.times_name, times, source.x.shape[:1])
    # Of graphs side by side the split is by graph, and a window has all frames where nothing is said.
    one = source.num_graphs is None
    frames = ArrayFrames(given, times)
    plan = plan_frames(
        where,
        frames,
        wanted.frames,
        wanted.every,
        wanted.split if one else None,
        wanted.split_ratio,
        wanted.span or (SPAN if one else 1),
    )
    motion = _motion(where, frames, plan, carry, without_box)
    motion.make_whole(given.bonds, given.radii)
    source = source._replace(
        x=motion,
        times=None,
        unit=unit,
        boxes=lambda: motion.boxes,
        # Frames that are equally far apart in time: what stands still is no frame that was written twice.
        stretches=plan.stretches if plan.timed else None,
    )
    return source, replace(wanted, frames=None, every=None, split=None if one else wanted.split)


def _motion(where: str, frames: ArrayFrames, plan: Plan, carry: bool, without_box: str) -> Motion:
    atoms = Atoms([""] * frames.num_atoms, np.zeros(frames.num_atoms, np.int64), where)
    reading = Reading(where, atoms, frames, per_type=False, reduced=False)
    return Motion(where, reading, np.arange(frames.num_atoms), plan, unwrap=True, carry=carry, without_box=without_box)
