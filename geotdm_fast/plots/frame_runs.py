"""Stretches of given frames and of drawn ones, as lines of a picture."""

import numpy as np


def runs(mask: np.ndarray) -> list[np.ndarray]:
    """The stretches of consecutive frames where `mask` [T] is true."""
    frames = np.flatnonzero(mask)
    return [r for r in np.split(frames, np.flatnonzero(np.diff(frames) > 1) + 1) if len(r)]


def with_neighbours(run: np.ndarray, num_frames: int) -> np.ndarray:
    """The run and the given frames at its ends, so that lines join."""
    return np.arange(max(run[0] - 1, 0), min(run[-1] + 2, num_frames))
