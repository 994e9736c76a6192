"""N-body data sets: simulated reproducibly from a seed, or read from the files of the official generator."""

import pathlib
from collections.abc import Sequence

import numpy as np
import torch

from geotdm_fast.data.checks import SPLITS, check_count, check_flag, check_positions, check_shape
from geotdm_fast.data.frames import frame_slice
from geotdm_fast.data.motion import check_motion
from geotdm_fast.data.npy import read_npy
from geotdm_fast.data.simulate import SYSTEMS, InitialState, initial_state, simulate, step_count
from geotdm_fast.data.trajectory import TrajectoryDataset, evenly_spaced
from geotdm_fast.data.windows import Windows, complete_edges, frames_last, places_of
from geotdm_fast.runtime.choices import check_choice
from geotdm_fast.runtime.files import PathLike
from geotdm_fast.runtime.shown import listed

NUM_SYSTEMS = {"train": 3000, "val": 2000, "test": 2000}
# What the official generator keeps of 5000 steps: one frame in 100, the start among them for gravity alone.
ALL_FRAMES = {"charged": 49, "springs": 49, "gravity": 50}
_SAVE_EVERY = 100
# Of the official generator, what is read of each system.
_FILES = {"charged": ("loc", "vel", "charges"), "springs": ("loc", "vel", "edges"), "gravity": ("loc", "vel")}
FRAME_TIME = 0.1  # between two frames, in the simulation's units of time


def nbody_dataset(
    kind: str,
    split: str,
    *,
    num_systems: int | None = None,
    spread: int | None = None,
    seed: int = 0,
    num_frames: int | None = 30,
    frames: Sequence[int | None] | str | None = None,
    every: int | None = None,
    stride: int | None = None,
    project: bool = False,
    velocities: bool = False,
    root: PathLike | None = None,
    suffix: str | None = None,
    num_threads: int | None = None,
    progress: bool = True,
) -> TrajectoryDataset:
    """N-body trajectories, one frame per 0.1 time units, on the complete graph without self-loops.

    h [N, 1] is the charge (charged), 0 (springs) or the mass 1 (gravity); edge_attr [E, 1] is q_i q_j, the spring 0/1,
    or 0.

    kind: charged, springs or gravity; split: train, val or test
    num_systems: 3000, 2000 and 2000 by default, or every system of the files
    spread: of these systems only so many, evenly spaced; the others are not simulated
    seed: system i of a split depends on (seed, kind, split, i) alone, not on how many are asked for
    num_frames: frames kept from the first on; None: all that there are
    frames, every: which frames there are at all, see `frame_slice`: every=10 is a frame per time unit; without a
        stride a simulation runs on until there are num_frames
    stride: windows of num_frames begin every `stride` frames, as far as the frames reach that the official generator
        keeps (49, of gravity 50) or the files have: 20 windows of 30 frames a system with stride=1; None: one window,
        which begins at the first frame
    project: subtract the mean over nodes and frames, as the unconditional model wants it
    velocities: give every trajectory a field `v` [N, 3, T]
    root, suffix: where the official files loc_, vel_, edges_ and charges_<suffix>.npy lie; when there is no such file
        in root, of any suffix, or no root is given, the systems are simulated
    Raises ValueError/TypeError for a bad argument, FileNotFoundError when only some of the official files are there, or
    those of another suffix alone.
    """
    where = "nbody_dataset"
    check_choice(f"{where}: kind", kind, SYSTEMS)
    check_choice(f"{where}: split", split, SPLITS)
    if num_frames is not None:
        num_frames = check_count(where, "num_frames", num_frames)
    seed = check_count(where, "seed", seed, minimum=0)
    project = check_flag(where, "project", project)
    velocities = check_flag(where, "velocities", velocities)
    if num_systems is not None:
        num_systems = check_count(where, "num_systems", num_systems)
    if spread is not None:
        spread = check_count(where, "spread", spread)
    if stride is not None:
        stride = check_count(where, "stride", stride)
    files = official_files(root, suffix, kind)
    if files:
        x, v, state = _read_official(kind, files, num_systems, spread)
        chosen = frame_slice(where, frames, every, x.shape[1])
        num_frames = _checked_num_frames(where, num_frames, len(chosen), f"for {root}")
    else:
        if stride is None:
            num_frames = ALL_FRAMES[kind] if num_frames is None else num_frames
            chosen = _simulated_frames(where, frames, every, num_frames)
        else:
            chosen = frame_slice(where, frames, every, ALL_FRAMES[kind])
            num_frames = _checked_num_frames(where, num_frames, len(chosen), "with stride")
        state = draw_systems(kind, split, NUM_SYSTEMS[split] if num_systems is None else num_systems, seed, spread)
        x, v = simulate(
            kind,
            state.x0,
            state.v0,
            charges=state.charges,
            springs=state.springs,
            num_steps=step_count(kind, chosen[-1] + 1, _SAVE_EVERY),
            save_every=_SAVE_EVERY,
            num_threads=num_threads,
            progress=progress,
        )
    h, edge_index, edge_attr = system_features(kind, state)
    starts = np.arange(0, 1 if stride is None else len(chosen) - num_frames + 1, stride or 1)
    places = places_of(len(x), starts)
    if stride is None:
        chosen = chosen[:num_frames]
    cut = lambda values: frames_last(values[:, chosen.start : chosen.stop : chosen.step])
    positions = cut(x)
    check_motion(where, positions, frames=chosen, stored=x.dtype)
    v = cut(v) if velocities else None
    windows = Windows(positions, places, num_frames, h, edge_index, edge_attr, project, v=v)
    # What this simulator draws for the test is the paper's system; a file, or other frames, may be anything.
    is_known = split == "test" and not files and stride is None and chosen.step == 1 and chosen.start == 0
    return TrajectoryDataset(windows, name=f"N-body {kind}", experiment=kind if is_known else None)


