"""A user's own trajectories: arrays in memory or in an `.npz`."""

import pathlib
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from geotdm_fast.data.checks import check_array, check_count, check_flag, check_indices, check_positions, check_shape
from geotdm_fast.data.molecule import molecule_graph
from geotdm_fast.data.sequences import Windows, complete_edges, frames_last
from geotdm_fast.data.splits import SPLIT_RATIO, check_ratio, split_range
from geotdm_fast.data.trajectory import TrajectoryDataset
from geotdm_fast.files import PathLike, read_npz
from geotdm_fast.shown import listed

_SPAN = 30


def npz_dataset(
    path: PathLike,
    split: str | None = None,
    *,
    span: int | None = None,
    stride: int = 1,
    split_ratio: Sequence[float] = SPLIT_RATIO,
    project: bool = False,
    cutoff: float = 1.6,
    max_hops: int = 3,
    fully_connected: bool = False,
    bonds: ArrayLike | None = None,
    num_types: int = 10,
    atom_types: Sequence[int] | None = None,
    name: str | None = None,
    unit: str = "",
) -> TrajectoryDataset:
    """Windows of the trajectories in an `.npz`; see `array_dataset` for what each array means.

    path: `.npz` with x (or R), and if wanted z, h, edge_index, edge_attr, bonds; other arrays are passed over
    bonds: instead of the file's; the other arguments as in `array_dataset`
    Raises FileNotFoundError, ValueError/TypeError naming the file and the array.
    """
    arrays = read_npz(path)
    present = [key for key in ("x", "R") if key in arrays]
    if len(present) != 1:
        raise ValueError(f"npz_dataset: {path} must contain the positions as one of x and R, got {listed(arrays)}")
    return array_dataset(
        arrays[present[0]],
        split,
        z=arrays.get("z"),
        h=arrays.get("h"),
        edge_index=arrays.get("edge_index"),
        edge_attr=arrays.get("edge_attr"),
        bonds=arrays.get("bonds") if bonds is None else bonds,
        span=span,
        stride=stride,
        split_ratio=split_ratio,
        project=project,
        cutoff=cutoff,
        max_hops=max_hops,
        fully_connected=fully_connected,
        num_types=num_types,
        atom_types=atom_types,
        name=pathlib.Path(path).stem if name is None else name,
        unit=unit,
        where=f"npz_dataset: {path}",
    )


def array_dataset(
    x: ArrayLike | Tensor,
    split: str | None = None,
    *,
    z: ArrayLike | Tensor | None = None,
    h: ArrayLike | Tensor | None = None,
    edge_index: ArrayLike | Tensor | None = None,
    edge_attr: ArrayLike | Tensor | None = None,
    bonds: ArrayLike | Tensor | None = None,
    span: int | None = None,
    stride: int = 1,
    split_ratio: Sequence[float] = SPLIT_RATIO,
    project: bool = False,
    cutoff: float = 1.6,
    max_hops: int = 3,
    fully_connected: bool = False,
    num_types: int = 10,
    atom_types: Sequence[int] | None = None,
    name: str = "trajectories",
    unit: str = "",
    where: str = "array_dataset",
) -> TrajectoryDataset:
    """Windows of one long trajectory or of many.

    The graph is `edge_index` if given; else, with `z`, that of `molecule_graph` in the first frame (3-D only); else
    complete without self-loops. h is as given; else, with `z`, that of `molecule_graph`; else 1.

    x: [frames, N, D] one long trajectory, or [B, frames, N, D] many; D = 2 or 3
    split: train, val or test: of one trajectory in time, of many by trajectory; None for all
    z: [N] - atomic numbers
    h: [N, F], or [B, N, F] for many; edge_index: [2, E], receiver first
    edge_attr: [E, A], or [B, E, A] for many - needs edge_index
    bonds: [M, 2] - bonded atoms, needs z
    span: frames in a window; by default 30 of one trajectory, all of each of many
    stride: frames between the starts of windows
    project: subtract the mean over nodes and frames of each window
    cutoff, max_hops, fully_connected, num_types, atom_types: as in `molecule_graph`
    where: the caller's name, for messages
    Raises ValueError/TypeError for wrong shapes, NaN or Inf, indices out of range, nothing left in a split.
    """
    x = check_positions(where, "x", x, "frames, N, 2 or frames, N, 3 or B, frames, N, 2 or B, frames, N, 3")
    stride = check_count(where, "stride", stride)
    project = check_flag(where, "project", project)
    ratio = check_ratio(where, split_ratio)
    many = x.ndim == 4
    x = x if many else x[None]  # [B, frames, N, D]
    num_trajectories, num_frames = x.shape[:2]
    span = (num_frames if many else _SPAN) if span is None else check_count(where, "span", span)

    trajectories, frames = range(num_trajectories), range(num_frames)
    if split is not None and many:
        trajectories = split_range(where, num_trajectories, split, ratio)
    elif split is not None:
        frames = split_range(where, num_frames, split, ratio)
    if len(trajectories) == 0:
        raise ValueError(
            f"{where}: split '{split}' must hold a trajectory, got none of {num_trajectories} at split_ratio {ratio}"
        )
    if len(frames) < span:
        part = "x" if split is None or many else f"split '{split}' of x"
        raise ValueError(f"{where}: {part} must have at least span={span} frames, got {len(frames)}")

    h, edge_index, edge_attr = _graph(
        where, x[0, 0], z, h, edge_index, edge_attr, bonds, cutoff, max_hops, fully_connected, num_types, atom_types
    )
    h = _for_each(where, "h", h, many, num_trajectories)
    edge_attr = None if edge_attr is None else _for_each(where, "edge_attr", edge_attr, many, num_trajectories)
    places = [(b, t) for b in trajectories for t in range(frames.start, frames.stop - span + 1, stride)]
    numbers = None if z is None else torch.from_numpy(check_array(where, "z", z, "N").astype(np.int64))
    windows = Windows(frames_last(x), places, span, h, edge_index, edge_attr, project)
    return TrajectoryDataset(windows, name=name, unit=unit, atomic_numbers=numbers)


