"""Frames by their times: windows want frames that are equally far apart."""

import warnings
from collections.abc import Sequence

import numpy as np

from geotdm_fast.data.checks import check_positions, check_shape

_ROUNDING = 4 * float(np.finfo(np.float32).eps)  # many formats keep times in float32


def even_stretches(where: str, name: str, times: np.ndarray, frames: Sequence[int] | None = None) -> list[np.ndarray]:
    """Stretches of frames that are equally far apart in time, as places in `times`; no window may cross their ends.

    Where times run back, a run was restarted: the frames before that come again are left out, they are those that the
    run did not go on from. Where it starts over from its first time or before, a stretch ends. Where two frames are
    further apart, or nearer, than frames usually are, a stretch ends.

    times: [T] - times or steps, name: what they are called
    frames: [T] - the frames' numbers in the file, for messages; by default 0 ... T - 1
    Warns of what was left out and where a stretch ends. Raises ValueError for times that are not finite, and where
    fewer than half of the frames are equally far apart.
    """
    times = check_positions(where, name, times, "frames", dtype=np.float64)
    frames = np.arange(len(times)) if frames is None else np.asarray(frames)
    check_shape(where, name, times, (len(frames),))
    runs = np.split(np.arange(len(times)), np.flatnonzero(np.diff(times) <= 0) + 1)
    if len(runs) > 1 and len(runs) > len(times) / 2:
        first = runs[1][0]
        raise ValueError(
            f"{where}: {name} must ascend, got {times[first]:g} in frame {frames[first]} after {times[first - 1]:g}"
        )
    stretches, num_left_out = _without_what_comes_again(times, runs)
    if len(runs) > 1:
        first = runs[1][0]
        warnings.warn(
            f"{where}: {name} run back {len(runs) - 1} times, first to {times[first]:g} in frame {frames[first]} after "
            f"{times[first - 1]:g}: {num_left_out} frames that come again later are left out, and no window goes from "
            f"one run into another",
            stacklevel=3,
        )
    return _evenly_spaced(where, name, times, frames, stretches)


def _without_what_comes_again(times: np.ndarray, runs: list[np.ndarray]) -> tuple[list[np.ndarray], int]:
    stretches, num_left_out = [runs[0]], 0
    for run in runs[1:]:
        before, start = stretches[-1], times[run[0]]
        if times[before[0]] < start or (len(before) == 1 and times[before[0]] == start):
            kept = before[times[before] < start]
            num_left_out += len(before) - len(kept)
            stretches[-1] = np.concatenate([kept, run])
        else:
            stretches.append(run)
    return stretches, num_left_out


def _evenly_spaced(
    where: str, name: str, times: np.ndarray, frames: np.ndarray, stretches: list[np.ndarray]
) -> list[np.ndarray]:
    """The stretches cut where two frames are not as far apart as usual."""
    steps = [np.diff(times[stretch]) for stretch in stretches]
    every = np.concatenate(steps)
    if len(every) == 0:
        return stretches
    usual = float(np.median(every))
    tolerance = 1e-3 * usual + _ROUNDING * float(np.abs(times).max())
    unusual = [np.flatnonzero(np.abs(step - usual) > tolerance) for step in steps]
    number = sum(map(len, unusual))
    if number == 0:
        return stretches
    where_first = next(i for i, places in enumerate(unusual) if len(places))
    place = unusual[where_first][0]
    first, step = stretches[where_first][place], steps[where_first][place]
    if number > len(every) / 2:
        raise ValueError(
            f"{where}: {name} must be equally far apart, got {every[0]:g} after frame {frames[stretches[0][0]]} and "
            f"{step:g} after frame {frames[first]}; choose frames that are, with frames: [start, stop, step]"
        )
    cut = [part for s, u in zip(stretches, unusual, strict=True) for part in np.split(s, u + 1)]
    longest = max(map(len, cut))
    warnings.warn(
        f"{where}: {name} are {usual:g} apart but in {number} places, the first {step:g} after frame {frames[first]}; "
        f"no window crosses these, and the longest stretch between has {longest} frames",
        stacklevel=4,
    )
    return cut