def _checked_num_frames(where: str, num_frames: int | None, available: int, whose: str) -> int:
    """All frames for None; ValueError where there are fewer than `num_frames`."""
    if num_frames is not None and num_frames > available:
        raise ValueError(f"{where}: num_frames must be at most {available} {whose}, got {num_frames}")
    return available if num_frames is None else num_frames


def _simulated_frames(
    where: str, frames: Sequence[int | None] | str | None, every: int | None, num_frames: int
) -> range:
    """The frames to keep of a simulation, which runs as long as it must."""
    chosen = frame_slice(where, frames, every, None)
    start, stop = chosen.start or 0, chosen.stop
    if start < 0 or (stop is not None and stop < 0):
        raise ValueError(f"{where}: frames must count from the start of a simulation, got {frames!r}")
    end = start + (num_frames - 1) * chosen.step + 1
    if stop is not None and stop < end:
        came = len(range(start, stop, chosen.step))
        raise ValueError(f"{where}: num_frames must be at most {came} for frames={frames!r}, got {num_frames}")
    return range(start, end, chosen.step)


def official_files(root: PathLike | None, suffix: str | None, kind: str | None = None) -> dict[str, pathlib.Path]:
    """The files of the official generator that `nbody_dataset` reads, by array; empty where it simulates: without a
    root, and where root has no file of the generator.

    kind: of system: loc, vel, and charges (charged) or edges (springs); None, where it is not known: loc alone
    Raises FileNotFoundError where root has files of the generator, but not these: systems that are simulated in the
    place of a file whose name is misspelt would be other data.
    """
    if root is None:
        return {}
    folder = pathlib.Path(root)
    names = ("loc",) if kind is None else _FILES[kind]
    needed = {} if suffix is None else {name: folder / f"{name}_{suffix}.npy" for name in names}
    absent = ["no suffix is given"] if suffix is None else []
    absent += [f"there is no {path.name}" for path in needed.values() if not path.is_file()]
    if not absent:
        return needed
    every = sorted({name for of_kind in _FILES.values() for name in of_kind})
    others = sorted(path.name for name in every for path in folder.glob(f"{name}_*.npy"))
    if others:
        raise FileNotFoundError(
            f"nbody_dataset: {root}: {absent[0]}, but there is {listed(others, 4)}; without root the systems are "
            "simulated"
        )
    return {}


