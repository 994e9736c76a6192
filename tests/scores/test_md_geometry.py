"""Lengths, angles and torsions: closed forms, and MDTraj on the same positions."""

import numpy as np
import pytest
from molecule_samples import bent

from geotdm_fast.scores.md.geometry import internal_coordinates, squared_distances, torsion_angles
from geotdm_fast.scores.md.superposition import mean_structure, rmsd, superposed
from geotdm_fast.scores.md.topology import Topology

CHAIN = Topology(np.full(5, 6), np.array([[0, 1], [2, 1], [2, 3], [3, 4]]))


def along(positions: np.ndarray) -> np.ndarray:
    """[S, N, 3] as the scores have it, [3, N, S]."""
    return np.ascontiguousarray(positions.transpose(2, 1, 0))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_closed_forms(dtype):
    wanted = np.linspace(-3.1, 3.1, 13)
    x = along(np.array([bent(t) for t in wanted])).astype(dtype)
    topology = Topology(np.full(4, 6), np.array([[0, 1], [1, 2], [2, 3]]))
    lengths, angles, torsions = internal_coordinates(x, topology)
    near = 2e-6 if dtype == np.float32 else 1e-12
    assert lengths.dtype == dtype and lengths.shape == (3, 13)
    np.testing.assert_allclose(lengths, 1.5, atol=near)
    np.testing.assert_allclose(angles, 1.9, atol=near)
    np.testing.assert_allclose(torsions, wanted[None], atol=2 * near)
    np.testing.assert_allclose(torsion_angles(x, topology.torsions), wanted[None], atol=2 * near)


def test_a_straight_line_and_coincident_atoms_give_numbers():
    x = np.zeros((3, 5, 2))
    x[0, :, 0] = np.arange(5)
    lengths, angles, torsions = internal_coordinates(x, CHAIN)
    assert np.isfinite(lengths).all() and (torsions == 0).all()
    np.testing.assert_allclose(angles[:, 0], np.pi)
    empty = internal_coordinates(x, Topology(np.full(5, 6), np.zeros((0, 2), int)))
    assert [len(rows) for rows in empty] == [0, 0, 0]


def test_more_frames_than_a_chunk():
    x = np.random.default_rng(0).normal(size=(3, 5, 40_000))
    whole = internal_coordinates(x, CHAIN)
    for rows, few in zip(whole, internal_coordinates(x[:, :, 39_990:], CHAIN), strict=True):
        np.testing.assert_array_equal(rows[:, 39_990:], few)


def test_mdtraj_has_the_same_numbers():
    md = pytest.importorskip("mdtraj")
    rng = np.random.default_rng(1)
    positions = rng.normal(size=(57, 7, 3)).astype(np.float32)
    bonds = np.array([[0, 1], [0, 4], [1, 2], [1, 5], [2, 3], [2, 6]])
    topology = Topology(np.full(7, 6), bonds)
    assert len(topology.angles) == 1 + 3 + 3 and len(topology.torsions) == 2 + 4
    table = md.Topology()
    residue = table.add_residue("X", table.add_chain())
    for i in range(7):
        table.add_atom(f"C{i}", md.element.carbon, residue)
    trajectory = md.Trajectory(positions, table)
    lengths, angles, torsions = internal_coordinates(along(positions), topology)
    np.testing.assert_allclose(lengths.T, md.compute_distances(trajectory, topology.bonds), rtol=2e-6)
    np.testing.assert_allclose(angles.T, md.compute_angles(trajectory, topology.angles), atol=2e-3)
    assert np.abs(angles.T - md.compute_angles(trajectory, topology.angles)).mean() < 1e-5
    difference = torsions.T - md.compute_dihedrals(trajectory, topology.torsions)
    assert np.abs((difference + np.pi) % (2 * np.pi) - np.pi).max() < 1e-4
    pairs = topology.pairs_beyond(2)
    np.testing.assert_allclose(
        np.sqrt(squared_distances(along(positions), pairs)).T, md.compute_distances(trajectory, pairs), rtol=2e-6
    )
    ours = rmsd(along(positions), np.repeat(along(positions)[:, :, :1], 57, axis=2))
    np.testing.assert_allclose(ours, md.rmsd(trajectory, trajectory, 0), atol=1e-3)  # MDTraj's is float32 throughout


def test_superposition_undoes_a_motion_and_no_mirror():
    rng = np.random.default_rng(2)
    body = rng.normal(size=(3, 6))
    q, _ = np.linalg.qr(rng.normal(size=(4, 3, 3)))
    q[np.linalg.det(q) < 0, 0] *= -1
    moved = np.einsum("sde,en->dns", q, body) + rng.normal(size=(3, 1, 4))
    np.testing.assert_allclose(superposed(moved, body), np.repeat(body[:, :, None], 4, axis=2), atol=1e-12)
    np.testing.assert_allclose(rmsd(moved, np.repeat(body[:, :, None], 4, axis=2)), 0, atol=1e-7)
    mirrored = body * np.array([[-1.0], [1], [1]])
    assert rmsd(mirrored[:, :, None], body[:, :, None])[0] > 0.3
    # Two atoms apart by 2, turned onto each other, and 1 longer: 0.5 for each.
    two = np.array([[0.0, 2], [0, 0], [0, 0]])[:, :, None]
    three = np.array([[0.0, 0], [0, 3], [0, 0]])[:, :, None]
    np.testing.assert_allclose(rmsd(two, three), [0.5])


def test_the_mean_structure_of_noise_is_the_body():
    rng = np.random.default_rng(3)
    body = rng.normal(size=(3, 8))
    body -= body.mean(axis=1, keepdims=True)
    noisy = body[:, :, None] + 0.02 * rng.normal(size=(3, 8, 4000))
    mean = mean_structure(noisy, noisy[:, :, 0])
    assert rmsd(mean[:, :, None], body[:, :, None])[0] < 4 * 0.02 / np.sqrt(4000 / 3)
