"""Decorrelation, TICA and Markov state models: chains of known timescales, and deeptime on the same arrays."""

import numpy as np
import pytest
from molecule_samples import bent, jittered, samples_from

from geotdm_fast.metrics.kmeans import kmeans_centres
from geotdm_fast.scores.md import MDSettings, score_molecules
from geotdm_fast.scores.md.decorrelation import autocorrelation, correlation_sums, crossing_times
from geotdm_fast.scores.md.histograms import Bins
from geotdm_fast.scores.md.msm import nearest, transition_matrix, transition_sums
from geotdm_fast.scores.md.tica import joint_histograms, lagged_sums, tica, timescales


def chain(count: int, frames: int, leave: tuple[float, float], seed: int = 0) -> np.ndarray:
    """[M, T] of 0 and 1: a Markov chain begun in equilibrium that leaves state s with probability leave[s]."""
    rng = np.random.default_rng(seed)
    state = (rng.random(count) < leave[0] / sum(leave)).astype(int)
    found = []
    for _ in range(frames):
        found.append(state)
        state = np.where(rng.random(count) < np.array(leave)[state], 1 - state, state)
    return np.array(found).T


def test_a_two_state_chain_has_its_timescale():
    leave = (0.05, 0.15)
    states = chain(300, 100, leave)
    wanted = -1 / np.log(1 - sum(leave))
    # As one feature beside noise, by TICA at two lags.
    noise = np.random.default_rng(1).normal(size=states.shape)
    for lag in (1, 3):
        eigenvalues, vectors, _ = tica(lagged_sums(np.stack([states, noise]), lag).sum(0)[None])
        assert timescales(eigenvalues, lag)[0, 0] == pytest.approx(wanted, rel=0.05)
        assert abs(eigenvalues[0, 1]) < 0.02
        slow = vectors[0, :, 0]
        assert abs(slow[1] / slow[0]) < 0.02 and slow[0] ** 2 * states.var() == pytest.approx(1, rel=0.05)
    # As states, by the transition matrix.
    sums = transition_sums(states, 2, 1).sum(0)
    assert sums[0] / sums[:2].sum() == pytest.approx(0.75, abs=0.02)
    matrix, values = transition_matrix(sums[None, 2:].reshape(1, 2, 2))
    np.testing.assert_allclose(matrix[0], [[0.95, 0.05], [0.15, 0.85]], atol=0.01)
    assert values[0, 0] == pytest.approx(1) and timescales(values[:, 1], 1)[0] == pytest.approx(wanted, rel=0.05)
    # As a torsion that jumps by a right angle: C(lag) = (1 - p - q)^lag.
    lags = np.arange(8)
    found = autocorrelation(correlation_sums(np.pi / 2 * states[None], lags).sum(0), 100, lags)
    np.testing.assert_allclose(found[0], 0.8**lags, atol=0.03)
    assert crossing_times(0.8 ** np.arange(9.0)) == pytest.approx(wanted, abs=0.05)


def test_correlations_are_those_of_the_double_loop():
    angle = np.random.default_rng(2).normal(size=(2, 3, 7)) * 2
    lags = np.array([0, 1, 4])
    found = correlation_sums(angle, lags)
    assert found.shape == (3, 2, 6)
    for m in range(3):
        for f in range(2):
            wanted = [np.cos(angle[f, m, lag:] - angle[f, m, : 7 - lag]).sum() for lag in lags]
            wanted += [np.cos(angle[f, m]).sum(), np.sin(angle[f, m]).sum(), 7]
            np.testing.assert_allclose(found[m, f], wanted, atol=1e-12)
    still = correlation_sums(np.zeros((1, 2, 7)), lags).sum(0)
    assert np.isnan(autocorrelation(still, 7, lags)).all()
    assert np.isnan(crossing_times(np.array([1.0, 0.9, 0.8])))


