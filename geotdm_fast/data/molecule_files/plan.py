"""Which frames of a file are read, and in what order they follow each other."""

import warnings
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from geotdm_fast.data.frames import frame_slice
from geotdm_fast.data.molecule_files.contents import Source
from geotdm_fast.data.molecule_files.times import check_spacing, frames_in_time
from geotdm_fast.data.splits import split_range


class Plan(NamedTuple):
    """in_order: the frames of the file that follow each other; wanted: those that are kept; again: frames that two runs
    share, as (old, new)."""

    in_order: np.ndarray
    wanted: np.ndarray
    again: list[tuple[int, int]]


def plan_frames(
    where: str,
    source: Source,
    frames: Sequence | str | None,
    every: int | None,
    split: str | None,
    ratio: Sequence[float],
) -> Plan:
    """Which frames to read: of `frames` those with positions, each once, then every n-th, then those of the split."""
    chosen = frame_slice(where, frames, every, source.num_frames)
    numbers = np.arange(chosen.start, chosen.stop)
    if source.has_positions is not None and not source.has_positions[numbers].all():
        total, numbers = len(numbers), numbers[source.has_positions[numbers]]
        warnings.warn(
            f"{where}: {total - len(numbers)} of {total} frames hold no positions and are left out", stacklevel=3
        )
        if len(numbers) == 0:
            raise ValueError(f"{where} must have frames with positions, got none")
    numbers, again = frames_in_time(where, source.times, numbers)
    kept = numbers[:: chosen.step]
    check_spacing(where, source.times, kept)
    part = range(len(kept)) if split is None else split_range(where, len(kept), split, ratio)
    return Plan(numbers, kept[part.start : part.stop], again)