def draw_systems(kind: str, split: str, num_systems: int, seed: int = 0, spread: int | None = None) -> InitialState:
    """The starts of the first `num_systems` systems of a split, as `nbody_dataset` simulates them.

    spread: of these only so many, evenly spaced; None for all

    One random stream per system, seeded by (seed, kind, split, i): system i is the same however many are drawn.
    Raises ValueError/TypeError for a bad argument.
    """
    where = "draw_systems"
    check_choice(f"{where}: kind", kind, SYSTEMS)
    check_choice(f"{where}: split", split, SPLITS)
    num_systems = check_count(where, "num_systems", num_systems)
    seed = check_count(where, "seed", seed, minimum=0)
    entropy = [seed, SYSTEMS.index(kind), SPLITS.index(split)]
    states = [
        initial_state(kind, 1, np.random.Generator(np.random.PCG64(np.random.SeedSequence(entropy, spawn_key=(i,)))))
        for i in evenly_spaced(num_systems, spread)
    ]
    parts = [None if part[0] is None else np.concatenate(part) for part in zip(*states, strict=True)]
    return InitialState(*parts)  # type: ignore[arg-type]  # x0 and v0 are always there


def _read_official(
    kind: str, files: dict[str, pathlib.Path], num_systems: int | None, spread: int | None
) -> tuple[np.ndarray, np.ndarray, InitialState]:
    """x, v [B, T, N, 3] and the charges or springs of `spread` of the first `num_systems` systems."""
    where = f"nbody_dataset: {files['loc'].parent}"
    called = {name: path.stem for name, path in files.items()}

    def read(name: str) -> np.ndarray:
        array = read_npy(files[name])
        if array.ndim == 0:
            return array
        array = array[:num_systems]
        return array if spread is None else array[evenly_spaced(len(array), spread)]

    loc = read("loc")
    vel = read("vel")
    if kind == "gravity":
        loc = check_positions(where, called["loc"], loc, "B, T, N, 3")
        vel = check_positions(where, called["vel"], vel, "B, T, N, 3")
    else:
        loc = check_positions(where, called["loc"], loc, "B, T, 3, N").transpose(0, 1, 3, 2)
        vel = check_positions(where, called["vel"], vel, "B, T, 3, N").transpose(0, 1, 3, 2)
    check_shape(where, called["vel"], vel, loc.shape)
    num_loaded, _, num_nodes, _ = loc.shape
    charges = springs = None
    if kind == "charged":
        charges = check_positions(where, called["charges"], read("charges"), "B, N, 1")[..., 0]
        check_shape(where, called["charges"], charges, (num_loaded, num_nodes))
    if kind == "springs":
        springs = check_positions(where, called["edges"], read("edges"), "B, N, N")
        check_shape(where, called["edges"], springs, (num_loaded, num_nodes, num_nodes))
    return loc, vel, InitialState(loc[:, 0], vel[:, 0], charges, springs)


def system_features(kind: str, state: InitialState) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """What the model reads of each system: h [B, N, 1], edge_index [2, E], edge_attr [B, E, 1]; see `nbody_dataset`."""
    num_systems, num_nodes, _ = state.x0.shape
    edge_index = complete_edges(num_nodes)
    row, col = edge_index
    if kind == "charged":
        h = torch.from_numpy(np.array(state.charges, dtype=np.float32))[..., None]
        return h, edge_index, h[:, row] * h[:, col]
    if kind == "springs":
        springs = torch.from_numpy(np.array(state.springs, dtype=np.float32))
        return torch.zeros(num_systems, num_nodes, 1, device="cpu"), edge_index, springs[:, row, col, None]
    ones, zeros = (
        torch.ones(num_systems, num_nodes, 1, device="cpu"),
        torch.zeros(num_systems, len(row), 1, device="cpu"),
    )
    return ones, edge_index, zeros
