"""MD17: one long molecular dynamics trajectory in an `.npz`, cut in windows as the benchmark does."""

import pathlib
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import ArrayLike

from geotdm_fast.data.checks import (
    SPLITS,
    check_array,
    check_count,
    check_flag,
    check_positions,
    check_project,
    check_shape,
)
from geotdm_fast.data.distances import check_distances
from geotdm_fast.data.frames import frame_slice
from geotdm_fast.data.molecule import heavy_atoms, molecule_graph, renumbered_bonds
from geotdm_fast.data.motion import check_motion
from geotdm_fast.data.npy import StoredArray
from geotdm_fast.data.positions import check_size, kept_positions, moved, warn_of_repeats
from geotdm_fast.data.splits import split_range
from geotdm_fast.data.trajectory import TrajectoryDataset
from geotdm_fast.data.windows import Windows
from geotdm_fast.runtime.choices import check_choice
from geotdm_fast.runtime.files import PathLike, read_npz

NUM_WINDOWS = {"train": 5000, "val": 1000, "test": 1000}
EVERY, CUTOFF = 10, 1.6
_OFFICIAL_NAMES = {"benzene": "benzene2017"}


def molecule_path(root: PathLike, molecule: str) -> pathlib.Path:
    """The file of a molecule in the folder `root`: md17_<molecule>.npz, MD17's own name, or <molecule>.npz.

    Raises FileNotFoundError when neither exists.
    """
    official = pathlib.Path(root) / f"md17_{_OFFICIAL_NAMES.get(molecule, molecule)}.npz"
    plain = pathlib.Path(root) / f"{molecule}.npz"
    for candidate in (official, plain):
        if candidate.is_file():
            return candidate
    raise FileNotFoundError(f"neither {official} nor {plain} exists; give root or path of the molecule's .npz")


def md17_dataset(
    path: PathLike,
    split: str,
    *,
    down_sample_every: int | None = None,
    frames: Sequence[int | None] | str | None = None,
    every: int | None = None,
    span: int = 30,
    num_windows: int | None = None,
    with_h: bool = True,
    project: bool | str = False,
    velocities: bool = False,
    cutoff: float = CUTOFF,
    max_hops: int = 3,
    fully_connected: bool = False,
    bonds: ArrayLike | None = None,
    num_types: int = 10,
    atom_types: Sequence[int] | None = None,
) -> TrajectoryDataset:
    """Windows of a molecule's trajectory, with the features and edges of `molecule_graph` in its first frame.

    The last frame is left out (the official loader needs it for a velocity), every `down_sample_every`-th frame is
    kept, and the first 60 % are train, the next 20 % val, the last 20 % test. Windows start at equal distances.

    path: `.npz` with R [frames, N, 3] (angstrom) and z [N]; other arrays, and frames of other splits, are not kept
    split: train, val or test
    down_sample_every: 10 by default; every, and the step of frames, are the same by other names
    frames: which frames there are at all, of all but the last, see `frame_slice`
    num_windows: at most so many windows; 5000, 1000 and 1000 by default
    with_h: keep hydrogen atoms
    project: subtract the mean over nodes and frames, as the unconditional model wants it; frames: that of each frame
    velocities: give every window a field `v` [N, 3, T]: how far the atoms move to the file's next frame (angstrom)
    cutoff, max_hops, fully_connected, bonds, num_types, atom_types: as in `molecule_graph`; bonds of all atoms
    Raises FileNotFoundError, ValueError for a bad or too short file, naming what would do. Warns of steps out of all
    proportion and of frames that equal an earlier one.
    """
    where = "md17_dataset"
    check_choice(f"{where}: split", split, SPLITS)
    span = check_count(where, "span", span)
    num_windows = NUM_WINDOWS[split] if num_windows is None else check_count(where, "num_windows", num_windows)
    with_h = check_flag(where, "with_h", with_h)
    project = check_project(where, project)
    velocities = check_flag(where, "velocities", velocities)
    z = read_npz(path, required=("R", "z"), only=("z",))["z"]
    where = f"{where}: {path}"
    stored = check_array(where, "R", StoredArray(path, "R").plain(), "frames, N, 3")
    z = check_array(where, "z", z, "N")
    check_shape(where, "z", z, (stored.shape[1],))
    atoms = np.arange(len(z)) if with_h else heavy_atoms(where, z)
    there = _frames(where, frames, every, down_sample_every, stored.shape[0] - 1)
    kept_frames = _of_split(there, split)
    if len(kept_frames) < span:
        raise ValueError(f"{where}: {_too_short(there, split, span)}")

    first_frame = check_positions(where, "R", stored.first_row()[None], "1, N, 3")[0, atoms].astype(np.float32)
    check_distances(where, "R", first_frame, z[atoms], stated=False)
    if bonds is not None:
        bonds = renumbered_bonds(where, bonds, atoms, len(z))
    h, edge_index, edge_attr = molecule_graph(
        first_frame,
        z[atoms],
        cutoff,
        max_hops,
        fully_connected,
        bonds,
        num_types=num_types,
        atom_types=atom_types,
    )
    kept = kept_positions(where, "R", stored, [0], kept_frames, atoms=atoms)
    check_size(where, "R", kept)
    warn_of_repeats(where, kept, kept_frames)
    check_motion(where, kept.x, frames=kept_frames, origin=kept.origin, stored=stored.dtype, repeats=False)
    v = None
    if velocities:
        v = moved(kept, kept_positions(where, "R", stored, [0], [frame + 1 for frame in kept_frames], atoms=atoms))
    places = [(0, start) for start in evenly_spaced(len(kept_frames) - span + 1, num_windows)]
    return TrajectoryDataset(
        Windows(kept.x, places, span, h[None], edge_index, edge_attr[None], project, kept.origin, v),
        name=pathlib.Path(path).stem,
        unit="angstrom",
        atomic_numbers=torch.from_numpy(z[atoms].astype(np.int64)),
        h_is_made=True,
    )


