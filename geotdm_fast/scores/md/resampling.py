"""From sums of every trajectory to a score, its floor and its interval.

Every score here is a function of sums over trajectories: counts in bins, squared displacements, transitions. So each
trajectory's sums are computed once, and those of a half of the trajectories, or of a bootstrap sample, are a product of
weights [R, M] with them.

The score of distributions of a few hundred trajectories is above zero even between equal ones, the more the fewer there
are. So the score and its floor are of the same size: the true trajectories are halved at random, many times;
    floor = score(true ones of half A, true ones of half B)
    value = score(drawn ones of half A, one for each true one, true ones of half B)
averaged over the halvings. The range of the floor is that of 95 % of the halvings. The interval of the value is
    value + (the 2.5 % and 97.5 % points of the score of bootstrap samples - their mean)
where a bootstrap sample takes as many true trajectories as there are, with repetition, and all that was drawn of them:
repetition makes distributions rougher and shifts the score, the differences from the mean do not have that shift.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

# Of the true trajectories and of the drawn ones.
Both = tuple[np.ndarray, np.ndarray]
Compare = Callable[[np.ndarray, np.ndarray], np.ndarray]
_TAIL = 0.025


class Estimate(NamedTuple):
    """value, of the drawn trajectories beside the true ones; low, high: its 95 % interval; floor: of true trajectories
    beside true ones; floor_low, floor_high: its 95 % range. NaN where there is none."""

    value: float
    low: float
    high: float
    floor: float
    floor_low: float
    floor_high: float


class Resampling:
    """The halvings and the bootstrap samples of B true trajectories, and K drawn ones of each.

    num_truth, num_draws: B, at least 2, and K
    count: R - how many halvings, and how many bootstrap samples
    seed: of a generator of its own: equal seeds give equal weights
    """

    def __init__(self, num_truth: int, num_draws: int, count: int, seed: int):
        self.num_truth, self.num_draws, self.count = num_truth, num_draws, count
        generator = np.random.default_rng(seed)
        half = num_truth // 2
        order = np.argsort(generator.random((count, num_truth)), axis=1)
        rows = np.arange(count)[:, None]
        self.first = np.zeros((count, num_truth), np.float32)
        self.second = np.zeros((count, num_truth), np.float32)
        self.first[rows, order[:, :half]] = 1
        self.second[rows, order[:, half : 2 * half]] = 1
        self.drawn = np.zeros((count, num_truth * num_draws), np.float32)
        draw = generator.integers(0, num_draws, (count, half))
        self.drawn[rows, order[:, :half] * num_draws + draw] = 1
        picked = generator.integers(0, num_truth, (count, num_truth))
        self.bootstrap = np.zeros((count, num_truth), np.float32)
        np.add.at(self.bootstrap, (rows, picked), 1)
        self.bootstrap_drawn = np.repeat(self.bootstrap, num_draws, axis=1)

    def estimate(self, sums: Both, compare: Compare) -> Estimate:
        """A score of the sums of every true trajectory [B, ...] and of every drawn one [B K, ...].

        compare(drawn sums [R, ...], true sums [R, ...]) -> [R]
        """
        return self.summary(*self.scores(sums, compare))

    def scores(self, sums: Both, compare: Compare) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The scores, floors and bootstrap scores, each [R] or [R, F] as `compare` gives them."""
        truth, drawn = sums
        second = _weighted(self.second, truth)
        value = compare(_weighted(self.drawn, drawn), second)
        floor = compare(_weighted(self.first, truth), second)
        boot = compare(_weighted(self.bootstrap_drawn, drawn), _weighted(self.bootstrap, truth))
        return value, floor, boot

    def mean_over_rows(self, parts: Sequence[tuple[np.ndarray, np.ndarray, np.ndarray]]) -> Estimate:
        """The estimate of the mean over quantities whose `scores` [R, F] came in parts."""
        value, floor, boot = (np.concatenate(rows, axis=1).mean(axis=1) for rows in zip(*parts, strict=True))
        return self.summary(value, floor, boot)

    def summary(self, value: np.ndarray, floor: np.ndarray, boot: np.ndarray) -> Estimate:
        """What scores of halvings and bootstrap samples [R] say; those that are not finite are passed over."""
        middle = _mean(value)
        low, high = _range(boot - _mean(boot)) if len(boot) else (np.nan, np.nan)
        return Estimate(middle, middle + low, middle + high, _mean(floor), *_range(floor))


def each(function: Callable[[np.ndarray], np.ndarray], both: Both) -> Both:
    """`function` of the true and of the drawn array."""
    return function(both[0]), function(both[1])


def frame_sums(values: np.ndarray) -> np.ndarray:
    """[M, 2] float64 - the sums over frames of values [M, T] of every trajectory, and how many there are."""
    return np.stack([values.sum(1, dtype=np.float64), np.full(len(values), float(values.shape[1]))], axis=1)


def mean_over_frames(sums: np.ndarray, _: np.ndarray) -> np.ndarray:
    """A score that looks at one side alone: the mean of what `frame_sums` summed."""
    return sums[:, 0] / sums[:, 1]


def _weighted(weights: np.ndarray, sums: np.ndarray) -> np.ndarray:
    """weights [R, M] times sums [M, ...]: [R, ...]."""
    return (weights.astype(sums.dtype, copy=False) @ sums.reshape(len(sums), -1)).reshape(len(weights), *sums.shape[1:])


def _mean(values: np.ndarray) -> float:
    known = values[np.isfinite(values)]
    return float(known.mean()) if len(known) else float("nan")


def _range(values: np.ndarray) -> tuple[float, float]:
    known = values[np.isfinite(values)]
    if len(known) == 0:
        return float("nan"), float("nan")
    low, high = np.quantile(known, (_TAIL, 1 - _TAIL))
    return float(low), float(high)
