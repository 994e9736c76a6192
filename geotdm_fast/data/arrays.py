"""A user's own trajectories: arrays in memory or in an `.npz`."""

import pathlib
import warnings
import zipfile
from collections.abc import Sequence
from typing import Any, cast

import numpy as np
from numpy.typing import ArrayLike
from torch import Tensor

from geotdm_fast.data.agents import graph_ends
from geotdm_fast.data.boxed_arrays import in_boxes
from geotdm_fast.data.checks import check_array, check_auto, check_flag
from geotdm_fast.data.drift import check_drift
from geotdm_fast.data.frames import frame_slice
from geotdm_fast.data.given_graph import GivenGraph
from geotdm_fast.data.molecule import heavy_atoms
from geotdm_fast.data.molecule_files.following import WITHOUT_BOX
from geotdm_fast.data.npy import StoredArray
from geotdm_fast.data.own_windows import OwnSource, Wanted, own_windows
from geotdm_fast.data.periodic import check_boxes
from geotdm_fast.data.splits import SPLIT_RATIO
from geotdm_fast.data.times import frame_time
from geotdm_fast.data.trajectory import TrajectoryDataset
from geotdm_fast.runtime.files import UNREADABLE, PathLike, read_npz

RAGGED = (
    "; where trajectories differ in their nodes, lay them side by side in x [frames, N, D] with batch or ptr, or let "
    "positions that are not there be nan"
)
_TIMES = ("time", "times", "step", "steps")
_ARRAYS = ("z", "h", "edge_index", "edge_attr", "bonds", "batch", "ptr")
_BOX = ("cell", "pbc")


def npz_dataset(
    path: PathLike,
    split: str | None = None,
    *,
    span: int | None = None,
    stride: int = 1,
    split_ratio: Sequence[float] = SPLIT_RATIO,
    frames: Sequence[int | None] | str | None = None,
    every: int | None = None,
    with_h: bool = True,
    project: bool | str = False,
    cutoff: float | None = None,
    max_hops: int = 3,
    fully_connected: bool = False,
    bonds: ArrayLike | None = None,
    num_types: int = 10,
    atom_types: Sequence[int] | None = None,
    name: str | None = None,
    unit: str = "",
    unwrap: str | bool = "auto",
    box: str | bool = "auto",
    remove_drift: bool = False,
) -> TrajectoryDataset:
    """Windows of the trajectories in an `.npz`; see `array_dataset` for what each array means.

    Of the positions only the frames of the split are kept; arrays of other names are not touched.
    path: `.npz` with x (or R), and if wanted z, h, edge_index, edge_attr, bonds, batch or ptr, cell and pbc, and time,
        times, step or steps
    bonds: instead of the file's; the other arguments as in `array_dataset`
    with_h: keep hydrogen atoms; False needs z, and h, edges and bonds of all atoms lose those of hydrogen
    Raises FileNotFoundError, ValueError/TypeError naming the file and the array.
    """
    where = f"npz_dataset: {path}"
    names, x_name = read_names(path), position_name(path)
    follow, carry = check_auto(where, "unwrap", unwrap), check_auto(where, "box", box)
    arrays: dict[str, Any] = read_npz(path, only=(*_ARRAYS, *(_BOX if follow or carry else ())))
    x = StoredArray(path, x_name).plain(RAGGED)
    if bonds is not None:
        arrays["bonds"] = bonds
    if not check_flag(where, "with_h", with_h):
        x, part = _without_hydrogen(where, x_name, x, arrays)
        arrays = part | {key: arrays[key] for key in _BOX if key in arrays}
    times_name, times = _times(where, path, names, x_name, x.shape)
    beside: dict[str, Any] = {key: arrays.get(key) for key in (*_ARRAYS, *_BOX)}
    return array_dataset(
        x,
        split,
        **beside,
        times=times,
        times_name=times_name,
        span=span,
        stride=stride,
        split_ratio=split_ratio,
        frames=frames,
        every=every,
        project=project,
        cutoff=cutoff,
        max_hops=max_hops,
        fully_connected=fully_connected,
        num_types=num_types,
        atom_types=atom_types,
        name=pathlib.Path(path).stem if name is None else name,
        unit=unit,
        unwrap=follow,
        box=carry,
        remove_drift=remove_drift,
        where=where,
        x_name=x_name,
    )


def position_name(path: PathLike) -> str:
    """What the positions in an `.npz` are called, x or R. FileNotFoundError, or ValueError where they are neither."""
    names = read_names(path)
    present = [key for key in ("x", "R") if key in names]
    if len(present) != 1:
        came = ", ".join(names) or "nothing"
        raise ValueError(f"npz_dataset: {path} must contain the positions as one of x and R, got {came}")
    return present[0]


