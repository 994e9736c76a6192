"""MD17: one long molecular dynamics trajectory in an `.npz`, cut in windows as the benchmark does."""

import pathlib
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import ArrayLike

from geotdm_fast.data.checks import SPLITS, check_array, check_count, check_flag, check_positions, check_shape
from geotdm_fast.data.molecule import molecule_graph, renumbered_bonds
from geotdm_fast.data.sequences import Windows, frames_last
from geotdm_fast.data.splits import split_range
from geotdm_fast.data.trajectory import TrajectoryDataset
from geotdm_fast.files import PathLike, read_npz
from geotdm_fast.keys import check_choice

NUM_WINDOWS = {"train": 5000, "val": 1000, "test": 1000}
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
    down_sample_every: int = 10,
    span: int = 30,
    num_windows: int | None = None,
    with_h: bool = True,
    project: bool = False,
    velocities: bool = False,
    cutoff: float = 1.6,
    max_hops: int = 3,
    fully_connected: bool = False,
    bonds: ArrayLike | None = None,
    num_types: int = 10,
    atom_types: Sequence[int] | None = None,
) -> TrajectoryDataset:
    """Windows of a molecule's trajectory, with the features and edges of `molecule_graph` in its first frame.

    The last frame is left out (the official loader needs it for a velocity), every `down_sample_every`-th frame is
    kept, and the first 60 % are train, the next 20 % val, the last 20 % test. Windows start at equal distances.

    path: `.npz` with R [frames, N, 3] (angstrom) and z [N]
    split: train, val or test
    num_windows: at most so many windows; 5000, 1000 and 1000 by default
    with_h: keep hydrogen atoms
    project: subtract the mean over nodes and frames, as the unconditional model wants it
    velocities: give every window a field `v` [N, 3, T]: how far the atoms move to the file's next frame (angstrom)
    cutoff, max_hops, fully_connected, bonds, num_types, atom_types: as in `molecule_graph`; bonds of all atoms
    Raises FileNotFoundError, ValueError for a bad or too short file, naming what would do.
    """
    where = "md17_dataset"
    check_choice(f"{where}: split", split, SPLITS)
    down_sample_every = check_count(where, "down_sample_every", down_sample_every)
    span = check_count(where, "span", span)
    num_windows = NUM_WINDOWS[split] if num_windows is None else check_count(where, "num_windows", num_windows)
    with_h = check_flag(where, "with_h", with_h)
    project = check_flag(where, "project", project)
    velocities = check_flag(where, "velocities", velocities)
    arrays = read_npz(path, required=("R", "z"))
    where = f"{where}: {path}"
    positions = check_positions(where, "R", arrays["R"], "frames, N, 3")
    x = positions[:-1]
    z = check_array(where, "z", arrays["z"], "N")
    check_shape(where, "z", z, (x.shape[1],))
    atoms = np.arange(len(z)) if with_h else np.flatnonzero(z > 1)
    if len(atoms) == 0:
        raise ValueError(f"{where}: z must hold an atom other than hydrogen when with_h is false, got {z.tolist()}")
    frames = _kept_frames(len(x), split, down_sample_every)
    if len(frames) < span:
        raise ValueError(f"{where}: {_too_short(len(x), split, down_sample_every, span)}")

    if bonds is not None:
        bonds = renumbered_bonds(where, bonds, atoms, len(z))
    h, edge_index, edge_attr = molecule_graph(
        x[0, atoms].astype(np.float32),
        z[atoms],
        cutoff,
        max_hops,
        fully_connected,
        bonds,
        num_types=num_types,
        atom_types=atom_types,
    )
    kept = np.asarray(frames)[:, None], atoms
    v = frames_last((positions[1:][kept] - x[kept])[None]) if velocities else None
    x = frames_last(x[None, frames.start : frames.stop : frames.step, atoms])
    places = [(0, start) for start in evenly_spaced(len(frames) - span + 1, num_windows)]
    return TrajectoryDataset(
        Windows(x, places, span, h[None], edge_index, edge_attr[None], project, v),
        name=pathlib.Path(path).stem,
        unit="angstrom",
        atomic_numbers=torch.from_numpy(z[atoms].astype(np.int64)),
    )


def _kept_frames(num_frames: int, split: str, down_sample_every: int) -> range:
    kept = range(0, num_frames, down_sample_every)
    part = split_range("md17_dataset", len(kept), split)
    return kept[part.start : part.stop]


def _too_short(num_frames: int, split: str, down_sample_every: int, span: int) -> str:
    came = len(_kept_frames(num_frames, split, down_sample_every))
    problem = f"split '{split}' must have at least span={span} frames, got {came} at {down_sample_every=}"
    for fewer in range(down_sample_every - 1, 0, -1):
        if len(_kept_frames(num_frames, split, fewer)) >= span:
            return f"{problem}; down_sample_every={fewer} would do"
    longest = len(_kept_frames(num_frames, split, 1))
    if longest == 0:
        return f"{problem}; the file has {num_frames + 1} frames, too few to split"
    return f"{problem}; down_sample_every=1 with span={longest} would do"


def evenly_spaced(available: int, at_most: int) -> range:
    """At most `at_most` of the starts 0 .. available - 1, an equal whole number apart."""
    number = min(at_most, available)
    interval = available // number
    return range(0, number * interval, interval)
