"""Time-lagged independent components: the slowest coordinates that are linear in the features, and their timescales."""

from typing import NamedTuple

import numpy as np

from geotdm_fast.scores.md.ensemble import Unfit
from geotdm_fast.scores.md.histograms import Bins, jensen_shannon
from geotdm_fast.scores.md.resampling import Resampling, each
from geotdm_fast.scores.md.rows import Row, plain_number
from geotdm_fast.scores.md.torsions import SlowTorsions

# Directions with less than this share of the largest variance are left out.
_LEAST_VARIANCE = 1e-6
# Timescales of halves and bootstrap samples are found among so many components of the truth.
MOST_COMPONENTS = 10


class Components(NamedTuple):
    """The first components of true and of drawn frames, [C, M, T]; their lag, and the atoms [F, 4] of the torsions."""

    truth: np.ndarray
    drawn: np.ndarray
    lag: int
    atoms: np.ndarray


def tica(sums: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The components of `lagged_sums [R, 1 + D + 2 D^2]`: eigenvalues [R, D], descending; vectors [R, D, D], each a
    column, of unit variance; means [R, D].

    C(lag) v = lambda C(0) v, by C(0) = W diag(s) W^T: the eigenvectors u of L^T C(lag) L with L = W diag(s)^(-1/2) give
    v = L u. Directions without variance have lambda = 0 and v = 0.
    Source: Perez-Hernandez et al., J. Chem. Phys. 139, 015102 (2013), with both times symmetrised.
    """
    size = int(np.sqrt((sums.shape[1] - 1) / 2))
    count = sums[:, :1]
    mean = sums[:, 1 : size + 1] / count
    square = mean[:, :, None] * mean[:, None]
    now, later = (
        part.reshape(-1, size, size) / count[:, :, None] - square for part in np.split(sums[:, size + 1 :], 2, 1)
    )
    variance, axes = np.linalg.eigh(now)
    kept = variance > np.maximum(_LEAST_VARIANCE * variance[:, -1:], np.finfo(float).tiny)
    whiten = axes * np.where(kept, 1 / np.sqrt(np.where(kept, variance, 1)), 0)[:, None]
    eigenvalues, vectors = np.linalg.eigh(whiten.swapaxes(1, 2) @ later @ whiten)
    # A direction left out has the eigenvalue 0 and no length; the slow ones come first.
    vectors = whiten @ vectors
    order = np.argsort(-eigenvalues, axis=1)
    return np.take_along_axis(eigenvalues, order, 1), np.take_along_axis(vectors, order[:, None], 2), mean


def lagged_sums(features: np.ndarray, lag: int) -> np.ndarray:
    """[M, 1 + D + 2 D^2] float64 - for features [D, M, T], over the pairs of frames `lag` apart, both counted: 1, x,
    x x^T at one time, and x(t) x(t + lag)^T symmetrised."""
    x = features.swapaxes(0, 1).astype(np.float64)  # [M, D, T]
    first, last = x[:, :, :-lag], x[:, :, lag:]
    cross = first @ last.swapaxes(1, 2)
    both = first @ first.swapaxes(1, 2) + last @ last.swapaxes(1, 2)
    count = np.full((len(x), 1), 2.0 * first.shape[2])
    parts = [
        count,
        first.sum(2) + last.sum(2),
        both.reshape(len(x), -1),
        (cross + cross.swapaxes(1, 2)).reshape(len(x), -1),
    ]
    return np.concatenate(parts, axis=1)


def timescales(eigenvalues: np.ndarray, lag: int) -> np.ndarray:
    """-lag / ln lambda (frames); NaN where lambda is not in 0..1."""
    with np.errstate(invalid="ignore", divide="ignore"):
        found = -lag / np.log(eigenvalues)
    return np.where((eigenvalues > 0) & (eigenvalues < 1), found, np.nan)


def tica_rows(components: Components, resampling: Resampling, bins: int) -> list[Row]:
    """JSD on the first component and on the plane of the first two, and the slowest timescale.

    Components of the cosines and sines of torsions, those of the true frames for both. The timescale of the drawn
    frames is that of their own components, among the first ten of the truth: |ln(t / t_true)|.
    """
    lag = components.lag
    line = _plane_row("JSD on the first component", components, 1, resampling, bins)
    plane = _plane_row("JSD on the first two components", components, 2, resampling, max(2, bins // 2))
    sums = each(lambda values: lagged_sums(values, lag), (components.truth, components.drawn))
    of = lambda one: timescales(tica(one)[0], lag)
    ratio = lambda a, b: np.abs(np.log(of(a)[:, 0] / of(b)[:, 0]))
    truth, drawn = each(lambda one: of(one.sum(0)[None])[0, :3], sums)
    detail = {
        "lag": lag,
        "timescales_truth": [plain_number(t) for t in truth],
        "timescales_drawn": [plain_number(t) for t in drawn],
        "atoms": components.atoms.tolist(),
    }
    time = Row("tica", "|ln t / t true| of the slowest time", resampling.estimate(sums, ratio), detail=detail)
    return [line, plane, time]


def _plane_row(about: str, components: Components, count: int, resampling: Resampling, bins: int) -> Row:
    grid = Bins.around(components.truth[:count], bins)
    both = components.truth[:count], components.drawn[:count]
    counts = each(lambda values: joint_histograms(values, grid), both)
    return Row("tica", about, resampling.estimate(counts, jensen_shannon), "bit")


def project(torsions: SlowTorsions, lag: int) -> Components:
    """True and drawn frames on the first components of the true ones, at most ten."""
    features = torsions.features()
    eigenvalues, vectors, mean = tica(lagged_sums(features[0], lag).sum(0)[None])
    alive = (np.abs(vectors[0]).sum(0) > 0) & np.isfinite(eigenvalues[0])
    if alive.sum() < 2:
        raise Unfit("the torsions hardly move: there are no two components")
    axes = vectors[0][:, alive][:, :MOST_COMPONENTS]
    # The sign of a component is free: its largest entry is positive.
    axes = axes * np.sign(axes[np.abs(axes).argmax(0), np.arange(axes.shape[1])])
    on_axes = lambda x: np.einsum("dmt,dc->cmt", x - mean[0][:, None, None], axes, optimize=True)
    truth, drawn = each(on_axes, features)
    return Components(truth, drawn, lag, torsions.atoms)


def joint_histograms(values: np.ndarray, grid: Bins) -> np.ndarray:
    """[M, cells] float32 - how often the values [C, M, T] of each trajectory fall into each cell of the joint grid."""
    num_rows, num_trajectories, _ = values.shape
    wide = grid.count + 2
    place = grid.index(values.reshape(num_rows, -1)).astype(np.int64)
    cell = place[0]
    for more in place[1:]:
        cell = cell * wide + more
    cells = wide**num_rows
    cell = cell.reshape(num_trajectories, -1) + np.arange(num_trajectories)[:, None] * cells
    return (
        np.bincount(cell.ravel(), minlength=num_trajectories * cells)
        .reshape(num_trajectories, cells)
        .astype(np.float32)
    )