def read_names(path: PathLike) -> list[str]:
    """The names of the arrays in an `.npz`. FileNotFoundError, or ValueError naming the file."""
    read_npz(path, only=())  # what is no archive is told in words
    try:
        with zipfile.ZipFile(path) as archive:
            return [name.removesuffix(".npy") for name in archive.namelist()]
    except UNREADABLE as error:
        raise ValueError(f"{path} must be an .npz archive of plain arrays, got an unreadable file ({error})") from error


def npz_times(path: PathLike) -> np.ndarray | None:
    """The times, or steps, of all frames of an `.npz` of positions; None where it has none. Raises as `npz_dataset`."""
    names, x_name = read_names(path), position_name(path)
    return _times(f"npz_dataset: {path}", path, names, x_name, StoredArray(path, x_name).shape)[1]


def _without_hydrogen(where: str, x_name: str, x: StoredArray, arrays: dict) -> tuple[StoredArray, dict]:
    """Positions [..., N, D], and the arrays beside them, of the other atoms alone."""
    if arrays.get("z") is None:
        raise ValueError(f"{where}: with_h may be false where z, the atomic numbers, is in the file, got no z")
    x = check_array(where, x_name, x, "frames, N, 3 or B, frames, N, 3")
    num_atoms = x.shape[-2]
    of_nodes: dict[str, Any] = {key: arrays.get(key) for key in ("z", "h", "edge_index", "edge_attr", "bonds")}
    graph = GivenGraph(**of_nodes).checked(where, num_atoms)
    atoms = heavy_atoms(where, cast(np.ndarray, graph.z))
    ends = graph_ends(where, arrays.get("batch"), arrays.get("ptr"), x.shape)
    graph = graph.part(atoms, num_atoms)
    kept = {key: getattr(graph, key) for key in of_nodes}
    if ends is not None:
        kept["ptr"] = np.searchsorted(atoms, [0, *ends])
    return x.of_nodes(atoms), kept


def _times(
    where: str, path: PathLike, names: Sequence[str], x_name: str, shape: tuple[int, ...]
) -> tuple[str, np.ndarray | None]:
    """The array of times, or of steps, and its name: the first that has a number for each frame of the positions.

    Warns of one that has not; x_name, shape: of the positions
    """
    for name in [name for name in _TIMES if name in names]:
        stored = StoredArray(path, name)
        is_number = stored.dtype.kind in "fiu"
        fits = stored.shape in (shape[-3:-2], shape[:2] if len(shape) == 4 else None)
        if is_number and fits:
            return name, read_npz(path, only=(name,))[name]
        if stored.ndim == 0 or not (is_number or fits):
            continue  # a distance in time, say, or a text
        num_frames = shape[-3] if len(shape) > 2 else 0
        why = f"{x_name} has {num_frames} frames" if is_number else f"times must be numbers, got {stored.dtype}"
        warnings.warn(f"{where}: {name} {list(stored.shape)} is passed over, {why}", stacklevel=3)
    return "times", None


