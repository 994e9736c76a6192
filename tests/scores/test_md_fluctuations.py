"""Mean squared displacements, fluctuations, radii of gyration: motions and bodies whose numbers are known."""

import numpy as np
import pytest
from molecule_samples import jittered, samples_from
from tiny_models import ETHANOL, ETHANOL_POSITIONS

from geotdm_fast.scores.md import MDSettings, score_molecules
from geotdm_fast.scores.md.distributions import radius_of_gyration
from geotdm_fast.scores.md.fluctuations import displacement_sums, pearson, rmsf


def rows_of(samples, *names, **options):
    return score_molecules(samples, MDSettings(scores=names, resamples=40), **options)[0].rows


def test_displacements_are_those_of_the_double_loop():
    x = np.random.default_rng(0).normal(size=(3, 2, 3, 9)) + 100
    lags = np.array([1, 3, 8])
    wanted = [[((x[:, :, m, lag:] - x[:, :, m, : 9 - lag]) ** 2).sum() for lag in lags] for m in range(3)]
    np.testing.assert_allclose(displacement_sums(x, lags), wanted, rtol=1e-9)


def test_a_random_walk_and_a_flight():
    rng = np.random.default_rng(1)
    steps = 0.3 * rng.normal(size=(400, 20, 4, 3))
    walk = np.cumsum(steps, axis=1)
    speed = rng.normal(size=(400, 1, 4, 3))
    flight = speed * np.arange(20)[None, :, None, None]
    (row,) = rows_of(samples_from(walk, flight[None]), "msd")
    lags = np.array(row.detail["lags"])
    assert lags.tolist() == list(range(1, 11))
    # 3 s^2 lag, and <v^2> lag^2; of 1600 atoms.
    np.testing.assert_allclose(row.detail["truth"], 3 * 0.09 * lags, rtol=0.06)
    np.testing.assert_allclose(np.array(row.detail["drawn"]) / row.detail["drawn"][0], lags**2.0, rtol=1e-4)
    expected = np.mean((speed**2).sum(-1).mean() * lags**2 / (3 * 0.09 * lags) - 1)
    assert row.estimate.value == pytest.approx(expected, rel=0.1)
    assert row.estimate.floor < 0.2 < row.estimate.low


def test_fluctuations_of_known_noise():
    # Atom i of a rigid body has noise of s_i in each coordinate: RMSF_i = sqrt(3) s_i, less what superposition takes.
    rng = np.random.default_rng(2)
    body = 6 * rng.normal(size=(40, 3))
    sizes = np.linspace(0.02, 0.1, 40)[:, None]
    truth = body + sizes * rng.normal(size=(30, 8, 40, 3))
    drawn = body + 2 * sizes * rng.normal(size=(1, 30, 8, 40, 3))
    found = rows_of(samples_from(truth, drawn, unit="angstrom"), "rmsf")
    # The noise of the others turns the still atoms a little.
    np.testing.assert_allclose(found[0].detail["truth"][8:], np.sqrt(3) * sizes[8:, 0], rtol=0.2)
    mean = np.sqrt(3) * sizes.mean()
    assert np.mean(found[0].detail["truth"]) == pytest.approx(mean, rel=0.03)
    assert np.mean(found[0].detail["drawn"]) == pytest.approx(2 * mean, rel=0.03)
    assert found[0].estimate.value == pytest.approx(mean, rel=0.05)
    assert found[1].better == "higher" and found[1].estimate.value > 0.95


def test_fluctuations_do_not_see_how_frames_are_turned():
    rng = np.random.default_rng(3)
    truth = jittered(ETHANOL_POSITIONS, (10, 5), 0.05)
    q, _ = np.linalg.qr(rng.normal(size=(10, 5, 3, 3)))
    q[np.linalg.det(q) < 0, :, 0] *= -1
    turned = np.einsum("btde,btne->btnd", q, truth) + 9 * rng.normal(size=(10, 5, 1, 3))
    plain, moved = (rows_of(samples_from(x, truth[None], ETHANOL), "rmsf", "rmsd") for x in (truth, turned))
    for a, b in zip(plain, moved, strict=True):
        np.testing.assert_allclose(a.estimate, b.estimate, rtol=1e-3, atol=1e-5)


def test_in_a_box_atoms_fluctuate_about_their_own_mean():
    rng = np.random.default_rng(4)
    places = 10 * rng.random((40, 1, 16, 3))  # other places in every trajectory
    truth = places + 0.2 * rng.normal(size=(40, 25, 16, 3))
    row = rows_of(samples_from(truth, truth[None], np.full(16, 18)), "rmsf", cell=10 * np.eye(3))[0]
    np.testing.assert_allclose(row.detail["truth"], np.sqrt(3 * 24 / 25) * 0.2, rtol=0.05)
    assert row.detail["superposed"] is False


