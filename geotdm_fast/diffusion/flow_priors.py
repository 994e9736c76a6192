"""Priors of a flow that know the given frames: a mean, and how its noise hangs together over time.

Both are linear over the frames and the same for every node and axis, so a prior turns and moves with the given frames.
"""

from typing import NamedTuple

import numpy as np

from geotdm_fast.conditioning import Frames

# Priors of a `Flow`, and which of them go on with the velocity of the given frames.
FLOW_PRIORS = ("last_frame", "learned", "walk", "velocity")
MOVING = ("walk", "velocity")


class Neighbours(NamedTuple):
    """The given frames beside a noisy frame `t`: the last one before it and the first one behind it, or None."""

    t: int
    before: int | None
    after: int | None

    @classmethod
    def of(cls, t: int, given: tuple[int, ...]) -> "Neighbours":
        return cls(t, max((g for g in given if g < t), default=None), min((g for g in given if g > t), default=None))


def moving_mean(frames: Frames) -> np.ndarray:
    """Weights W [G, T_noisy] of the given frames: the mean of noisy frame t is sum_g W_gt x_g. Columns add up to 1.

    Behind the last given frame g, with g' the given one before it: x_g + (t - g) (x_g - x_g') / (g - g'), the velocity
    of the last two; before the first one the same backwards; between two the straight line that joins them. A single
    given frame has no velocity: its place.
    """
    given = frames.given
    weights = np.zeros((len(given), len(frames.noisy)))
    for column, t in enumerate(frames.noisy):
        _, before, after = Neighbours.of(t, given)
        if before is not None and after is not None:
            ends = (before, after)
        elif len(given) == 1:
            weights[0, column] = 1
            continue
        else:
            ends = (given[-2], given[-1]) if after is None else (given[0], given[1])
        share = (t - ends[0]) / (ends[1] - ends[0])
        weights[given.index(ends[0]), column] = 1 - share
        weights[given.index(ends[1]), column] = share
    return weights


def walk_factor(frames: Frames) -> np.ndarray:
    """L [T_noisy, T_noisy], lower triangular: L z of z ~ N(0, I) is a random walk of unit steps a frame.

    Its covariance K = L L^T has, for noisy frames t <= u of one gap between given frames,

        K_tu = t - g                         behind the last given frame g
        K_tu = (t - g) (g' - u) / (g' - g)   between given frames g and g': the walk that arrives (a Brownian bridge)
        K_tu = g' - u                        before the first given frame g'

    and 0 for frames of different gaps. For a forecast L z is the running sum of z.
    """
    noisy = [Neighbours.of(t, frames.given) for t in frames.noisy]
    covariance = np.zeros((len(noisy), len(noisy)))
    for i, (t, before, after) in enumerate(noisy):
        for j, (u, *others) in enumerate(noisy[i:], start=i):
            if others == [before, after]:
                since = None if before is None else t - before
                until = None if after is None else after - u
                if since is None or until is None:
                    covariance[i, j] = until if since is None else since
                else:
                    covariance[i, j] = since * until / (since + (u - t) + until)
                covariance[j, i] = covariance[i, j]
    return np.linalg.cholesky(covariance)