def _graph(
    where: str,
    first_frame: np.ndarray,
    z: ArrayLike | None,
    h: ArrayLike | None,
    edge_index: ArrayLike | None,
    edge_attr: ArrayLike | None,
    bonds: ArrayLike | None,
    cutoff: float,
    max_hops: int,
    fully_connected: bool,
    num_types: int,
    atom_types: Sequence[int] | None,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """h [N, F] or [B, N, F], edge_index [2, E], edge_attr [E, A] or [B, E, A] or None, from what the user gave."""
    num_nodes = len(first_frame)
    if edge_index is None and edge_attr is not None:
        raise ValueError(f"{where}: edge_attr must come with edge_index, got edge_attr alone")
    if z is None and bonds is not None:
        raise ValueError(f"{where}: bonds must come with z, the atomic numbers, got bonds alone")
    molecule = None
    if z is not None:
        check_shape(where, "z", check_array(where, "z", z, "N"), (num_nodes,))
    if z is not None and (edge_index is None or h is None):
        if first_frame.shape[1] != 3:
            raise ValueError(
                f"{where}: x must be three-dimensional when z is given, got {first_frame.shape[1]} dimensions"
            )
        molecule = molecule_graph(
            first_frame, z, cutoff, max_hops, fully_connected, bonds, num_types=num_types, atom_types=atom_types
        )
    if h is None:
        features = torch.ones(num_nodes, 1, device="cpu") if molecule is None else molecule[0]
    else:
        h = check_positions(where, "h", h, "N, F or B, N, F", dtype=np.float32)
        check_shape(where, "h", h, (*h.shape[:-2], num_nodes, h.shape[-1]))
        features = torch.from_numpy(h)
    if edge_index is None:
        return (features, *((complete_edges(num_nodes), None) if molecule is None else molecule[1:]))
    edge_index = torch.from_numpy(check_indices(where, "edge_index", edge_index, "2, E", num_nodes))
    if edge_attr is not None:
        edge_attr = check_positions(where, "edge_attr", edge_attr, "E, A or B, E, A", dtype=np.float32)
        check_shape(where, "edge_attr", edge_attr, (*edge_attr.shape[:-2], edge_index.shape[1], edge_attr.shape[-1]))
        edge_attr = torch.from_numpy(edge_attr)
    return features, edge_index, edge_attr


def _for_each(where: str, name: str, value: Tensor, many: bool, num_trajectories: int) -> Tensor:
    """`value` with a leading dimension of trajectories: [B, ...]."""
    if value.dim() == 2:
        return value.expand(num_trajectories, *value.shape)
    if not many or len(value) != num_trajectories:
        expected = f"{num_trajectories} trajectories" if many else "one trajectory, without a leading dimension"
        raise ValueError(f"{where}: {name} must be for {expected}, got {list(value.shape)}")
    return value
