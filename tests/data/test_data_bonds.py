"""Bonds by covalent radii, and bonds that a topology passed over."""

import warnings

import ase.data
import numpy as np
import pytest

from geotdm_fast.data import array_dataset, md17_dataset, molecule_graph
from geotdm_fast.data.bonds import bonds_by_distance, complete_bonds
from geotdm_fast.data.covalent_radii import COVALENT_RADII

WATER = np.array([[0, 0, 0], [0.957, 0, 0], [-0.24, 0.927, 0]])
AMMONIA = np.array([[0, 0, 0.1], [0.94, 0, -0.27], [-0.47, 0.814, -0.27], [-0.47, -0.814, -0.27]])


def pairs(positions, z, cutoff=None):
    found = bonds_by_distance(np.asarray(positions, dtype=float), np.asarray(z), cutoff).tolist()
    assert all([j, i] in found for i, j in found)
    return [(i, j) for i, j in found if i < j]


def line(*distances):
    return np.concatenate([[0.0], np.cumsum(distances)])[:, None] * [1.0, 0, 0]


def test_the_table_is_that_of_ase():
    np.testing.assert_array_equal(COVALENT_RADII[1:], ase.data.covalent_radii[1 : len(COVALENT_RADII)])


def test_hydrogens_are_bonded_to_no_hydrogen():
    assert pairs(WATER, [8, 1, 1]) == [(0, 1), (0, 2)]
    assert pairs(WATER, [8, 1, 1], 1.6) == [(0, 1), (0, 2), (1, 2)]  # the official rule
    for seed in range(10):
        shaken = AMMONIA + 0.04 * np.random.default_rng(seed).normal(size=(4, 3))
        assert pairs(shaken, [7, 1, 1, 1]) == [(0, 1), (0, 2), (0, 3)]
    assert pairs(line(0.74), [1, 1]) == [(0, 1)]
    assert pairs(line(0.74, 1.1), [1, 1, 6]) == [(1, 2)]  # two hydrogens, one of them bonded to carbon


@pytest.mark.parametrize(
    "z, distance, bonded",
    [
        ([6, 6], 1.54, True), ([6, 16], 1.82, True), ([16, 16], 2.05, True), ([6, 17], 1.77, True),
        ([6, 53], 2.14, True), ([15, 8], 1.6, True), ([14, 6], 1.87, True), ([26, 7], 2.0, True),
        ([6, 6], 2.4, False), ([6, 1], 1.5, False), ([8, 1], 1.7, False), ([9, 9], 2.16, False),
        ([11, 17], 2.4, False), ([11, 8], 2.3, False), ([20, 8], 2.3, False), ([18, 18], 2.0, False),
        ([0, 6], 0.9, False), ([119, 6], 1.0, False),
    ],
)  # fmt: skip
def test_pairs_of_elements(z, distance, bonded):
    assert pairs(line(distance), z) == ([(0, 1)] if bonded else [])


def test_the_official_rule_stays_where_it_is_asked_for(tmp_path):
    np.savez(tmp_path / "water.npz", R=WATER + 0.001 * np.arange(101)[:, None, None], z=[8, 1, 1])
    official = md17_dataset(tmp_path / "water.npz", "train", down_sample_every=1)
    assert official[0].edge_attr.sum(0).tolist() == [6, 0, 0, 0]
    frames = WATER + 0.001 * np.arange(101)[:, None, None]
    assert array_dataset(frames, z=[8, 1, 1])[0].edge_attr.sum(0).tolist() == [4, 2, 0, 0]
    assert array_dataset(frames, z=[8, 1, 1], cutoff=1.6)[0].edge_attr.sum(0).tolist() == [6, 0, 0, 0]
    assert molecule_graph(WATER, [8, 1, 1])[2].sum(0).tolist() == [4, 2, 0, 0]


def test_bonds_that_were_passed_over_are_found(recwarn):
    # A ligand of three atoms beside water whose bonds the topology knows, and an ion.
    x = np.concatenate([WATER, line(1.4, 1.1) + 5, [[0, 0, 2.4]]])
    z = np.array([8, 1, 1, 8, 6, 1, 11])
    known = np.array([[0, 1], [0, 2]])
    with pytest.warns(UserWarning, match=r"here: the bonds .* leave 3 atoms without any \(3, 4, 5\); 2 bonds"):
        completed = complete_bonds("here", x, z, known)
    assert completed.tolist() == [[0, 1], [0, 2], [3, 4], [4, 5]]
    with pytest.warns(UserWarning, match="leave 6 atoms without any"):
        assert len(complete_bonds("here", x, z, np.zeros((0, 2), dtype=np.int64))) == 4
    recwarn.clear()
    assert complete_bonds("here", x, z, completed) is completed
    assert not recwarn
    # An atom of a residue that has bonds, too.
    with pytest.warns(UserWarning, match=r"leave 1 atoms without any \(2\); 1 bonds"):
        assert complete_bonds("here", WATER, z[:3], known[:1]).tolist() == [[0, 1], [0, 2]]


def test_given_bonds_are_completed_once():
    frames = np.concatenate([WATER, line(1.4, 1.1) + 5]) + 0.001 * np.arange(40)[:, None, None]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        dataset = array_dataset(frames, z=[8, 1, 1, 8, 6, 1], bonds=[[0, 1], [2, 0]], max_hops=1)
    assert len(caught) == 1 and "array_dataset: the bonds that were given leave 3 atoms" in str(caught[0].message)
    assert dataset[0].edge_index.tolist() == [[0, 0, 1, 2, 3, 4, 4, 5], [1, 2, 0, 0, 4, 3, 5, 4]]
