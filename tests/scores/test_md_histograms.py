"""Divergences of distributions: quadrature of Gaussians, and scipy on the same counts."""

import numpy as np
import pytest
from scipy import integrate, stats
from scipy.spatial.distance import jensenshannon

from geotdm_fast.scores.md.histograms import (
    Bins,
    jensen_shannon,
    point_counts,
    trajectory_histograms,
    value_points,
    wasserstein,
)


def gaussian_divergence(shift: float) -> float:
    """The Jensen-Shannon divergence of N(0, 1) and N(shift, 1) in bits, by quadrature."""
    p, q = stats.norm(0, 1).pdf, stats.norm(shift, 1).pdf
    term = lambda f: lambda r: 0.5 * f(r) * np.log2(f(r) / (0.5 * (p(r) + q(r))))
    return sum(integrate.quad(term(f), -8, 8 + shift, limit=200)[0] for f in (p, q))


@pytest.mark.parametrize("shift", [0.3, 1.0, 2.5])
def test_gaussians(shift):
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(1, 400_000)), rng.normal(size=(1, 400_000)) + shift
    bins = Bins.around(np.concatenate([a, b], axis=1), 80)
    counts = [trajectory_histograms(x, bins, x.shape[1])[0, 0] for x in (a, b)]
    found = float(jensen_shannon(*counts))
    # Random error about 1e-3 of it; bins lose under a percent.
    assert found == pytest.approx(gaussian_divergence(shift), rel=0.02)


def test_divergence_is_scipys():
    rng = np.random.default_rng(1)
    a, b = rng.integers(0, 9, (5, 7)), rng.integers(0, 9, (5, 7))
    a[2, :3], b[2, 3:] = 0, 0
    np.testing.assert_allclose(jensen_shannon(a, b), jensenshannon(a, b, base=2, axis=1) ** 2, atol=1e-12)
    assert jensen_shannon(np.array([1, 0, 3]), np.array([2, 0, 6])) == 0
    assert jensen_shannon(np.array([1, 0, 0]), np.array([0, 2, 1])) == pytest.approx(1)
    assert np.isnan(jensen_shannon(np.zeros(3), np.ones(3)))


def test_bins_and_their_ends():
    bins = Bins(np.array([0.0]), np.array([1.0]), 4)
    values = np.array([[-0.1, 0.0, 0.249, 0.25, 0.999, 1.0, 1.001, 7e30]])
    assert bins.index(values).tolist() == [[0, 1, 1, 2, 4, 4, 5, 5]]
    circle = Bins.circle(1, 6)
    edge = np.array([[-np.pi, np.pi, 0.0]], np.float32)
    assert set(circle.index(edge)[0].tolist()) <= {0, 1, 6, 7, 4}
    around = Bins.around(np.array([[1.0, 3.0], [2.0, 2.0]]), 10)
    assert around.low[0] == pytest.approx(0.9) and around.high[0] == pytest.approx(3.1) and around.width[1] > 0


def test_each_trajectory_has_its_counts():
    values = np.random.default_rng(2).normal(size=(3, 4 * 50))
    bins = Bins.around(values, 9)
    counts = trajectory_histograms(values, bins, 50)
    assert counts.shape == (4, 3, 11) and (counts.sum(-1) == 50).all()
    for m in range(4):
        for f in range(3):
            own = values[f, 50 * m : 50 * (m + 1)]
            wanted = np.histogram(own, np.linspace(bins.low[f], bins.high[f], 10))[0]
            np.testing.assert_array_equal(counts[m, f, 1:-1], wanted)


def test_wasserstein_is_scipys():
    rng = np.random.default_rng(3)
    a, b = rng.normal(size=(4, 30)), 2 * rng.normal(size=(7, 30)) + 1
    points = value_points(a, b)
    found = wasserstein(point_counts(a, points, 4).sum(0), point_counts(b, points, 7).sum(0), points)
    assert found == pytest.approx(stats.wasserstein_distance(a.ravel(), b.ravel()), abs=1e-12)
    # Of two Gaussians: E |F^-1(u) - G^-1(u)|; more values than points.
    a, b = rng.normal(size=(1, 200_000)), rng.normal(size=(1, 200_000)) + 0.5
    b[0, 0] = 1e9  # an outlier costs no resolution, and counts
    points = value_points(a, b)
    assert len(points) == 1000
    found = wasserstein(point_counts(a, points, 1)[0], point_counts(b, points, 1)[0], points)
    assert found == pytest.approx(0.5 + 1e9 / 200_000, rel=0.01)
