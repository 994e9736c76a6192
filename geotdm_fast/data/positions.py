"""Positions as a data set keeps them: the chosen frames alone, in float32, far ones relative to an origin."""

import warnings
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from geotdm_fast.data.npy import StoredArray, rows_at_once

# Float32 is kept as it is where its spacing is at most this share of a usual step: a rounding of 0.3 % then.
_FINE = 0.01
_LARGEST = 2.1e7  # angstrom; what has overflowed reads as 2147483.75 nm


@dataclass(frozen=True)
class Kept:
    """x: [B, N, D, T] float32 - what was read, minus `origin`

    origin: [B, D] float64, or None where nothing was subtracted
    repeats: [T] int64 - the place of the first equal frame, its own where it is the first; of one trajectory, else None
    """

    x: Tensor
    origin: Tensor | None
    repeats: np.ndarray | None


def kept_positions(
    where: str,
    name: str,
    source: np.ndarray | StoredArray,
    trajectories: Sequence[int],
    frames: Sequence[int],
    *,
    atoms: np.ndarray | None = None,
    factor: float = 1.0,
    absent: bool = False,
) -> Kept:
    """The positions of some trajectories and frames, block by block: memory of what is kept and of one block.

    source: [frames, N, D] one trajectory, or [B, frames, N, D] many, in memory or in a file
    trajectories, frames: which to keep, ascending; trajectories of one is [0]
    atoms: which to keep; factor: what positions are multiplied by
    absent: whether NaN is let through, for nodes that are not there
    Raises ValueError for positions that are not finite, naming the first by its place in `source`.
    """
    chosen = slice(None) if atoms is None else atoms
    num_nodes = source.shape[-2] if atoms is None else len(atoms)
    x = np.empty((len(trajectories), num_nodes, source.shape[-1], len(frames)), dtype=np.float32)
    origin = np.zeros((len(trajectories), source.shape[-1]))
    seen: dict[int, list[int]] = {}
    repeats = np.arange(len(frames)) if source.ndim == 3 else None
    frames = np.asarray(frames)
    rows = frames if source.ndim == 3 else np.asarray(trajectories)
    for first, block in _blocks(source):
        begin, end = np.searchsorted(rows, [first, first + len(block)])
        if begin == end:
            continue
        block = block[_slice_of(rows[begin:end] - first)]
        block = block[:, chosen] if source.ndim == 3 else block[:, _slice_of(frames)][:, :, chosen]
        if block.dtype.kind == "f":
            _check_finite(where, name, block, rows[begin:end], frames if source.ndim == 4 else None, absent)
        if source.ndim == 3:
            _find_repeats(block, begin, seen, repeats)
        if factor != 1.0:
            block = block * np.float64(factor)
        if source.ndim == 3:
            if begin == 0:
                origin[0] = origin_of(block)
            x[0, :, :, begin:end] = _minus(block, origin[0]).transpose(1, 2, 0)
        else:
            for b, trajectory in enumerate(block, start=begin):
                origin[b] = origin_of(trajectory)
                x[b] = _minus(trajectory, origin[b]).transpose(1, 2, 0)
    if repeats is not None:
        _confirm(x[0], repeats)
    return Kept(torch.from_numpy(x), torch.from_numpy(origin) if origin.any() else None, repeats)


def moved(before: Kept, after: Kept) -> Tensor:
    """[B, N, D, T] float32: how far positions move from one choice of frames to another of the same trajectories."""
    shift = [torch.zeros(()) if kept.origin is None else kept.origin[:, None, :, None] for kept in (before, after)]
    return (after.x - before.x + (shift[1] - shift[0])).float()


def _blocks(source: np.ndarray | StoredArray) -> Iterator[tuple[int, np.ndarray]]:
    if isinstance(source, StoredArray):
        yield from source.blocks()
        return
    step = rows_at_once(source.shape)
    for first in range(0, len(source), step):
        yield first, source[first : first + step]


def _slice_of(indices: np.ndarray) -> slice | np.ndarray:
    """Equally spaced indices as a slice, which needs no copy."""
    step = indices[1] - indices[0] if len(indices) > 1 else 1
    if (np.diff(indices) == step).all():
        return slice(int(indices[0]), int(indices[-1]) + 1, int(step))
    return indices


def _check_finite(
    where: str, name: str, block: np.ndarray, rows: np.ndarray, frames: np.ndarray | None, absent: bool
) -> None:
    # A sum is finite where its numbers are, and needs no memory; an overflow is looked into.
    if np.isfinite(block.sum(dtype=np.float64)):
        return
    bad = np.isinf(block) if absent else ~np.isfinite(block)
    if not bad.any():
        return
    place = [int(i) for i in np.argwhere(bad)[0]]
    value = block[tuple(place)]
    place[0] = int(rows[place[0]])
    if frames is not None:
        place[1] = int(frames[place[1]])
    raise ValueError(f"{where}: {name} must be finite, got {value} at {place}")


def origin_of(x: np.ndarray) -> np.ndarray:
    """Where positions x [T, N, D] are counted from, [D] float64: 0, or near them where float32 blurs their steps."""
    if x.dtype.kind != "f":
        x = x.astype(np.float64)
    steps = np.abs(x[1:] - x[:-1])
    steps = steps[steps > 0]  # NaN is left out, too
    largest = np.fmax.reduce(np.abs(x), axis=None, initial=0.0)
    if len(steps) == 0 or np.spacing(np.float32(largest)) <= _FINE * np.median(steps):
        return np.zeros(x.shape[-1])
    there = x[np.isfinite(x).all(axis=2)]
    return there[0].astype(np.float64) if len(there) else np.zeros(x.shape[-1])


def _minus(x: np.ndarray, origin: np.ndarray) -> np.ndarray:
    return x - origin if origin.any() else x


def _find_repeats(block: np.ndarray, begin: int, seen: dict[int, list[int]], repeats: np.ndarray) -> None:
    """Note for each frame the first one with the same checksum."""
    for t, frame in enumerate(block, start=begin):
        repeats[t] = seen.setdefault(zlib.crc32(np.ascontiguousarray(frame)), t)


def _confirm(x: np.ndarray, repeats: np.ndarray) -> None:
    """Different frames may have the same checksum: x [N, D, T] decides."""
    for t in np.flatnonzero(repeats != np.arange(len(repeats))):
        if not np.array_equal(x[..., t], x[..., repeats[t]]):
            repeats[t] = t


def check_size(where: str, name: str, kept: Kept) -> None:
    """Raise ValueError for a molecule whose positions (angstrom) an XTC file cannot hold: it has overflowed."""
    low, high = torch.aminmax(kept.x)
    largest = max(-float(low), float(high)) + (0.0 if kept.origin is None else float(kept.origin.abs().max()))
    if largest > _LARGEST:
        raise ValueError(f"{where}: {name} must be positions of atoms in angstrom, got {largest:.3g}")


def warn_of_repeats(where: str, kept: Kept, frames: Sequence[int], consequence: str = "") -> np.ndarray:
    """The places of the frames that equal an earlier one, with a warning where there are some.

    frames: [T] - the frames' numbers in the file; consequence: what is done about it
    """
    again = np.flatnonzero(kept.repeats != np.arange(len(kept.repeats)))
    if len(again):
        first, of = frames[again[0]], frames[kept.repeats[again[0]]]
        warnings.warn(
            f"{where}: {len(again)} frames equal an earlier one, the first is frame {first}, which equals frame {of}; "
            f"a run that was restarted may have written them twice{consequence}",
            stacklevel=4,
        )
    return again