def test_tica_is_deeptimes():
    decomposition = pytest.importorskip("deeptime.decomposition")
    rng = np.random.default_rng(3)
    x = np.cumsum(rng.normal(size=(3000, 5)), axis=0) * [1, 0.1, 0, 0.03, 0]
    x = (np.sin(x) + 0.3 * rng.normal(size=x.shape)) @ rng.normal(size=(5, 5))
    x[:, 4] = x[:, 0] - x[:, 1]  # a direction without variance
    model = decomposition.TICA(lagtime=7, scaling=None).fit_fetch(x)
    eigenvalues, vectors, mean = tica(lagged_sums(x.T[:, None], 7).sum(0)[None])
    # The direction without variance has 0; deeptime leaves it out.
    np.testing.assert_allclose(eigenvalues[0, [0, 1, 2, 4]], model.singular_values[:4], rtol=1e-6)
    assert eigenvalues[0, 3] == 0
    ours, theirs = ((x - mean[0]) @ vectors[0])[:, :2], model.transform(x)[:, :2]
    np.testing.assert_allclose(np.abs((ours * theirs).mean(0)), theirs.var(0), rtol=1e-4)
    np.testing.assert_allclose(timescales(eigenvalues, 7)[0, :2], model.timescales(lagtime=7)[:2], rtol=1e-5)


def test_transition_matrices_are_deeptimes():
    markov = pytest.importorskip("deeptime.markov.msm")
    rng = np.random.default_rng(4)
    counts = rng.integers(0, 30, (6, 7, 7)) + 40.0 * np.eye(7)
    matrix, values = transition_matrix(counts)
    for ours, eigenvalues, count in zip(matrix, values, counts, strict=True):
        model = markov.MaximumLikelihoodMSM(reversible=True).fit_fetch(count)
        np.testing.assert_allclose(ours, model.transition_matrix, atol=1e-5)
        np.testing.assert_allclose(eigenvalues, np.sort(np.linalg.eigvals(ours).real)[::-1], atol=1e-8)
        np.testing.assert_allclose(timescales(eigenvalues, 1)[1], model.timescales(1)[0], rtol=1e-3)


def test_transition_matrices_by_hand():
    # Symmetric counts are their own answer, whatever the scale.
    symmetric = np.array([[5.0, 2, 0], [2, 7, 1], [0, 1, 0]])
    matrix, _ = transition_matrix(np.stack([symmetric, 1e4 * symmetric]))
    np.testing.assert_allclose(
        matrix, np.broadcast_to(symmetric / symmetric.sum(1, keepdims=True), (2, 3, 3)), atol=1e-9
    )
    # A state that no pair has seen; a state that is only arrived at.
    unseen = np.array([[4.0, 1, 0], [2, 3, 0], [0, 0, 0]])
    arrived = np.array([[4.0, 1, 1], [2, 3, 0], [0, 0, 0]])
    matrix, values = transition_matrix(np.stack([unseen, arrived]))
    assert matrix[0, 2].tolist() == [0, 0, 1] and values[0, 0] == pytest.approx(1) and 0 in values[0]
    np.testing.assert_allclose(matrix.sum(2), 1)
    np.testing.assert_allclose(matrix[1, 2], [1, 0, 0], atol=1e-12)
    # Detailed balance.
    flow = matrix[1] * np.linalg.matrix_power(matrix[1], 2000)[0][:, None]
    np.testing.assert_allclose(flow, flow.T, atol=1e-6)
    empty, none = transition_matrix(np.zeros((1, 2, 2)))
    assert empty[0].tolist() == [[1, 0], [0, 1]] and none[0].tolist() == [0, 0]


def test_counts_of_states_and_cells():
    sums = transition_sums(np.array([[0, 2, 2, 1], [1, 1, 0, 0]]), 3, 2)
    assert sums[0].tolist() == [1, 1, 2, 0, 0, 1, 0, 0, 0, 0, 1, 0]
    assert sums[1].tolist() == [2, 2, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0]
    values = np.random.default_rng(5).normal(size=(2, 3, 40))
    grid = Bins.around(values, 5)
    found = joint_histograms(values, grid).reshape(3, 7, 7)
    edges = [np.linspace(grid.low[c], grid.high[c], 6) for c in (0, 1)]
    for m in range(3):
        np.testing.assert_array_equal(found[m, 1:-1, 1:-1], np.histogram2d(*values[:, m], bins=edges)[0])


