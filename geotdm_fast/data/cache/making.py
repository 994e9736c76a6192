"""The arrays of a cache, written block by block as a file is read: what `own_windows` keeps in memory, bit for bit."""

import pathlib
import warnings
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch

from geotdm_fast.data.cache.arrays import ArrayWriter, keep_rows, write_array
from geotdm_fast.data.cache.folder import POSITIONS, check_room
from geotdm_fast.data.drift import centres, drift_masses
from geotdm_fast.data.motion import check_motion
from geotdm_fast.data.own_windows import OwnSource, chosen_stretches, frames_left
from geotdm_fast.data.positions import Kept, blocks_of_one, check_size, checksums, repeats_of, too_large

_BLOCK_BYTES = 2**24  # of a file that are moved at a time, where some of its frames are left out


class Making(NamedTuple):
    """What a cache is made of.

    source: one trajectory; factor: to the unit of the cache; z: [N] atomic numbers, or None
    remove_drift: as in `array_dataset`
    """

    source: OwnSource
    factor: float
    z: np.ndarray | None
    remove_drift: bool


def write_frames(folder: pathlib.Path, making: Making) -> None:
    """Write the positions [T, N, 3] float32 and, beside them, `ends` [S] (of stretches), `origin` [3] float64, and
    `box` [1 or T, 3, 3] float32 where there is one.

    Memory: one block of positions, 24 bytes a frame, and 108 more where the box changes from frame to frame.
    Raises ValueError for positions that are not finite, OSError where the disk is full. Warns as `own_windows` does.
    """
    source, where = making.source, making.source.where
    num_frames, num_nodes, dim = source.x.shape
    check_room(folder, 4 * num_frames * num_nodes * dim)
    stretches = chosen_stretches(source)
    origin = np.zeros(dim)
    path = folder / f"{POSITIONS}.npy"
    sums = None if making.z is None or source.stretches is not None else np.zeros(num_frames, np.uint64)
    with ArrayWriter(path, (num_frames, num_nodes, dim), np.dtype(np.float32)) as writer:
        for block in _changed_blocks(making, stretches.frames, origin, sums):
            writer.write(block)
    if sums is not None:
        kept = Kept(_as_kept(path), torch.from_numpy(origin)[None], None)
        repeats = repeats_of(kept.x[0].numpy(), sums)
        left, stretches = frames_left(where, Kept(kept.x, kept.origin, repeats), stretches)
        if left is not None:
            del kept  # a map of the whole file
            keep_rows(path, left, _BLOCK_BYTES)
    write_array(folder / "ends.npy", stretches.ends)
    write_array(folder / "origin.npy", origin)
    boxes = source.boxes()
    if boxes is not None:
        boxes = boxes.scaled(making.factor).chosen([0], stretches.frames)
        write_array(folder / "box.npy", boxes.vectors[0].numpy())
    check_motion(
        where,
        _as_kept(path),
        frames=stretches.frames,
        seams=stretches.seams,
        origin=torch.from_numpy(origin)[None] if origin.any() else None,
        stored=source.x.dtype,
        repeats=making.z is None,
    )


def _changed_blocks(
    making: Making, frames: np.ndarray, origin: np.ndarray, sums: np.ndarray | None
) -> Iterator[np.ndarray]:
    """The blocks [t, N, 3] float32 as they are kept; origin [3] and, of each frame, sums are filled meanwhile."""
    source, where, name = making.source, making.source.where, making.source.name
    mass = drift_masses(where, source.x.shape[1], making.z) if making.remove_drift else None
    first = None  # the centre of mass of the first frame
    for begin, block in blocks_of_one(where, name, source.x, frames, origin, factor=making.factor):
        if np.isinf(block).any():
            raise too_large(where, name)
        if making.z is not None:
            check_size(where, name, Kept(torch.from_numpy(block), torch.from_numpy(origin), None))
        if sums is not None:
            sums[begin : begin + len(block)] = checksums(block)
        if mass is not None:
            x = np.ascontiguousarray(block.transpose(1, 2, 0))
            centre = centres(where, name, x, mass)
            first = centre[:, :1] if first is None else first
            x -= (centre - first).astype(np.float32)
            block = x.transpose(2, 0, 1)
        yield block


def _as_kept(path: pathlib.Path) -> torch.Tensor:
    """The positions in the file as `Kept` has them, [1, N, D, T]: a view of a map, which nobody may write to."""
    frames = np.load(path, mmap_mode="r", allow_pickle=False)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(frames).permute(1, 2, 0)[None]
