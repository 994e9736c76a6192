"""Histograms of every trajectory, and how far two distributions are apart."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Bins:
    """Equal bins of F quantities, and one more at each end for what lies beyond.

    low, high: [F] - where the bins of each quantity begin and end
    count: bins between them
    """

    low: np.ndarray
    high: np.ndarray
    count: int

    @classmethod
    def around(cls, truth: np.ndarray, count: int) -> "Bins":
        """From the least to the largest of each row of truth [F, ...], a twentieth wider on both sides."""
        flat = truth.reshape(len(truth), -1)
        low, high = flat.min(1).astype(np.float64), flat.max(1).astype(np.float64)
        room = np.maximum(0.05 * (high - low), 1e-6 * np.maximum(1.0, np.abs(high)))
        return cls(low - room, high + room, count)

    @classmethod
    def circle(cls, num_rows: int, count: int) -> "Bins":
        """Of angles in -pi..pi."""
        return cls(np.full(num_rows, -np.pi), np.full(num_rows, np.pi), count)

    @property
    def width(self) -> np.ndarray:
        return (self.high - self.low) / self.count

    def index(self, values: np.ndarray) -> np.ndarray:
        """[F, S] int32 in 0 .. count + 1 - the bin of values [F, S]; 0 and count + 1 are the ends'.

        A value on the upper edge itself is in the last bin.
        """
        scale = (self.count / (self.high - self.low))[:, None].astype(values.dtype)
        place = (values - self.low[:, None].astype(values.dtype)) * scale
        inside = (place >= 0) & (place <= self.count)
        np.minimum(place, self.count - 1, out=place, where=inside)
        np.floor(place, out=place)
        np.clip(place, -1, self.count, out=place)
        return place.astype(np.int32) + 1


def trajectory_histograms(values: np.ndarray, bins: Bins, num_frames: int) -> np.ndarray:
    """[M, F, count + 2] float32 - how often values [F, M num_frames] of each trajectory fall into each bin."""
    num_rows = len(values)
    num_trajectories = values.shape[1] // num_frames
    wide = bins.count + 2
    place = bins.index(values).reshape(num_rows, num_trajectories, num_frames).astype(np.int64)
    place += (np.arange(num_rows) * wide)[:, None, None]
    place += (np.arange(num_trajectories) * (num_rows * wide))[:, None]
    counts = np.bincount(place.ravel(), minlength=num_trajectories * num_rows * wide)
    return counts.reshape(num_trajectories, num_rows, wide).astype(np.float32)


def jensen_shannon(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The Jensen-Shannon divergence of histograms [..., bins], in bits: 0 for equal ones, 1 for ones without overlap.

    JSD = H((p + q) / 2) - (H(p) + H(q)) / 2, H(p) = -sum_i p_i log2 p_i; NaN where one of them is empty
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        p = a / a.sum(-1, keepdims=True, dtype=np.float64)
        q = b / b.sum(-1, keepdims=True, dtype=np.float64)
    return np.maximum(_entropy((p + q) / 2) - (_entropy(p) + _entropy(q)) / 2, 0.0)


def _entropy(p: np.ndarray) -> np.ndarray:
    return -(p * np.log2(np.where(p == 0, 1.0, p))).sum(-1)


def wasserstein(a: np.ndarray, b: np.ndarray, points: np.ndarray) -> np.ndarray:
    """W1 = integral |F_a - F_b| of how often each of the values `points [E]` came: a, b [..., E]."""
    with np.errstate(invalid="ignore", divide="ignore"):
        p = np.cumsum(a, -1, dtype=np.float64) / a.sum(-1, keepdims=True, dtype=np.float64)
        q = np.cumsum(b, -1, dtype=np.float64) / b.sum(-1, keepdims=True, dtype=np.float64)
    return (np.abs(p - q)[..., :-1] * np.diff(points)).sum(-1)


def value_points(truth: np.ndarray, drawn: np.ndarray, count: int = 1000) -> np.ndarray:
    """Ascending points [E] for `wasserstein`: all values where they are at most `count`, else their quantiles.

    Quantiles, so that outliers cost no resolution; a value counts at the point nearest to it.
    """
    pooled = np.unique(np.concatenate([truth.ravel(), drawn.ravel()]).astype(np.float64))
    if len(pooled) > count:
        pooled = np.unique(np.quantile(pooled, np.linspace(0, 1, count)))
    return pooled


def point_counts(
    values: np.ndarray, points: np.ndarray, num_trajectories: int, owner: np.ndarray | None = None
) -> np.ndarray:
    """[M, E] float32 - how many values of each trajectory are nearest to each of the ascending points.

    values: [M, ...], of M trajectories one after the other; or [S, ...] of the trajectories owner [S]
    """
    place = np.searchsorted((points[1:] + points[:-1]) / 2, values.ravel())
    owner = np.arange(num_trajectories) if owner is None else owner
    place = place.reshape(len(owner), -1) + owner[:, None] * len(points)
    counts = np.bincount(place.ravel(), minlength=num_trajectories * len(points))
    return counts.reshape(num_trajectories, -1).astype(np.float32)
