"""Atoms that jump across a periodic box, and molecules that it cuts in two."""

import numpy as np
import pytest

from geotdm_fast.data.molecule_files.boxes import follow, heights, periodic_cell, whole

RNG = np.random.default_rng(0)
FRAMES, ATOMS = 60, 7
CELLS = {
    "cubic": np.diag([12.0, 12, 12]),
    "orthorhombic": np.diag([8.0, 15, 30]),
    "rhombic dodecahedron": np.array([[12.0, 0, 0], [0, 12, 0], [6, 6, 6 * 2**0.5]]),
    "tilted": np.array([[10.0, 0, 0], [4.9, 11, 0], [-4.5, 5, 9]]),
    "any orientation": np.linalg.qr(RNG.normal(size=(3, 3)))[0] @ np.diag([11.0, 12, 14]),
}
ALL = np.array([True] * 3)


def smooth(step=0.4):
    return RNG.uniform(0, 8, size=(1, ATOMS, 3)) + np.cumsum(
        RNG.normal(size=(FRAMES, ATOMS, 3)) * step / 3 + np.array([step, 0, -step / 2]), axis=0
    )


def breathing(cell):
    """The cell at constant pressure: every frame another."""
    return cell * (1 + 0.02 * np.sin(np.arange(FRAMES))[:, None, None] + RNG.normal(size=(FRAMES, 1, 1)) * 0.002)


@pytest.mark.parametrize("name", CELLS)
@pytest.mark.parametrize("constant", [True, False])
def test_wrapped_by_any_lattice_vector_the_smooth_motion_comes_back(name, constant):
    cell = np.broadcast_to(CELLS[name], (FRAMES, 3, 3)) if constant else breathing(CELLS[name])
    x = smooth()
    images = RNG.integers(-4, 5, size=x.shape).astype(float)
    images[0] = 0  # the first frame stays as it is
    wrapped = x + images @ cell
    found = follow(wrapped, cell, ALL)
    np.testing.assert_array_equal(found, -images)
    np.testing.assert_allclose(wrapped + found @ cell, x, atol=1e-9)


def test_chunks_go_on_where_the_one_before_ended():
    cell, x = breathing(CELLS["tilted"]), smooth()
    images = RNG.integers(-2, 3, size=x.shape).astype(float)
    images[0] = 0
    wrapped = x + images @ cell
    before = (x[19] @ np.linalg.inv(cell[19]))[None][0]
    np.testing.assert_array_equal(follow(wrapped[20:], cell[20:], ALL, before), -images[20:])


def test_only_periodic_directions_are_followed():
    cell, pbc = np.broadcast_to(np.diag([5.0, 5, 5]), (2, 3, 3)), np.array([True, False, True])
    x = np.array([[[4.9, 4.9, 4.9]], [[0.1, 0.1, 0.1]]])
    assert follow(x, cell, pbc)[1, 0].tolist() == [1, 0, 1]


def test_in_a_skewed_cell_the_nearest_image_is_taken():
    """Rounding of fractional coordinates alone would take one that is further away."""
    cell = np.broadcast_to(np.array([[10.0, 0, 0], [4.9, 3, 0], [0, 0, 10]]), (2, 3, 3))
    x = np.array([[[0.0, 0, 0]], [[0.1, 1.65, 0]]])
    for shift in ([0, 0, 0], [1, 0, 0], [0, -1, 0], [1, -2, 0]):
        moved = x.copy()
        moved[1] += np.array(shift) @ cell[0]
        np.testing.assert_allclose(moved[1] + follow(moved, cell, ALL)[1] @ cell[0], x[1], atol=1e-12)


def test_heights():
    assert heights(CELLS["orthorhombic"]).tolist() == pytest.approx([8, 15, 30])
    assert heights(np.array([[10.0, 0, 0], [5, 3, 0], [0, 0, 7]]))[1] == pytest.approx(3)


