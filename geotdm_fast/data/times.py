"""Frames by their times: windows want frames that are equally far apart, whatever file they are from."""

import warnings
from collections.abc import Sequence

import numpy as np

from geotdm_fast.data.checks import check_positions, check_shape

# Times may be rounded to a few digits: steps differ by so much of a step. Many formats keep times in float32.
_UNEVEN = 0.05
_ROUNDING = 4 * float(np.finfo(np.float32).eps)


def tell_apart(times: np.ndarray) -> bool:
    """Whether times tell frames apart: not if they are all equal, or so late that their precision rounds steps away.

    times: [T] float, in the precision of the file
    """
    if len(times) < 2 or not np.isfinite(times).all() or (times == times[0]).all():
        return False
    average = (float(times.max()) - float(times.min())) / (len(times) - 1)
    return float(np.spacing(np.abs(times).max())) < average / 4


def unusual_steps(times: np.ndarray, usual: float | None = None) -> tuple[float, np.ndarray]:
    """The usual step of times [T], T > 1, their median if not given, and the frames after which a step is another."""
    steps = np.diff(times)
    usual = float(np.median(steps)) if usual is None else usual
    tolerance = _UNEVEN * abs(usual) + _ROUNDING * float(np.abs(times).max())
    return usual, np.flatnonzero(np.abs(steps - usual) > tolerance)


def frame_time(times: np.ndarray | None, step: int = 1) -> float | None:
    """The usual time between two frames of which every `step`-th is taken; None without times that tell frames apart.

    times: [..., T] - of the file's frames; rounded to the 6 digits that float32 has
    """
    if times is None or not all(tell_apart(own) for own in np.atleast_2d(times)):
        return None
    usual = float(np.median(np.diff(times, axis=-1))) * step
    return float(f"{usual:.6g}") if usual > 0 else None


def even_stretches(
    where: str, name: str, times: np.ndarray, frames: Sequence[int] | np.ndarray | None = None, every: int = 1
) -> list[np.ndarray]:
    """Stretches of frames that are equally far apart in time, as places in `times`; no window may cross their ends.

    Where times run back, a run was restarted: the frames before that come again are left out, they are those that the
    run did not go on from. Where it starts over from its first time or before, a stretch ends. Of what remains every
    n-th frame is taken. Where two of these are further apart, or nearer, than they usually are, a stretch ends.

    times: [T] - times or steps, name: what they are called
    frames: [T] - the frames' numbers in the file, for messages; by default 0 ... T - 1
    every: take every n-th frame
    Warns of what was left out and where a stretch ends. Raises ValueError for times that are not finite, and where
    fewer than half of the frames are equally far apart.
    """
    runs, _ = runs_in_time(where, name, times, frames)
    return evenly_spaced(where, name, times, frames, [run[::every] for run in runs])


def runs_in_time(
    where: str, name: str, times: np.ndarray, frames: Sequence[int] | np.ndarray | None = None
) -> tuple[list[np.ndarray], list[tuple[int, int]]]:
    """The first half of `even_stretches`: runs whose times ascend, as places in `times`, each restarted run joined to
    the one that it goes on from; and the pairs of places, left out and kept, at which a joined run begins."""
    times, frames = _checked(where, name, times, frames)
    runs = np.split(np.arange(len(times)), np.flatnonzero(np.diff(times) <= 0) + 1)
    if len(runs) == 1:
        return runs, []
    first = runs[1][0]
    if len(runs) > len(times) / 2:
        raise ValueError(
            f"{where}: {name} must ascend, got {times[first]:g} in frame {frames[first]} after {times[first - 1]:g}"
        )
    joined, again, num_left_out = [runs[0]], [], 0
    for run in runs[1:]:
        before, start = joined[-1], times[run[0]]
        if times[before[0]] < start or (len(before) == 1 and times[before[0]] == start):
            kept = before[times[before] < start]
            num_left_out += len(before) - len(kept)
            again += [(int(place), int(run[0])) for place in before[times[before] == start]]
            joined[-1] = np.concatenate([kept, run])
        else:
            joined.append(run)
    places = "1 place" if len(runs) == 2 else f"{len(runs) - 1} places"
    anew = "" if len(joined) == 1 else f"; {len(joined) - 1} runs start over, and no window goes on into one of these"
    warnings.warn(
        f"{where}: {name} run back in {places}, first to {times[first]:g} in frame {frames[first]} after "
        f"{times[first - 1]:g}: {num_left_out} frames that come again later are left out{anew}",
        stacklevel=4,
    )
    return joined, again


def evenly_spaced(
    where: str, name: str, times: np.ndarray, frames: Sequence[int] | np.ndarray | None, runs: list[np.ndarray]
) -> list[np.ndarray]:
    """The second half of `even_stretches`: the runs, cut where two frames are not as far apart as they usually are."""
    times, frames = _checked(where, name, times, frames)
    steps = np.concatenate([np.diff(times[run]) for run in runs])
    if len(steps) == 0:
        return runs
    usual = float(np.median(steps))
    unusual = [unusual_steps(times[run], usual)[1] for run in runs]
    number = sum(map(len, unusual))
    if number == 0:
        return runs
    run, place = next((run, places[0]) for run, places in zip(runs, unusual, strict=True) if len(places))
    step = times[run[place + 1]] - times[run[place]]
    if number > len(steps) / 2:
        raise ValueError(
            f"{where}: {name} must be equally far apart, got {steps[0]:g} after frame {frames[runs[0][0]]} and "
            f"{step:g} after frame {frames[run[place]]}; choose frames that are, with frames: [start, stop, step]"
        )
    cut = [part for own, places in zip(runs, unusual, strict=True) for part in np.split(own, places + 1)]
    longest = max(map(len, cut))
    warnings.warn(
        f"{where}: {name} are {usual:g} apart but in {number} places, the first {step:g} after frame "
        f"{frames[run[place]]}; no window crosses these, and the longest stretch between has {longest} frames",
        stacklevel=4,
    )
    return cut


def _checked(
    where: str, name: str, times: np.ndarray, frames: Sequence[int] | np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """Times as float64, and frame numbers; ValueError where they do not go together or a time is not finite."""
    times = check_positions(where, name, times, "frames", dtype=np.float64)
    frames = np.arange(len(times)) if frames is None else np.asarray(frames)
    check_shape(where, name, times, (len(frames),))
    return times, frames
