"""How atoms move: fluctuation about the mean, mean squared displacement, distances after superposition."""

import numpy as np

from geotdm_fast.scores.md.ensemble import Ensemble, Unfit
from geotdm_fast.scores.md.histograms import point_counts, value_points, wasserstein
from geotdm_fast.scores.md.resampling import Both, Resampling, each, frame_sums, mean_over_frames
from geotdm_fast.scores.md.rows import Row, plain_number
from geotdm_fast.scores.md.superposition import mean_structure, rmsd, superposed


class Superposed:
    """The frames of an ensemble superposed on the mean true structure, computed when first asked for."""

    def __init__(self, ensemble: Ensemble):
        self.ensemble = ensemble
        self._found: Both | None = None
        self.mean = np.zeros((3, 0))

    def both(self) -> Both:
        """The true frames [3, N, B, T] and the drawn ones [3, N, B K, T]."""
        ensemble = self.ensemble
        if ensemble.num_atoms < 3:
            raise Unfit(f"superposition needs three atoms, there are {ensemble.num_atoms}")
        if ensemble.cell is not None:
            raise Unfit("atoms in a periodic box are not superposed")
        if self._found is None:
            flat = lambda x: x.reshape(3, ensemble.num_atoms, -1)
            mean = self.mean = mean_structure(flat(ensemble.truth), ensemble.reference)
            self._found = each(lambda x: superposed(flat(x), mean).reshape(x.shape), ensemble.both)
        return self._found

    def deviations(self) -> Both:
        """The same as differences from the mean true structure."""
        return each(lambda x: x - self.mean.astype(x.dtype)[:, :, None, None], self.both())


def rmsf_rows(ensemble: Ensemble, frames: Superposed, resampling: Resampling) -> list[Row]:
    """RMSF_i = sqrt(<|x_i - <x_i>|^2>): mean |RMSF - RMSF true| over atoms, and the correlation of both.

    Frames are superposed on the mean true structure and averaged over all trajectories. In a periodic box they are not
    superposed, and <x_i> is the mean of each trajectory.
    """
    periodic = ensemble.cell is not None
    sums = each(_sums_about_own_mean, ensemble.both) if periodic else each(_fluctuation_sums, frames.deviations())
    truth, drawn = each(lambda one: rmsf(one.sum(0)[None])[0], sums)
    detail = {"truth": truth.tolist(), "drawn": drawn.tolist(), "superposed": not periodic}
    difference = lambda a, b: np.abs(rmsf(a) - rmsf(b)).mean(-1)
    rows = [Row("rmsf", "mean |RMSF - RMSF true|", resampling.estimate(sums, difference), ensemble.unit, detail=detail)]
    if ensemble.num_atoms > 2:
        correlation = lambda a, b: pearson(rmsf(a), rmsf(b))
        rows.append(Row("rmsf", "correlation of RMSF", resampling.estimate(sums, correlation), better="higher"))
    return rows


def _fluctuation_sums(x: np.ndarray) -> np.ndarray:
    """[M, 5, N] - sums over the frames of each trajectory of x, y, z, |x|^2 and 1, x [3, N, M, T]."""
    count = np.full((1, *x.shape[1:3]), float(x.shape[3]))
    squares = (x * x).sum((0, 3), dtype=np.float64)[None]
    return np.concatenate([x.sum(-1, dtype=np.float64), squares, count]).transpose(2, 0, 1)


def _sums_about_own_mean(x: np.ndarray) -> np.ndarray:
    x = x.astype(np.float64)
    return _fluctuation_sums(x - x.mean(-1, keepdims=True))


def rmsf(sums: np.ndarray) -> np.ndarray:
    """[R, N] - from sums [R, 5, N] of x, y, z, |x|^2 and 1."""
    mean = sums[:, :4] / sums[:, 4:]
    return np.sqrt(np.maximum(mean[:, 3] - (mean[:, :3] ** 2).sum(1), 0.0))