def test_clusters():
    rng = np.random.default_rng(6)
    import torch

    centres = np.array([[0.0, 0], [5, 0], [0, 5]])
    points = (centres[:, None] + 0.1 * rng.normal(size=(3, 50, 2))).reshape(-1, 2)
    found = kmeans_centres(torch.from_numpy(points), 3, seed=0).numpy()
    order = nearest(centres.T[:, None], found)[0]
    assert sorted(order.tolist()) == [0, 1, 2]
    np.testing.assert_allclose(found[order], points.reshape(3, 50, 2).mean(1), atol=1e-9)
    with pytest.raises(ValueError, match=r"num_clusters must be in 1\.\.150 \(the points\), got 151"):
        kmeans_centres(torch.from_numpy(points), 151)


def jumping(count: int, frames: int, leave: tuple[float, float], seed: int) -> np.ndarray:
    """[M, T, 4, 3] - four atoms whose torsion jumps between about -1 and 1.4."""
    angle = np.where(chain(count, frames, leave, seed), 1.4, -1.0)
    angle = angle + 0.15 * np.random.default_rng(seed).normal(size=angle.shape)
    return np.array([bent(one) for one in angle.ravel()]).reshape(count, frames, 4, 3)


def test_the_scores_tell_a_slower_model():
    leave, slower = (0.1, 0.2), (0.02, 0.04)
    truth = jumping(150, 20, leave, 0)
    settings = MDSettings(scores=("decorrelation", "tica", "msm"), states=2, resamples=40, lag=1)
    same, other = (
        score_molecules(samples_from(truth, jumping(150, 20, rates, 1)[None], np.full(4, 6)), settings)[0]
        for rates in (leave, slower)
    )
    by_name = lambda found: {row.score + ": " + row.quantity: row for row in found.rows}
    good, bad = by_name(same), by_name(other)
    wanted, slow = (-1 / np.log(1 - sum(rates)) for rates in (leave, slower))
    time = "msm: |ln t / t true| of the slowest time"
    assert good[time].detail["timescale_truth"] == pytest.approx(wanted, rel=0.15)
    assert bad[time].detail["timescale_drawn"] == pytest.approx(slow, rel=0.3)
    occupancy = good["msm: JSD of the occupancies of 2 states"]
    assert sorted(occupancy.detail["occupancies_truth"]) == pytest.approx([1 / 3, 2 / 3], abs=0.05)
    components = good["tica: |ln t / t true| of the slowest time"].detail
    assert components["timescales_truth"][0] == pytest.approx(wanted, rel=0.15)
    (reached,) = good["decorrelation: mean |C - C true| of 1 torsions"].detail["times_truth"]
    assert reached == pytest.approx(wanted, rel=0.2)
    for name in (time, "decorrelation: mean |C - C true| of 1 torsions", "msm: distance of transitions"):
        assert bad[name].estimate.value > 2 * bad[name].estimate.floor, name
        assert good[name].estimate.value < 1.6 * good[name].estimate.floor, name
    # The distributions are the same.
    for name in ("tica: JSD on the first component", "msm: JSD of the occupancies of 2 states"):
        assert bad[name].estimate.value < 4 * bad[name].estimate.floor, name
    assert set(same.pictures) == {"decorrelation", "tica"}


def test_errors():
    truth = jumping(8, 6, (0.3, 0.3), 0)
    samples = samples_from(truth, truth[None], np.full(4, 6))
    with pytest.raises(ValueError, match="lag must be under the 6 drawn frames, got 6"):
        score_molecules(samples, MDSettings(lag=6))
    with pytest.raises(ValueError, match="no score 'msd': a lag of 1 frames needs more than 1 drawn frames in a row"):
        score_molecules(samples_from(truth[:, :1], truth[None, :, :1]), MDSettings(scores=("msd",)))
    still = np.repeat(bent(1.0)[None, None], 8, axis=0).repeat(6, axis=1)
    with pytest.raises(ValueError, match="no score 'tica': the torsions hardly move: there are no two components"):
        score_molecules(samples_from(still, still[None], np.full(4, 6)), MDSettings(scores=("tica",)))
    three = jittered(bent(1.0)[:3], (8, 6), 0.01)
    for name in ("decorrelation", "msm"):
        with pytest.raises(ValueError, match=f"no score '{name}': the molecule has no torsions"):
            score_molecules(samples_from(three, three[None], np.full(3, 6)), MDSettings(scores=(name,)))
