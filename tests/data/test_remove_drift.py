"""The drift of the centre of mass of a box is taken out."""

import numpy as np
import pytest
from boxed import assert_followed, waters
from molecule_frames import xyz_text

from geotdm_fast.data import array_dataset, file_dataset, given_frames_dataset, npz_dataset
from geotdm_fast.data.atomic_masses import ATOMIC_MASSES

WIND = np.arange(24)[:, None, None] * np.array([0.3, -0.2, 0.1])
STILL = waters(frames=24)
MASSES = np.where(STILL.z == 8, 15.999, 1.008)


def places(dataset, index=0):
    return dataset[index].x.permute(2, 0, 1).double().numpy()


def centre(x, masses=MASSES):
    return (masses[:, None] * x).sum(axis=1, keepdims=True) / masses.sum()


def expected(x, masses=MASSES):
    return x - (centre(x, masses) - centre(x[:1], masses))


def test_positions_lose_the_drift_of_their_centre_of_mass():
    x = STILL.x + WIND
    found = places(array_dataset(x, z=STILL.z, bonds=STILL.bonds, span=24, remove_drift=True))
    np.testing.assert_allclose(found, expected(x), atol=1e-5)
    np.testing.assert_allclose(centre(found), np.broadcast_to(centre(x[:1]), (24, 1, 3)), atol=1e-5)
    np.testing.assert_allclose(found, expected(STILL.x), atol=1e-5)  # the wind is gone
    apart = places(array_dataset(x, span=24, remove_drift=True))  # without elements all weigh the same
    np.testing.assert_allclose(apart, expected(x, np.ones(15)), atol=1e-5)


def test_no_frame_learns_of_a_later_one():
    x = STILL.x + WIND
    other = x.copy()
    other[10:] += np.random.default_rng(0).normal(size=other[10:].shape)
    options = {"z": STILL.z, "bonds": STILL.bonds, "span": 24, "remove_drift": True}
    first, second = (places(array_dataset(one, **options)) for one in (x, other))
    np.testing.assert_array_equal(first[:10], second[:10])
    assert np.abs(first[10:] - second[10:]).max() > 0.1


def test_atoms_are_followed_through_the_box_first(tmp_path):
    drifting = waters(frames=24, changes=False)
    drifting = drifting._replace(x=drifting.x + WIND, wrapped=drifting.wrapped + WIND)
    np.savez(tmp_path / "w.npz", x=drifting.wrapped, z=drifting.z, bonds=drifting.bonds, cell=drifting.cells)
    with pytest.warns(UserWarning, match="jumps|whole"):
        dataset = npz_dataset(tmp_path / "w.npz", span=24, remove_drift=True)
    # Which lattice vectors a molecule is moved by shifts the centre of all frames alike.
    assert_followed(places(dataset), drifting._replace(x=expected(drifting.x)))


def test_files_splits_and_given_frames(tmp_path):
    x = STILL.x + WIND
    path = tmp_path / "w.xyz"
    path.write_text(xyz_text(x, ["OHH"[i % 3] for i in range(15)]))
    dataset = file_dataset(path, split="val", split_ratio=[0.5, 0.25, 0.25], span=6, remove_drift=True)
    np.testing.assert_allclose(places(dataset), expected(x[12:18]), atol=1e-5)
    np.savez(tmp_path / "w.npz", x=x, z=STILL.z)
    section = {"kind": "npz", "path": str(tmp_path / "w.npz"), "remove_drift": True}
    given = given_frames_dataset(section, [True, True, True, False])
    np.testing.assert_allclose(places(given)[:3], expected(x[-3:]), atol=1e-5)


def test_many_trajectories_and_graphs_side_by_side():
    x = STILL.x + WIND
    many = array_dataset(np.stack([x, 2 * x]), remove_drift=True)
    for index in range(2):
        np.testing.assert_allclose(places(many, index), expected((index + 1) * x, np.ones(15)), atol=1e-5)
    side = array_dataset(x, z=STILL.z, bonds=STILL.bonds, ptr=[0, 6, 15], remove_drift=True)
    np.testing.assert_allclose(places(side, 0), expected(x[:, :6], MASSES[:6]), atol=1e-5)
    np.testing.assert_allclose(places(side, 1), expected(x[:, 6:], MASSES[6:]), atol=1e-5)


def test_sites_without_an_element_have_no_mass():
    z = STILL.z.copy()
    z[1] = 0
    x = STILL.x + WIND
    found = places(array_dataset(x, z=z, bonds=STILL.bonds, span=24, remove_drift=True))
    np.testing.assert_allclose(found, expected(x, np.where(z == 0, 0, MASSES)), atol=1e-5)


def test_what_cannot_be():
    x = STILL.x.copy()
    with pytest.raises(ValueError, match="array_dataset: unwrap must be auto where remove_drift is true, got no"):
        array_dataset(x, span=24, remove_drift=True, unwrap="no")
    x[:5, 2] = np.nan
    with pytest.raises(ValueError, match="array_dataset: remove_drift must be false where x is nan"):
        array_dataset(x, span=24, remove_drift=True)
    with pytest.raises(ValueError, match=r"array_dataset: z must be atomic numbers from 0 to 118 .*, got 119"):
        more = {"h": np.ones((15, 1)), "edge_index": STILL.bonds.T, "span": 24}
        array_dataset(STILL.x, z=STILL.z + 111, **more, remove_drift=True)
    with pytest.raises(TypeError, match="array_dataset: remove_drift must be true or false, got 1"):
        array_dataset(STILL.x, span=24, remove_drift=1)


def test_masses_are_those_of_the_elements():
    assert len(ATOMIC_MASSES) == 119
    data = pytest.importorskip("ase.data")
    np.testing.assert_allclose(ATOMIC_MASSES[1:], data.atomic_masses_iupac2016[1:], rtol=5e-5)
