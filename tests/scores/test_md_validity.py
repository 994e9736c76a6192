"""Shares of frames with faults: faults that are put in by hand."""

import dataclasses

import numpy as np
import pytest
from molecule_samples import jittered, samples_from
from tiny_models import ETHANOL, ETHANOL_POSITIONS

from geotdm_fast.scores.md import MDSettings, score_molecules
from geotdm_fast.scores.md.ensemble import ensembles
from geotdm_fast.scores.md.validity import clash_limits

# Methane with four different neighbours, at tetrahedral places.
CHIRAL = np.array([6, 1, 9, 17, 35])
CHIRAL_POSITIONS = np.array(
    [[0, 0, 0], [0.63, 0.63, 0.63], [-0.85, -0.85, 0.85], [-1.03, 1.03, -1.03], [1.12, -1.12, -1.12]], float
)
HEXAGON = np.stack(
    [1.4 * np.cos(np.arange(6) * np.pi / 3), 1.4 * np.sin(np.arange(6) * np.pi / 3), np.zeros(6)], axis=1
)


def shares(truth: np.ndarray, drawn: np.ndarray, z: np.ndarray, **options) -> dict[str, tuple[float, float]]:
    """The shares of the drawn frames and of the true ones, by name."""
    rows = score_molecules(samples_from(truth, drawn, z, **options), MDSettings(scores=("validity",), resamples=20))[
        0
    ].rows
    return {row.quantity.removeprefix("frames "): (row.detail["drawn"], row.detail["truth"]) for row in rows}


def test_bonds_and_clashes():
    truth = jittered(ETHANOL_POSITIONS, (8, 5), 0.01)
    drawn = truth[None].copy()
    drawn[0, 0, 2, 3] += (drawn[0, 0, 2, 3] - drawn[0, 0, 2, 2]) * 0.35  # the hydroxyl's hydrogen is 35 % too far
    drawn[0, 1, 1:3, 8] = drawn[0, 1, 1:3, 4] + [0.5, 0, 0]  # a hydrogen beside one of the other carbon, in two frames
    found = shares(truth, drawn, ETHANOL)
    assert found["with a clash"] == (2 / 40, 0)
    assert found["with a bond 25 % off"] == (3 / 40, 0)  # the moved hydrogen left its carbon
    assert found["without any fault"] == (1 - 3 / 40, 1)
    assert "with a broken ring" not in found and "with a flipped centre" not in found


def test_rings():
    truth = jittered(HEXAGON, (8, 4), 0.01)
    drawn = truth[None].copy()
    drawn[0, 3, 0, 0] *= 1.6
    found = shares(truth, drawn, np.full(6, 6))
    assert found["with a broken ring"] == (1 / 32, 0) == found["with a bond 25 % off"]


def test_mirrored_centres():
    truth = jittered(CHIRAL_POSITIONS, (8, 4), 0.02)
    drawn = truth[None].copy()
    drawn[0, 2, 1:] *= [-1, 1, 1]  # three frames of one trajectory
    drawn[0, 5, 3, [1, 2]] = drawn[0, 5, 3, [2, 1]]  # two neighbours change places: the bonds tell, too
    found = shares(truth, drawn, CHIRAL)
    assert found["with a flipped centre"] == (4 / 32, 0)
    assert found["with a bond 25 % off"][0] == 1 / 32
    # A molecule whose own truth is the mirror image: right in a forecast, flipped where nothing was given.
    truth[2], drawn[0, 2] = truth[2] * [-1, 1, 1], truth[2] * [-1, 1, 1]
    assert shares(truth, drawn, CHIRAL)["with a flipped centre"] == (1 / 32, 0)
    assert shares(truth, drawn, CHIRAL, mode="uncond")["with a flipped centre"] == (5 / 32, 4 / 32)


def test_centres_without_their_hydrogen():
    truth = jittered(CHIRAL_POSITIONS[[0, 2, 3, 4]], (8, 4), 0.02)
    drawn = truth[None].copy()
    drawn[0, 2, 1] *= [-1, 1, 1]
    assert shares(truth, drawn, CHIRAL[[0, 2, 3, 4]])["with a flipped centre"] == (1 / 32, 0)
    # A planar carbon is none: FClC=O.
    plane = np.array([[0, 0, 0], [1.35, 0, 0], [-0.87, 1.5, 0], [-0.6, -1.04, 0]])
    truth = jittered(plane, (8, 4), 0.05)
    assert "with a flipped centre" not in shares(truth, truth[None], np.array([6, 9, 17, 8]))


def test_what_may_clash():
    z = np.array([18, 18, 3, 8, 0])
    apart = np.arange(15.0).reshape(5, 3) * 5
    ensemble = ensembles(samples_from(np.tile(apart, (8, 2, 1, 1)), np.tile(apart, (1, 8, 2, 1, 1)), z))[0]
    pairs, limits = clash_limits(ensemble)
    # Argon with argon and oxygen; the ion and the atom without an element are passed over.
    assert pairs.tolist() == [[0, 1], [0, 3], [1, 3]]
    np.testing.assert_allclose(limits, [1.3 * 2.12, 1.3 * 1.72, 1.3 * 1.72])


def test_errors():
    truth = jittered(ETHANOL_POSITIONS, (8, 4), 0.01)
    argon = samples_from(truth * 5, truth[None] * 5, np.full(9, 18))
    with pytest.raises(ValueError, match=r"no score 'validity': .* no bonds by covalent radii; --bonds edges takes"):
        score_molecules(argon, MDSettings(scores=("validity",)))
    other = dataclasses.replace(samples_from(truth, truth[None], ETHANOL), unit="nm")
    with pytest.raises(ValueError, match=r"no score 'validity': .*must be in angstrom, got 'nm'"):
        score_molecules(other, MDSettings(scores=("validity",)))