def test_cells_without_a_box():
    assert periodic_cell(np.zeros((4, 3, 3)), ALL) is None
    assert periodic_cell(np.full((4, 3, 3), np.nan), ALL) is None
    assert periodic_cell(np.eye(3)[None], ~ALL) is None
    slab = np.array([[5.0, 0, 0], [1, 6, 0], [0, 0, 0]])[None]
    cell, pbc = periodic_cell(slab, ALL)
    assert pbc.tolist() == [True, True, False]
    assert np.abs(cell[0, 2]).tolist() == pytest.approx([0, 0, 1])
    cell, pbc = periodic_cell(np.array([[0.0, 0, 0], [0, 0, 7], [0, 0, 0]])[None], ALL)
    assert pbc.tolist() == [False, True, False] and abs(np.linalg.det(cell[0])) == pytest.approx(7)


ETHANOL = np.array(
    [[-1.17, -.4, 0], [.05, .53, 0], [1.19, -.3, 0], [-2.08, .2, 0], [-1.18, -1.03, .89], [-1.18, -1.03, -.89],
     [.05, 1.17, .89], [.05, 1.17, -.89], [1.95, .27, 0]]
)  # fmt: skip
RADII = np.array([1.2] * 3 + [0.4] * 6)
BONDS = np.array([[0, 1], [1, 2], [0, 3], [0, 4], [0, 5], [1, 6], [1, 7], [2, 8]])


def distances(x):
    return np.linalg.norm(x[:, None] - x[None], axis=-1)


@pytest.mark.parametrize("name", CELLS)
@pytest.mark.parametrize("bonds, radii", [(BONDS, None), (None, RADII), (BONDS[:4], RADII)])
def test_a_molecule_cut_in_two_is_made_whole(name, bonds, radii):
    cell = CELLS[name]
    for trial in range(5):
        turn = np.linalg.qr(RNG.normal(size=(3, 3)))[0]
        x = ETHANOL @ turn + RNG.uniform(-20, 20, size=3)
        images = RNG.integers(-2, 3, size=x.shape).astype(float) * (trial > 0)
        found, broken = whole(x + images @ cell, cell, ALL, bonds, radii)
        assert broken == 0
        np.testing.assert_allclose(distances(x + images @ cell + found @ cell), distances(x), atol=1e-9)
        if trial == 0:
            assert not found.any()  # what is whole stays where it is


def test_two_molecules_side_by_side_are_each_made_whole():
    """By distance the nearest pairs come first: a molecule's own bonds before the contact to its neighbour."""
    cell = np.diag([9.0, 9, 9])
    second = ETHANOL + np.array([0, 3.0, 0])
    x = np.concatenate([ETHANOL, second]) + np.array([3.0, 7, 1])
    s = np.mod(x, 9.0)
    found, _ = whole(s, cell, ALL, None, np.tile(RADII, 2))
    for part in (slice(0, 9), slice(9, 18)):
        np.testing.assert_allclose(distances(s[part] + found[part] @ cell), distances(ETHANOL), atol=1e-9)


def test_molecules_that_only_touch_stay_where_they_are():
    """A hydrogen bond across the box is no reason to move a molecule."""
    water = np.array([[0, 0, 0], [0.957, 0, 0], [-0.24, 0.927, 0]])
    x = np.concatenate(
        [water + np.array([0.2, 3, 3]), water + np.array([7.2, 3, 3])]
    )  # H at 8.157, 1.8 off the other O
    images, _ = whole(x, np.diag([9.8, 9.8, 9.8]), ALL, None, np.tile([1.2, 0.4, 0.4], 2))
    assert not images.any()


def test_a_chain_without_an_end():
    """A polymer bonded to its own image cannot be whole."""
    cell, x = np.diag([6.0, 20, 20]), np.array([[0.5, 1, 1], [2.0, 1, 1], [3.5, 1, 1], [5.0, 1, 1]])
    bonds = np.array([[0, 1], [1, 2], [2, 3], [3, 0]])
    found, broken = whole(x, cell, ALL, bonds, None)
    assert broken == 1 and found.shape == (4, 3)
