"""Which frames of a trajectory are read: `frames: [start, stop, step]` and `every` of a configuration."""

from collections.abc import Sequence
from typing import TypeAlias, overload

import numpy as np

from geotdm_fast.data.checks import check_count

_EXPECTED = "[start, stop] or [start, stop, step], whole numbers or null"
# start, stop and step, or a text of them.
FrameChoice: TypeAlias = Sequence[int | None] | str | None


class NoFrames(ValueError):
    """A trajectory ends before the frames to read begin."""


@overload
def frame_slice(where: str, frames: FrameChoice, every: int | None, num_frames: int) -> range: ...
@overload
def frame_slice(where: str, frames: FrameChoice, every: int | None, num_frames: None) -> slice: ...
def frame_slice(where: str, frames: FrameChoice, every: int | None, num_frames: int | None) -> range | slice:
    """The numbers of the frames to read, of `num_frames`, before anything else (splits, windows) counts them.

    frames: [start, stop] or [start, stop, step] as a slice of Python has them: numbers from 0, without stop, negative
        ones from the end, null for the first, the last, every one; the text 'start:stop:step' is the same
    every: every n-th frame, the step by another name
    num_frames: how many there are; None where that is not known before reading, then a slice comes back
    where: the caller's name, for messages
    Raises ValueError/TypeError for a step given twice or under 1, and where the trajectory has not all these frames,
    NoFrames where it has none of them.
    """
    start, stop, step = three_of(where, frames)
    if every is not None:
        if step is not None:
            raise ValueError(f"{where}: every must not be given beside a step in frames, got {every} and {step}")
        step = check_count(where, "every", every)
    step = 1 if step is None else check_count(where, "the step in frames", step)
    if num_frames is None:
        return slice(start, stop, step)
    for what, value in (("start", start), ("stop", stop)):
        if value is not None and not -num_frames <= value <= num_frames:
            error = NoFrames if what == "start" and value > 0 else ValueError
            raise error(f"{where}: frames must {what} within the {num_frames} frames there are, got {value}")
    chosen = range(*slice(start, stop, step).indices(num_frames))
    if not chosen:
        raise NoFrames(f"{where}: frames must choose at least one of {num_frames} frames, got {frames!r}")
    return chosen


def three_of(where: str, frames: FrameChoice) -> list[int | None]:
    """start, stop and step, each a whole number or None."""
    if frames is None:
        return [None, None, None]
    parts = frames
    if isinstance(frames, str):
        try:
            parts = [int(word) if word.strip() else None for word in frames.split(":")]
        except ValueError:
            parts = None
    if isinstance(parts, str) or not isinstance(parts, Sequence) or not 2 <= len(parts) <= 3:
        raise ValueError(f"{where}: frames must be {_EXPECTED}, got {frames!r}")
    for value in parts:
        if value is not None and (isinstance(value, bool) or not isinstance(value, (int, np.integer))):
            raise TypeError(f"{where}: frames must be {_EXPECTED}, got {frames!r}")
    return [*(None if value is None else int(value) for value in parts), None][:3]
