"""Halvings, bootstrap and intervals: of means, whose distribution is known."""

import numpy as np
import pytest
from scipy import stats

from geotdm_fast.scores.md.resampling import Resampling
from geotdm_fast.scores.md.rows import Row

MEAN = lambda a, b: a[:, 0] / a[:, 1] - b[:, 0] / b[:, 1]


def sums(values: np.ndarray) -> np.ndarray:
    return np.stack([values, np.ones(len(values))], axis=1)


def test_weights():
    weights = Resampling(9, 3, 50, seed=4)
    assert (weights.first.sum(1) == 4).all() and (weights.second.sum(1) == 4).all()
    assert (weights.first * weights.second == 0).all()
    # One drawn trajectory for each true one of the first half.
    np.testing.assert_array_equal(weights.drawn.reshape(50, 9, 3).sum(2), weights.first)
    assert (weights.drawn.sum(0) > 0).all()
    assert (weights.bootstrap.sum(1) == 9).all()
    np.testing.assert_array_equal(weights.bootstrap_drawn.reshape(50, 9, 3)[:, :, 1], weights.bootstrap)
    same = Resampling(9, 3, 50, seed=4)
    np.testing.assert_array_equal(weights.drawn, same.drawn)
    assert (Resampling(9, 3, 50, seed=5).first != weights.first).any()


def test_the_interval_of_a_difference_of_means():
    # Draws of the same trajectory are equal: what varies is the trajectories, 60 of them.
    rng = np.random.default_rng(0)
    truth = rng.normal(size=60)
    other = rng.normal(size=60) + 1
    found = Resampling(60, 2, 4000, seed=0).estimate((sums(truth), sums(np.repeat(other, 2))), MEAN)
    wanted = other.mean() - truth.mean()
    error = (other - truth).std() / np.sqrt(60)
    assert found.value == pytest.approx(wanted, abs=0.03)
    assert found.high - found.value == pytest.approx(stats.norm.ppf(0.975) * error, rel=0.1)
    assert found.value - found.low == pytest.approx(stats.norm.ppf(0.975) * error, rel=0.1)
    # Halves of one set: their difference has the variance (2/30) s^2 and mean 0.
    assert found.floor == pytest.approx(0, abs=0.02)
    assert found.floor_high == pytest.approx(1.96 * truth.std(ddof=1) * np.sqrt(2 / 30), rel=0.1)


def test_equal_distributions_score_as_their_floor():
    # |difference of means| is above 0 between equal distributions, the more the smaller they are.
    rng = np.random.default_rng(1)
    size = lambda a, b: np.abs(MEAN(a, b))
    values, floors = [], []
    for seed in range(40):
        weights = Resampling(20, 3, 40, seed)
        found = weights.estimate((sums(rng.normal(size=20)), sums(rng.normal(size=60))), size)
        values.append(found.value)
        floors.append(found.floor)
    expected = np.sqrt(2 / 10) * np.sqrt(2 / np.pi)  # of halves of ten
    assert np.mean(values) == pytest.approx(expected, rel=0.15) and np.mean(floors) == pytest.approx(expected, rel=0.15)


def test_samples_without_a_score_are_passed_over():
    weights = Resampling(4, 1, 10, seed=0)
    some = lambda a, b: np.where(np.arange(len(a)) % 2, np.nan, 2.0)
    found = weights.estimate((sums(np.ones(4)), sums(np.ones(4))), some)
    assert found.value == 2 and found.low == 2 and found.floor == 2
    none = weights.estimate((sums(np.ones(4)), sums(np.ones(4))), lambda a, b: np.full(len(a), np.nan))
    assert np.isnan(none).all()
    assert Row("msm", "what", none).as_json()["value"] is None


def test_parts_are_averaged_together():
    rng = np.random.default_rng(2)
    truth, drawn = rng.normal(size=(6, 5)), rng.normal(size=(6, 5))
    weights = Resampling(6, 1, 8, seed=0)
    compare = lambda a, b: np.abs(a - b)
    parts = [weights.scores((truth[:, rows], drawn[:, rows]), compare) for rows in (slice(0, 2), slice(2, 5))]
    whole = weights.estimate((truth, drawn), lambda a, b: compare(a, b).mean(1))
    np.testing.assert_allclose(weights.mean_over_rows(parts), whole, atol=1e-12)
