"""How fast torsions forget where they were."""

from typing import NamedTuple

import numpy as np

from geotdm_fast.scores.md.resampling import Resampling, each
from geotdm_fast.scores.md.rows import Row, plain_number
from geotdm_fast.scores.md.torsions import SlowTorsions

_LEAST_VARIANCE = 1e-9


class Correlations(NamedTuple):
    """Autocorrelations for a picture: lags [L] (frames); truth, drawn [F, L]; atoms [F, 4] of the torsions."""

    lags: np.ndarray
    truth: np.ndarray
    drawn: np.ndarray
    atoms: np.ndarray


def decorrelation_rows(torsions: SlowTorsions, resampling: Resampling) -> tuple[list[Row], Correlations]:
    """C(lag) = (<cos(phi(t + lag) - phi(t))> - |m|^2) / (1 - |m|^2), m = <exp(i phi)>, over t and trajectories.

    The mean of |C - C_true| over torsions and lags up to half of the frames; and of torsions that fall below 1/e in
    that time the mean of |ln(time / true time)| of when they do, between two frames by a straight line.
    """
    torsions.ensemble.need_lag(1)
    angles = torsions.both()
    num_frames = torsions.ensemble.num_frames
    lags = np.arange(num_frames // 2 + 1)
    sums = each(lambda angle: correlation_sums(angle, lags), angles)
    function = lambda one: autocorrelation(one, num_frames, lags)
    truth, drawn = each(lambda one: function(one.sum(0)[None])[0], sums)
    times = each(crossing_times, (truth, drawn))
    detail = {
        "atoms": torsions.atoms.tolist(),
        "times_truth": [plain_number(t) for t in times[0]],
        "times_drawn": [plain_number(t) for t in times[1]],
    }
    difference = lambda a, b: _known_mean(np.abs(function(a) - function(b))[..., 1:].reshape(len(a), -1))
    about = f"mean |C - C true| of {len(torsions.atoms)} torsions"
    rows = [Row("decorrelation", about, resampling.estimate(sums, difference), detail=detail)]
    if np.isfinite(times[0]).any():
        ratio = lambda a, b: np.abs(np.log(crossing_times(function(a)) / crossing_times(function(b))))
        estimate = resampling.estimate(sums, lambda a, b: _known_mean(ratio(a, b)))
        count = int(np.isfinite(times[0]).sum())
        rows.append(Row("decorrelation", f"|ln time / time true| of {count} torsions", estimate))
    return rows, Correlations(lags, truth, drawn, torsions.atoms)


def correlation_sums(angle: np.ndarray, lags: np.ndarray) -> np.ndarray:
    """[M, F, L + 3] - sums over t of cos(phi(t + lag) - phi(t)), then of cos phi, sin phi and 1, for phi [F, M, T]."""
    num_frames = angle.shape[2]
    circle = np.exp(1j * angle)
    spectrum = np.fft.fft(circle, 2 * num_frames)
    products = np.fft.ifft(np.abs(spectrum) ** 2)[..., lags].real  # [F, M, L]
    total = circle.sum(-1)[..., None]
    count = np.full(total.shape, float(num_frames))
    return np.concatenate([products, total.real, total.imag, count], axis=-1).swapaxes(0, 1)


def autocorrelation(sums: np.ndarray, num_frames: int, lags: np.ndarray) -> np.ndarray:
    """C [R, F, L] from `correlation_sums` of trajectories of num_frames; NaN for a torsion that does not move."""
    count = sums[..., -1:]
    square = (sums[..., -3:-1] ** 2).sum(-1, keepdims=True) / count**2  # |m|^2
    pairs = count / num_frames * (num_frames - lags)
    variance = np.where(1 - square > _LEAST_VARIANCE, 1 - square, np.nan)
    return (sums[..., : len(lags)] / pairs - square) / variance


def crossing_times(correlation: np.ndarray) -> np.ndarray:
    """When C [..., L] first falls below 1/e (frames); NaN where it does not."""
    below = correlation < np.exp(-1)
    first = below.argmax(-1)
    pick = lambda lag: np.take_along_axis(correlation, lag[..., None], -1)[..., 0]
    before, after = pick(np.maximum(first - 1, 0)), pick(first)
    with np.errstate(invalid="ignore", divide="ignore"):
        time = first - 1 + (before - np.exp(-1)) / (before - after)
    return np.where(below.any(-1) & (first > 0), time, np.nan)


def _known_mean(values: np.ndarray) -> np.ndarray:
    """The mean of the finite values of each row [R, ...]; NaN where there are none."""
    known = np.isfinite(values)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(known, values, 0).sum(-1) / known.sum(-1)