def array_dataset(
    x: ArrayLike | Tensor | StoredArray,
    split: str | None = None,
    *,
    z: ArrayLike | Tensor | None = None,
    h: ArrayLike | Tensor | None = None,
    edge_index: ArrayLike | Tensor | None = None,
    edge_attr: ArrayLike | Tensor | None = None,
    bonds: ArrayLike | Tensor | None = None,
    batch: ArrayLike | Tensor | None = None,
    ptr: ArrayLike | Tensor | None = None,
    cell: ArrayLike | Tensor | None = None,
    pbc: ArrayLike | Tensor | None = None,
    times: ArrayLike | Tensor | None = None,
    times_name: str = "times",
    graph_frame: ArrayLike | Tensor | None = None,
    span: int | None = None,
    stride: int = 1,
    split_ratio: Sequence[float] = SPLIT_RATIO,
    frames: Sequence[int | None] | str | None = None,
    every: int | None = None,
    project: bool | str = False,
    cutoff: float | None = None,
    max_hops: int = 3,
    fully_connected: bool = False,
    num_types: int = 10,
    atom_types: Sequence[int] | None = None,
    name: str = "trajectories",
    unit: str = "",
    unwrap: str | bool = "auto",
    box: str | bool = "auto",
    remove_drift: bool = False,
    where: str = "array_dataset",
    x_name: str = "x",
    without_box: str = WITHOUT_BOX,
) -> TrajectoryDataset:
    """Windows of one long trajectory or of many.

    The graph is `edge_index` if given; else, with `z`, that of `molecule_graph` in the first frame (3-D only), with the
    bonds of atoms that `bonds` passes over found by distance; else complete without self-loops. h is as given; else,
    with `z`, that of `molecule_graph`; else 1.

    x: [frames, N, D] one long trajectory, or [B, frames, N, D] many; D = 2 or 3. Without z a node whose positions are
        NaN in a whole window is not there, and left out of it; of one long trajectory a node is left out of every
        window that it is not in all the time
    split: train, val or test: of one trajectory in time, of many by trajectory; None for all
    z: [N] - atomic numbers
    h: [N, F], or [B, N, F] for many; edge_index: [2, E], receiver first
    edge_attr: [E, A], or [B, E, A] for many - needs edge_index
    bonds: [M, 2] - bonded atoms, needs z
    batch, ptr: many trajectories of graphs of different size side by side in x [frames, N, D]: the graph of each node
        [N], ascending from 0, or the first node of each graph and N at the end [G + 1]; z, h, edge_index, edge_attr and
        bonds are of all nodes then
    cell: [3, 3], or [frames, 3, 3] where it changes, or [B, 1 or frames, 3, 3] for many - the vectors of the periodic
        box, as rows, in the unit of x; a vector of zeros stands for a direction that is not periodic
    pbc: [3] bool - the directions that are periodic; None: all that have a vector
    times: [frames], or [B, frames] for many - the frames' times or steps; what comes again after a restart is left out,
        and no window crosses a gap, see `even_stretches`; of many they must be even. times_name: for messages
    graph_frame: [N, D] - the frame by which bonds are found, instead of the first of x
    span: frames in a window; by default 30 of one trajectory, all of each of many
    stride: frames between the starts of windows
    frames, every: which frames there are at all, before splits and windows, see `frame_slice`
    project: subtract the mean over nodes and frames of each window; `frames`: that over nodes of each frame
    cutoff, max_hops, fully_connected, num_types, atom_types: as in `molecule_graph`
    unit: of positions. Molecules in nm, bohr or pm become angstrom, which is what is meant where nothing is said
    unwrap: auto, where there is a periodic box: atoms are followed from frame to frame by their nearest image, and with
        z molecules are made whole in the first frame; no: positions as they are
    box: auto, where there is a periodic box: the windows have it as `cell` and `pbc`; no: they have none
    remove_drift: subtract the drift of the centre of mass, x_t - (c_t - c_0), where c_t is that of all nodes of a graph
        in frame t, by the masses of atoms where z is given, and frame 0 is the first that is kept
    where, x_name, without_box: the caller's name, that of x, and how the caller passes over the box, for messages

    Positions far from 0 are kept relative to an origin, see `Trajectory.origin`. Warns of steps out of all proportion,
    of frames that equal an earlier one (left out of a molecule without times), of distances that are no angstrom.
    Raises ValueError/TypeError for wrong shapes, NaN or Inf, indices out of range, nothing left in a split, and a box
    that is none.
    """
    shapes = "frames, N, 2 or frames, N, 3 or B, frames, N, 2 or B, frames, N, 3"
    x = check_array(where, x_name, x, shapes, hint=RAGGED)
    wanted = Wanted(split, span, stride, split_ratio, frames, every, project, remove_drift).checked(where)
    graph = GivenGraph(z, h, edge_index, edge_attr, bonds, cutoff, max_hops, fully_connected, num_types, atom_types)
    checked = graph.checked(where, x.shape[-2])
    source = OwnSource(where, x_name, x, times, times_name, graph_frame, graph_ends(where, batch, ptr, x.shape), unit)
    follow, carry = check_auto(where, "unwrap", unwrap), check_auto(where, "box", box)
    check_drift(where, wanted.remove_drift, follow)
    if follow or carry:
        boxes = check_boxes(where, cell, pbc, x.shape, hint=f"; {without_box}")
        if boxes is not None:
            source, wanted = in_boxes(source, wanted, checked, boxes, follow, carry, without_box)
    items, numbers = own_windows(source, checked, wanted)
    step = frame_slice(where, frames, every, x.shape[-3]).step
    return TrajectoryDataset(
        items,
        name=name,
        unit=unit if z is None else "angstrom",
        atomic_numbers=numbers,
        h_is_made=h is None,
        frame_time=None if times is None else frame_time(check_array(where, times_name, times, "T or B, T"), step),
    )