def pearson(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Pearson's correlation of the rows of a and b [R, N]: [R]; NaN where one of them is constant."""
    a, b = a - a.mean(-1, keepdims=True), b - b.mean(-1, keepdims=True)
    with np.errstate(invalid="ignore", divide="ignore"):
        return (a * b).sum(-1) / np.sqrt((a * a).sum(-1) * (b * b).sum(-1))


def rmsd_rows(ensemble: Ensemble, frames: Superposed, resampling: Resampling) -> list[Row]:
    """W1 of the RMSD from the mean true structure; of forecasts the RMSD of each drawn frame from the true one.

    The floor of the latter is the RMSD from another true trajectory, at the same frame.
    """
    far = each(lambda x: np.sqrt((x * x).sum(0).mean(0)), frames.deviations())  # [M, T]
    points = value_points(*far)
    counts = each(lambda v: point_counts(v, points, len(v)), far)
    detail = {"mean_truth": plain_number(far[0].mean()), "mean_drawn": plain_number(far[1].mean())}
    quantity = "W1 of the RMSD from the mean structure"
    compare = lambda a, b: wasserstein(a, b, points)
    rows = [Row("rmsd", quantity, resampling.estimate(counts, compare), ensemble.unit, detail=detail)]
    if ensemble.conditional:
        truth, drawn = frames.both()
        own = rmsd(drawn, np.repeat(truth, ensemble.num_draws, axis=2))
        other = rmsd(truth, np.roll(truth, 1, axis=2))
        estimate = resampling.estimate(each(frame_sums, (other, own)), mean_over_frames)
        detail = {"by_frame": [plain_number(v) for v in own.mean(0)], "floor": "another true trajectory"}
        rows.append(Row("rmsd", "RMSD from the true frame", estimate, ensemble.unit, detail=detail))
    return rows


def msd_row(ensemble: Ensemble, resampling: Resampling) -> Row:
    """MSD(lag) = <|x_i(t + lag) - x_i(t)|^2> over atoms, t and trajectories: the mean of |MSD - MSD true| / MSD true.

    Its lags go from 1 to half of the frames. Positions are those of the samples: not wrapped into a box, and with the
    drift of the whole.
    """
    ensemble.need_lag(1)
    lags = np.arange(1, max(2, ensemble.num_frames // 2 + 1))
    sums = each(lambda x: displacement_sums(x, lags), ensemble.both)
    truth, drawn = each(lambda one: one.mean(0) / (ensemble.num_atoms * (ensemble.num_frames - lags)), sums)
    if (truth == 0).any():
        raise Unfit("nothing moves in the true frames")

    def relative(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        a, b = a / a[:, -1:], b / b[:, -1:]  # the last column counts the trajectories
        with np.errstate(invalid="ignore", divide="ignore"):
            return (np.abs(a - b) / b)[:, :-1].mean(-1)

    counted = each(lambda one: np.concatenate([one, np.ones((len(one), 1))], axis=1), sums)
    detail = {"lags": lags.tolist(), "truth": truth.tolist(), "drawn": drawn.tolist()}
    return Row("msd", "mean |MSD - MSD true| / MSD true", resampling.estimate(counted, relative), detail=detail)


def displacement_sums(x: np.ndarray, lags: np.ndarray) -> np.ndarray:
    """[M, L] float64 - sums over atoms and start frames of |x_i(t + lag) - x_i(t)|^2, x [3, N, M, T].

    sum_t |x(t + lag)|^2 + |x(t)|^2 - 2 x(t + lag) . x(t): the products for all lags by one Fourier transform, the
    squares by running sums (Calandrini et al., nMoldyn, 2011).
    """
    num_frames = x.shape[3]
    total = np.zeros((x.shape[2], len(lags)))
    for atom in range(x.shape[1]):
        path = x[:, atom].astype(np.float64)
        path -= path.mean(-1, keepdims=True)  # smaller numbers round less
        spectrum = np.fft.rfft(path, 2 * num_frames)
        products = np.fft.irfft(np.abs(spectrum) ** 2, 2 * num_frames)[..., lags].sum(0)  # [M, L]
        squares = np.cumsum((path * path).sum(0), axis=-1)
        squares = np.concatenate([np.zeros((len(squares), 1)), squares], axis=-1)
        late, early = squares[:, -1:] - squares[:, lags], squares[:, num_frames - lags]
        total += late + early - 2 * products
    return total
