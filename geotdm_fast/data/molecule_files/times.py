"""The times of frames: what comes twice, runs back, or is not equally spaced."""

import warnings

import numpy as np

# Times may be rounded to a few digits: steps differ by so much of a step.
_UNEVEN = 0.05


def frames_in_time(where: str, times: np.ndarray | None, numbers: np.ndarray) -> tuple[np.ndarray, list[tuple]]:
    """The frames without those that a restarted run wrote again, and the pairs (old, new) of where a run began again.

    A run that is restarted from a checkpoint goes on from a time before its last frame. Its own frames are kept, as
    `gmx trjcat` does, and a warning counts the others.

    times: [frames of the file] float, in the precision of the file, or None where it has none
    numbers: ascending numbers of frames in the file
    Raises ValueError where the time runs back to the beginning, that is where a second trajectory follows.
    """
    if times is None:
        return numbers, []
    t = times[numbers]
    if not _tell_apart(t):
        return numbers, []
    later = np.append(np.minimum.accumulate(t[::-1])[::-1][1:], np.inf)
    keep = t < later
    if keep.all():
        return numbers, []
    back = np.flatnonzero(np.diff(t) <= 0) + 1
    for i in back:
        if t[i] < t[0] or (t[i] == t[0] and (t[:i] != t[0]).any()):
            raise ValueError(
                f"{where}: times must go on from frame to frame, but frame {numbers[i]} goes back from {t[i - 1]:g} to "
                f"{t[i]:g}, where the file begins: two trajectories in one file. Read each by itself: frames: "
                f"[{numbers[0]}, {numbers[i]}] and frames: [{numbers[i]}, null]"
            )
    again = [(int(numbers[np.flatnonzero(t[:i] == t[i])[-1]]), int(numbers[i])) for i in back if (t[:i] == t[i]).any()]
    warnings.warn(
        f"{where}: {int((~keep).sum())} of {len(t)} frames come twice and are read once: frame {numbers[back[0]]} goes "
        f"back from time {t[back[0] - 1]:g} to {t[back[0]]:g}, as a restarted run does",
        stacklevel=4,
    )
    return numbers[keep], again


def check_spacing(where: str, times: np.ndarray | None, numbers: np.ndarray) -> None:
    """Raise ValueError unless the frames `numbers` are equally spaced in time."""
    if times is None or len(numbers) < 3:
        return
    t = times[numbers]
    if not _tell_apart(t):
        return
    steps = np.diff(t.astype(np.float64))
    usual = float(np.median(steps))
    wrong = np.abs(steps - usual) > _UNEVEN * abs(usual) + 2 * np.spacing(np.abs(t).max())
    if wrong.any():
        i = int(wrong.argmax())
        raise ValueError(
            f"{where}: frames must be equally spaced in time, but the step is {usual:g} mostly and {steps[i]:g} from "
            f"frame {numbers[i]} (time {t[i]:g}) to frame {numbers[i + 1]} (time {t[i + 1]:g}); read one part of the "
            f"file, for example frames: [{numbers[0]}, {numbers[i] + 1}] or frames: [{numbers[i + 1]}, null]"
        )


def _tell_apart(t: np.ndarray) -> bool:
    """Whether times tell frames apart: not if they are all equal, or so late that their precision rounds steps away."""
    if len(t) < 2 or not np.isfinite(t).all() or (t == t[0]).all():
        return False
    average = (float(t.max()) - float(t.min())) / (len(t) - 1)
    return float(np.spacing(np.abs(t).max())) < average / 4
