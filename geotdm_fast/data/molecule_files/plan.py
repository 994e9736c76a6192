"""Which frames of a file are read, and in what order they follow each other."""

import warnings
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from geotdm_fast.data.frames import frame_slice
from geotdm_fast.data.molecule_files.contents import Source
from geotdm_fast.data.splits import split_range
from geotdm_fast.data.stretches import Stretches, TooShort
from geotdm_fast.data.times import evenly_spaced, runs_in_time, tell_apart


class Part(NamedTuple):
    """Frames that are equally far apart: in_order - those of the file that follow each other, from the first of the
    stretch to the last wanted one; wanted - those that are kept."""

    in_order: np.ndarray
    wanted: np.ndarray


class Plan(NamedTuple):
    """first: the frame that the graph is made of; parts: what is kept, in stretches that no window may leave; again:
    frames that two runs share, as (left out, kept); timed: whether the file says when its frames are; left_out: frames
    of the longest stretch that is too short for a window."""

    first: int
    parts: list[Part]
    again: list[tuple[int, int]]
    timed: bool
    left_out: int = 0

    @property
    def stretches(self) -> Stretches:
        """Of the frames that are kept, numbered from 0."""
        ends = np.cumsum([len(part.wanted) for part in self.parts])
        return Stretches(np.arange(ends[-1]), ends)


def plan_frames(
    where: str,
    source: Source,
    frames: Sequence | str | None,
    every: int | None,
    split: str | None,
    ratio: Sequence[float],
    span: int,
) -> Plan:
    """Which frames to read: of `frames` those with positions, each time once, then every n-th, then those of the split.

    Stretches shorter than a window of `span` frames are not read. Warns and raises as `even_stretches` does; ValueError
    where no window is left.
    """
    chosen = frame_slice(where, frames, every, source.num_frames)
    numbers = np.arange(chosen.start, chosen.stop)
    if source.has_positions is not None and not source.has_positions[numbers].all():
        total, numbers = len(numbers), numbers[source.has_positions[numbers]]
        warnings.warn(
            f"{where}: {total - len(numbers)} of {total} frames hold no positions and are left out", stacklevel=3
        )
        if len(numbers) == 0:
            raise ValueError(f"{where} must have frames with positions, got none")
    times = None if source.times is None else source.times[numbers]
    times = times if times is not None and tell_apart(times) else None
    runs, again = ([np.arange(len(numbers))], []) if times is None else runs_in_time(where, "times", times, numbers)
    places = [run[:: chosen.step] for run in runs]
    places = places if times is None else evenly_spaced(where, "times", times, numbers, places)
    whole = Stretches.of([numbers[own] for own in places])
    parts = _parts(whole, numbers[np.concatenate(runs)], _of_split(where, len(whole.frames), split, ratio))
    _check_span(where if split is None else f"{where}: split '{split}'", parts, span, len(numbers))
    pairs = [(int(numbers[old]), int(numbers[new])) for old, new in again]
    enough = [part for part in parts if len(part.wanted) >= span]
    left_out = max((len(part.wanted) for part in parts if len(part.wanted) < span), default=0)
    return Plan(int(whole.frames[0]), enough, pairs, times is not None, left_out)


def _of_split(where: str, total: int, split: str | None, ratio: Sequence[float]) -> range:
    return range(total) if split is None else split_range(where, total, split, ratio)


def _parts(whole: Stretches, in_order: np.ndarray, kept: range) -> list[Part]:
    """What each stretch has within the places `kept`; in_order: the frames of all stretches, ascending."""
    parts, begin = [], 0
    for end in whole.ends.tolist():
        wanted = whole.frames[max(begin, kept.start) : min(end, kept.stop)]
        if len(wanted):
            first, last = np.searchsorted(in_order, [whole.frames[begin], wanted[-1]])
            parts.append(Part(in_order[first : last + 1], wanted))
        begin = end
    return parts


def _check_span(what: str, parts: list[Part], span: int, total: int) -> None:
    lengths = [len(part.wanted) for part in parts]
    if sum(lengths) < span:
        of_all = "" if sum(lengths) == total else f" of {total}"
        raise TooShort(f"{what} must have at least span={span} frames, got {sum(lengths)}{of_all}")
    if max(lengths) < span:
        raise TooShort(
            f"{what} must have at least span={span} frames that are equally far apart, got at most "
            f"{max(lengths)} in a row"
        )
