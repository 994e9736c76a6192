"""Positions as a data set keeps them: the chosen frames alone, in float32, far ones relative to an origin."""

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from geotdm_fast.data.npy import StoredArray, rows_at_once

# Float32 is kept as it is where its spacing is at most this share of a usual step: a rounding of 0.3 % then.
_FINE = 0.01
LARGEST = 2.1e7  # angstrom; what has overflowed reads as 2147483.75 nm


@dataclass(frozen=True)
class Kept:
    """x: [B, N, D, T] float32 - what was read, minus `origin`

    origin: [B, D] float64, or None where nothing was subtracted
    repeats: [T] int64 - the place of the first equal frame, its own where it is the first; None where all differ, and
        of many trajectories
    """

    x: Tensor
    origin: Tensor | None
    repeats: np.ndarray | None


def kept_positions(
    where: str,
    name: str,
    source: np.ndarray | StoredArray,
    trajectories: Sequence[int],
    frames: Sequence[int] | np.ndarray,
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
    num_nodes = source.shape[-2] if atoms is None else len(atoms)
    x = np.empty((len(trajectories), num_nodes, source.shape[-1], len(frames)), dtype=np.float32)
    origin = np.zeros((len(trajectories), source.shape[-1]))
    sums = np.zeros(len(frames), dtype=np.uint64) if source.ndim == 3 else None  # of one trajectory
    frames = np.arange(frames.start, frames.stop, frames.step) if isinstance(frames, range) else np.asarray(frames)
    about: dict[str, Any] = {"atoms": atoms, "factor": factor, "absent": absent}
    if sums is not None:
        for begin, block in blocks_of_one(where, name, source, frames, origin[0], **about):
            end = begin + len(block)
            sums[begin:end] = checksums(block)
            x[0, :, :, begin:end] = block.transpose(1, 2, 0)
    else:
        for begin, block in _rows_of_many(where, name, source, np.asarray(trajectories), frames, **about):
            own = slice(begin, begin + len(block))
            origin[own] = origins_of(block)
            x[own] = _minus(block, origin[own, None, None]).transpose(0, 2, 3, 1)
    if np.isinf(np.fmin.reduce(x, axis=None)) or np.isinf(np.fmax.reduce(x, axis=None)):
        raise too_large(where, name)
    repeats = None if sums is None else repeats_of(x[0], sums)
    return Kept(torch.from_numpy(x), torch.from_numpy(origin) if origin.any() else None, repeats)


def blocks_of_one(
    where: str,
    name: str,
    source: np.ndarray | StoredArray,
    frames: np.ndarray,
    origin: np.ndarray,
    *,
    atoms: np.ndarray | None = None,
    factor: float = 1.0,
    absent: bool = False,
) -> Iterator[tuple[int, np.ndarray]]:
    """The positions of one trajectory [frames, N, D] as they are kept: the place of its first frame, and a block
    [t, N, D] float32 without a gap in memory.

    origin: [D] float64 zeros, which get what is subtracted when the first block is read
    The other arguments are as in `kept_positions`.
    """
    chosen = slice(None) if atoms is None else atoms
    for begin, rows, block in _chosen_rows(source, frames):
        block = block[:, chosen]
        if block.dtype.kind == "f":
            check_finite(where, name, block, rows, None, absent)
        if factor != 1.0:
            block = block * np.float64(factor)
        if begin == 0:
            origin[:] = origins_of(block[None])[0]
        yield begin, np.ascontiguousarray(_minus(block, origin))


def _rows_of_many(
    where: str,
    name: str,
    source: np.ndarray | StoredArray,
    trajectories: np.ndarray,
    frames: np.ndarray,
    *,
    atoms: np.ndarray | None,
    factor: float,
    absent: bool,
) -> Iterator[tuple[int, np.ndarray]]:
    """Some trajectories of [B, frames, N, D], a block at a time, behind the place of the first."""
    chosen = slice(None) if atoms is None else atoms
    for begin, rows, block in _chosen_rows(source, trajectories):
        block = block[:, _slice_of(frames)][:, :, chosen]
        if block.dtype.kind == "f":
            check_finite(where, name, block, rows, frames, absent)
        yield begin, block if factor == 1.0 else block * np.float64(factor)


def _chosen_rows(source: np.ndarray | StoredArray, rows: np.ndarray) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """The rows of these numbers, ascending, a block at a time: the place of its first row, their numbers, the rows."""
    for first, block in blocks_of(source):
        begin, end = np.searchsorted(rows, [first, first + len(block)])
        if begin < end:
            yield int(begin), rows[begin:end], block[_slice_of(rows[begin:end] - first)]


def too_large(where: str, name: str) -> ValueError:
    """What is raised for positions that float32 does not hold."""
    return ValueError(f"{where}: {name} must be below 3.4e38, which is what float32 holds; use a larger unit")


def moved(before: Kept, after: Kept) -> Tensor:
    """[B, N, D, T] float32: how far positions move from one choice of frames to another of the same trajectories."""
    nothing = torch.zeros((), device="cpu")
    shift = [nothing if kept.origin is None else kept.origin[:, None, :, None] for kept in (before, after)]
    return (after.x - before.x + (shift[1] - shift[0])).float()


def blocks_of(source: np.ndarray | StoredArray) -> Iterator[tuple[int, np.ndarray]]:
    """The number of its first row, and some rows of an array in memory or in a file: one block after the other."""
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


def check_finite(
    where: str, name: str, block: np.ndarray, rows: np.ndarray, frames: np.ndarray | None, absent: bool
) -> None:
    """ValueError naming the first number of a block that is not finite, by its place in the array `name`.

    rows: [b] - the numbers of the block's rows; frames: of the numbers in a row, else None; absent: NaN is let through
    """
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


def origins_of(x: np.ndarray) -> np.ndarray:
    """Where positions x [B, T, N, D] are counted from, [B, D]: 0, or near them where float32 blurs their steps."""
    if x.dtype.kind != "f":
        x = x.astype(np.float64)
    steps = np.sort(np.abs(x[:, 1:] - x[:, :-1]).reshape(len(x), -1), axis=1)  # zeros first, NaN last
    first = (steps == 0).sum(axis=1)
    number = steps.shape[1] - first - np.isnan(steps).sum(axis=1)
    usual = np.zeros(len(x))
    moves = np.flatnonzero(number)
    usual[moves] = steps[moves, (first + number // 2)[moves]]
    with np.errstate(over="ignore", invalid="ignore"):
        largest = np.fmax.reduce(np.abs(x).reshape(len(x), -1), axis=1, initial=0.0).astype(np.float32)
        spacing = np.spacing(largest)
    origins = np.zeros((len(x), x.shape[-1]))
    for b in np.flatnonzero((number > 0) & (spacing > _FINE * usual)):
        there = x[b][np.isfinite(x[b]).all(axis=2)]
        if len(there):
            origins[b] = there[0]
    return origins


def _minus(x: np.ndarray, origin: np.ndarray) -> np.ndarray:
    """`x` minus `origin` in float32; what float32 does not hold becomes infinite."""
    with np.errstate(over="ignore"):
        return (x - origin if origin.any() else x).astype(np.float32, copy=False)


def checksums(x: np.ndarray) -> np.ndarray:
    """A number for each frame of x [T, N, D] float32, the same for equal frames: [T] uint64."""
    words = x.reshape(len(x), -1).view(np.uint32)
    weights = np.random.default_rng(0).integers(1, 2**64, words.shape[1], dtype=np.uint64)
    return (words * weights).sum(axis=1, dtype=np.uint64)


def repeats_of(x: np.ndarray, sums: np.ndarray) -> np.ndarray | None:
    """The place of the first frame that equals each frame of x [N, D, T], or None where all differ."""
    ordered = np.sort(sums)
    if (ordered[1:] != ordered[:-1]).all():
        return None
    order = np.argsort(sums, kind="stable")
    same = np.flatnonzero(sums[order[1:]] == sums[order[:-1]])
    repeats = np.arange(len(sums))
    for place in same:
        before, t = order[place], order[place + 1]
        if np.array_equal(x[..., before], x[..., t]):  # different frames may have the same checksum
            repeats[t] = repeats[before]
    return repeats


def check_size(where: str, name: str, kept: Kept) -> None:
    """Raise ValueError for a molecule whose positions (angstrom) an XTC file cannot hold: it has overflowed."""
    low, high = torch.aminmax(kept.x)
    largest = max(-float(low), float(high)) + (0.0 if kept.origin is None else float(kept.origin.abs().max()))
    if largest > LARGEST:
        raise ValueError(f"{where}: {name} must be positions of atoms in angstrom, got {largest:.3g}")


def warn_of_repeats(
    where: str,
    kept: Kept,
    frames: Sequence[int] | np.ndarray,
    meaning: str = "a run that was restarted may have written a part twice",
) -> None:
    """Warn of frames that equal an earlier one, where there are some.

    frames: [T] - the frames' numbers in the file; meaning: what that may mean, and what is done about it
    """
    if kept.repeats is None:
        return
    again = np.flatnonzero(kept.repeats != np.arange(len(kept.repeats)))
    if len(again):
        first, of = frames[again[0]], frames[kept.repeats[again[0]]]
        warnings.warn(
            f"{where}: {len(again)} frames equal an earlier one, the first is frame {first}, which equals frame {of}; "
            f"{meaning}",
            stacklevel=4,
        )
