"""What bonds imply: counted by hand on small molecules."""

import numpy as np
from tiny_models import ETHANOL, ETHANOL_POSITIONS

from geotdm_fast.data.bonds import bonds_by_distance
from geotdm_fast.scores.md.topology import Topology


def ring(size: int) -> np.ndarray:
    return np.array([[i, (i + 1) % size] for i in range(size)])


def test_ethanol():
    topology = Topology(ETHANOL, bonds_by_distance(ETHANOL_POSITIONS, ETHANOL))
    assert len(topology.bonds) == 8 and (topology.bonds[:, 0] < topology.bonds[:, 1]).all()
    assert len(topology.angles) == 6 + 6 + 1  # four neighbours of either carbon, two of oxygen
    assert len(topology.torsions) == 9 + 3  # around C-C 3 x 3, around C-O 3 x 1
    # No torsion has heavy atoms alone: one around each bond, with as many of them as there are.
    assert sorted(tuple(t[1:3]) for t in topology.slow_torsions.tolist()) == [(0, 1), (1, 2)]
    assert {tuple(sorted(ETHANOL[list(t)])) for t in topology.slow_torsions.tolist()} == {(1, 6, 6, 8)}
    assert topology.ring_bonds == [] and topology.centres == []
    assert (topology.piece == 0).all()
    assert len(topology.pairs_beyond(2)) == 36 - 8 - 13
    assert len(topology.pairs_beyond(3)) == 36 - 8 - 13 - 12
    assert topology.pairs_beyond(0, np.array([2, 5])).tolist() == [[2, 5]]


def test_order_direction_and_repetition_of_bonds_do_not_count():
    a = Topology(np.full(4, 6), np.array([[0, 1], [1, 2], [2, 3]]))
    b = Topology(np.full(4, 6), np.array([[3, 2], [2, 1], [1, 0], [0, 1], [2, 2]]))
    for name in ("bonds", "angles", "torsions"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name))


def test_rings():
    naphthalene = Topology(np.full(10, 6), np.concatenate([ring(10), [[0, 5]]]))
    assert sorted(len(r) for r in naphthalene.ring_bonds) == [6, 6]
    assert len(naphthalene.torsions) == 4 + 4 * 2 + 6  # around the shared bond, those beside it, the six others
    assert [len(Topology(np.full(8, 6), ring(8)).ring_bonds), len(Topology(np.full(9, 6), ring(9)).ring_bonds)] == [
        1,
        0,
    ]
    triangle = Topology(np.full(3, 6), ring(3))
    assert [len(r) for r in triangle.ring_bonds] == [3] and len(triangle.torsions) == 0


def test_pieces_and_no_bonds():
    water = Topology(np.array([8, 1, 1, 8, 1, 1]), np.array([[0, 1], [0, 2], [3, 4], [3, 5]]))
    assert water.piece.tolist() == [0, 0, 0, 1, 1, 1]
    assert len(water.pairs_beyond(2)) == 9
    argon = Topology(np.full(3, 18), np.zeros((0, 2), int))
    assert argon.piece.tolist() == [0, 1, 2] and argon.angles.shape == (0, 3) and argon.torsions.shape == (0, 4)


def test_stereocentres():
    # CHFClBr: carbon and four different neighbours; with two H it is none.
    star = np.array([[0, 1], [0, 2], [0, 3], [0, 4]])
    (centre,) = Topology(np.array([6, 1, 9, 17, 35]), star).centres
    assert centre.atom == 0 and centre.neighbours == (1, 2, 3)
    assert Topology(np.array([6, 1, 1, 17, 35]), star).centres == []
    # 3-methylhexane: ethyl and propyl differ two bonds away; 3-methylpentane has two ethyls.
    chain = lambda length: [[i, i + 1] for i in range(length - 1)]
    hexane = [*chain(6), [2, 6], [2, 7]]
    assert [c.atom for c in Topology(np.array([6] * 7 + [1]), np.array(hexane)).centres] == [2]
    pentane = [*chain(5), [2, 5], [2, 6]]
    assert Topology(np.array([6] * 6 + [1]), np.array(pentane)).centres == []


def test_torsions_along_a_backbone():
    # Alanine dipeptide: CH3-CO-NH-CH(CH3)-CO-NH-CH3, hydrogens of the two NH alone.
    z = np.array([6, 6, 8, 7, 1, 6, 6, 6, 8, 7, 1, 6])
    bonds = [[0, 1], [1, 2], [1, 3], [3, 4], [3, 5], [5, 6], [5, 7], [7, 8], [7, 9], [9, 10], [9, 11]]
    topology = Topology(z, np.array(bonds))
    # omega, phi, psi, omega; the side chain, the oxygens and hydrogens are passed over.
    assert topology.slow_torsions.tolist() == [[0, 1, 3, 5], [1, 3, 5, 7], [3, 5, 7, 9], [5, 7, 9, 11]]
    assert [len(topology.slow_torsions), len(topology.torsions)] == [4, 4 + 2 * 2 + 2 * 2 + 4]