def _frames(
    where: str,
    frames: Sequence[int | None] | str | None,
    every: int | None,
    down_sample_every: int | None,
    num_frames: int,
) -> range:
    """The frames of all splits together, of `num_frames`."""
    if down_sample_every is not None:
        down_sample_every = check_count(where, "down_sample_every", down_sample_every)
    if num_frames == 0:
        return range(0)
    chosen = frame_slice(where, frames, every, num_frames)
    given = [n for n in (every, chosen.step if chosen.step > 1 else None, down_sample_every) if n is not None]
    if len(set(given)) > 1:
        raise ValueError(
            f"{where}: down_sample_every must not be given beside every or a step in frames, got {down_sample_every}"
        )
    if chosen.step > 1 or every is not None:
        return chosen
    return chosen[:: EVERY if down_sample_every is None else down_sample_every]


def _of_split(there: range, split: str) -> range:
    part = split_range("md17_dataset", len(there), split)
    return there[part.start : part.stop]


def _too_short(there: range, split: str, span: int) -> str:
    every, came = there.step, len(_of_split(there, split))
    problem = f"split '{split}' must have at least span={span} frames, got {came} at down_sample_every={every}"
    finer = lambda step: range(there.start, there.stop, step)
    for fewer in range(every - 1, 0, -1):
        if len(_of_split(finer(fewer), split)) >= span:
            return f"{problem}; down_sample_every={fewer} would do"
    longest = len(_of_split(finer(1), split))
    if longest == 0:
        return f"{problem}; the file has {there.stop + 1} frames, too few to split"
    return f"{problem}; down_sample_every=1 with span={longest} would do"


def evenly_spaced(available: int, at_most: int) -> range:
    """At most `at_most` of the starts 0 .. available - 1, an equal whole number apart."""
    number = min(at_most, available)
    interval = available // number
    return range(0, number * interval, interval)
