"""Contact maps: contacts that are made by hand, and MDTraj's distances."""

import numpy as np
import pytest
from molecule_samples import samples_from

from geotdm_fast.scores.md import MDSettings, score_molecules
from geotdm_fast.scores.md.contacts import contact_counts


def test_contacts_by_hand():
    # Five carbons in a line, 1.5 apart; the last touches the first in one true frame of four, and two drawn ones.
    line = np.arange(5)[:, None] * np.array([1.5, 0, 0])
    truth = np.tile(line, (8, 4, 1, 1))
    truth[:, 1, 4] = [3.0, 2.0, 0]
    drawn = truth[None].copy()
    drawn[0, :, 2, 4] = [3.0, 2.0, 0]
    settings = MDSettings(scores=("contacts",), resamples=10)
    (row,) = score_molecules(samples_from(truth, drawn, np.full(5, 6)), settings)[0].rows
    assert row.detail["pairs"] == [[0, 4]] and row.detail["truth"] == [0.25] and row.detail["drawn"] == [0.5]
    assert row.estimate.value == pytest.approx(0.25) and row.estimate.floor == 0
    hydrogens = samples_from(truth, drawn, np.array([1, 6, 6, 6, 1]))
    with pytest.raises(ValueError, match="no score 'contacts': no two atoms other than hydrogen"):
        score_molecules(hydrogens, settings)
    with pytest.raises(ValueError, match=r"no two atoms come nearer than 0\.5 and part again"):
        score_molecules(
            samples_from(truth, drawn, np.full(5, 6)), MDSettings(scores=("contacts",), contact=0.5, resamples=10)
        )


def test_distances_are_mdtrajs():
    md = pytest.importorskip("mdtraj")
    x = np.random.default_rng(0).random((2, 30, 6, 3)).astype(np.float32)
    pairs = np.stack(np.triu_indices(6, 1), axis=1)
    found = contact_counts(np.ascontiguousarray(x.transpose(3, 2, 0, 1)), pairs, 0.5)
    table = md.Topology()
    residue = table.add_residue("X", table.add_chain())
    for i in range(6):
        table.add_atom(f"C{i}", md.element.carbon, residue)
    for m in range(2):
        wanted = (md.compute_distances(md.Trajectory(x[m], table), pairs) < 0.5).sum(0)
        np.testing.assert_array_equal(found[m], wanted)


def test_contacts_through_the_wall_of_a_box():
    x = np.array([[0.1, 0, 0], [9.8, 0, 0]]).T[:, :, None, None]
    near = lambda cell: contact_counts(x, np.array([[0, 1]]), 1.0, cell).item()
    assert near(None) == 0 and near(10 * np.eye(3)[None, None]) == 1 and near(9.0 * np.eye(3)[None, None]) == 1
    assert near(np.diag([8.0, 9, 9])[None, None]) == 0