def test_sums_and_correlation():
    x = np.random.default_rng(5).normal(size=(3, 50))
    sums = np.stack([*x, (x**2).sum(0), np.ones(50)]).sum(1)[None, :, None]
    assert rmsf(sums)[0, 0] == pytest.approx(np.sqrt(x.var(axis=1).sum()))
    a, b = np.random.default_rng(6).normal(size=(2, 4, 9))
    np.testing.assert_allclose(pearson(a, b), [np.corrcoef(u, v)[0, 1] for u, v in zip(a, b, strict=True)])
    assert np.isnan(pearson(np.ones((1, 4)), a[:1, :4])).all()


def test_radii_of_gyration_of_known_bodies():
    side, ring = 2.0, 3.0
    cube = np.array([[a, b, c] for a in (0, 1) for b in (0, 1) for c in (0, 1)]) * side
    turn = np.arange(8) * np.pi / 4
    circle = ring * np.stack([np.cos(turn), np.sin(turn), 0 * turn], axis=1)
    x = np.stack([cube, circle]).transpose(2, 1, 0) + 5
    found = radius_of_gyration(x, [np.arange(8), np.arange(2)])
    np.testing.assert_allclose(found[0], [np.sqrt(3) * side / 2, ring])
    np.testing.assert_allclose(found[1], [side / 2, ring * np.sin(np.pi / 8)])


def test_mdtraj_has_the_same_radii():
    md = pytest.importorskip("mdtraj")
    x = np.random.default_rng(7).normal(size=(30, 9, 3)).astype(np.float32)
    found = radius_of_gyration(np.ascontiguousarray(x.transpose(2, 1, 0)), [np.arange(9)])[0]
    table = md.Topology()
    residue = table.add_residue("X", table.add_chain())
    for i in range(9):
        table.add_atom(f"C{i}", md.element.carbon, residue)
    np.testing.assert_allclose(found, md.compute_rg(md.Trajectory(x, table)), rtol=1e-5)


def test_gyration_of_molecules_apart():
    # Two molecules of two atoms whose distance grows tenfold: their own radii stay.
    truth = jittered(np.array([[0.0, 0, 0], [0, 0, 0.74], [9, 0, 0], [9, 0, 0.74]]), (8, 4), 1e-3)
    drawn = truth[None] + np.array([0, 0, 90, 90])[:, None]
    (row,) = rows_of(samples_from(truth, drawn, np.ones(4, int)), "rg")
    assert row.estimate.value < 1e-3 and row.detail["mean_truth"] == pytest.approx(0.37, abs=1e-3)
    with pytest.raises(ValueError, match="without bonds have no radius of gyration"):
        rows_of(samples_from(truth, drawn, np.full(4, 18)), "rg", cell=20 * np.eye(3))


def test_rmsd():
    truth = jittered(ETHANOL_POSITIONS, (10, 7), 0.05)
    samples = samples_from(truth, truth[None, :, 2:], ETHANOL, given=2)
    spread, paired = rows_of(samples, "rmsd")
    assert paired.quantity == "RMSD from the true frame" and paired.estimate.value == pytest.approx(0, abs=1e-6)
    # Of two noisy copies: each coordinate differs by N(0, 2 s^2), less the six motions.
    assert paired.estimate.floor == pytest.approx(0.05 * np.sqrt(2 * 3 * (1 - 6 / 27)), rel=0.1)
    assert spread.estimate.value < 0.01
    assert spread.detail["mean_truth"] == pytest.approx(0.05 * np.sqrt(3 * 21 / 27), rel=0.08)
    assert len(rows_of(samples_from(truth, truth[None], ETHANOL, mode="uncond"), "rmsd")) == 1
    with pytest.raises(ValueError, match="atoms in a periodic box are not superposed"):
        rows_of(samples, "rmsd", cell=20 * np.eye(3))
    few = samples_from(truth[:, :, :2], truth[None, :, :, :2])
    with pytest.raises(ValueError, match="superposition needs three atoms, there are 2"):
        rows_of(few, "rmsd")


def test_what_does_not_move_has_no_displacement():
    truth = np.repeat(ETHANOL_POSITIONS[None, None], 8, axis=0).repeat(5, axis=1)
    with pytest.raises(ValueError, match="no score 'msd': nothing moves in the true frames"):
        rows_of(samples_from(truth, truth[None], ETHANOL), "msd")
