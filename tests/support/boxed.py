"""Random walks in periodic boxes whose unwrapped truth is known."""

from typing import NamedTuple

import numpy as np

TRICLINIC = np.array([[11.0, 0, 0], [2.5, 12, 0], [-3, 4, 10]])
WATER = np.array([[0, 0, 0], [0.957, 0, 0], [-0.24, 0.927, 0]])


class Walk(NamedTuple):
    """x: [T, N, 3] the truth; wrapped: each atom moved by a lattice vector of its own in every frame; cells: [T, 3, 3];
    z: [N]; bonds: [M, 2]; molecule: [N]."""

    x: np.ndarray
    wrapped: np.ndarray
    cells: np.ndarray
    z: np.ndarray
    bonds: np.ndarray
    molecule: np.ndarray


def waters(frames: int = 40, molecules: int = 5, changes: bool = True, seed: int = 0, images: int = 2) -> Walk:
    """Water molecules that walk and turn in a triclinic box, which breathes and shears where it `changes`."""
    rng = np.random.default_rng(seed)
    cells = np.repeat(TRICLINIC[None], frames, axis=0)
    if changes:
        cells = cells @ (np.eye(3) + 0.02 * np.cumsum(rng.normal(size=(frames, 3, 3)) * 0.1, axis=0))
    s = rng.uniform(0, 1, size=(1, molecules, 3)) + np.cumsum(rng.normal(size=(frames, molecules, 3)) * 0.03, axis=0)
    centre = s @ cells  # [T, M, 3]
    turn = np.cumsum(rng.normal(size=(frames, molecules)) * 0.2, axis=0)
    rotation = np.zeros((frames, molecules, 3, 3))
    rotation[..., 0, 0] = rotation[..., 1, 1] = np.cos(turn)
    rotation[..., 0, 1], rotation[..., 1, 0] = np.sin(turn), -np.sin(turn)
    rotation[..., 2, 2] = 1
    x = (centre[:, :, None] + WATER @ rotation).reshape(frames, -1, 3)
    wrapped = x + rng.integers(-images, images + 1, size=x.shape) @ cells
    molecule = np.arange(molecules).repeat(3)
    bonds = np.concatenate([[[3 * m, 3 * m + 1], [3 * m, 3 * m + 2]] for m in range(molecules)])
    return Walk(x, wrapped, cells, np.tile([8, 1, 1], molecules), bonds, molecule)


def lattice_shifts(x: np.ndarray, walk: Walk, within: float = 1e-3) -> np.ndarray:
    """[T, N, 3]: by how many lattice vectors x [T, N, 3] differs from the truth: whole numbers, but for `within`
    (angstrom)."""
    shift = np.rint((x - walk.x) @ np.linalg.inv(walk.cells))
    np.testing.assert_allclose(x - shift @ walk.cells, walk.x, atol=within)
    return shift


def assert_followed(x: np.ndarray, walk: Walk, within: float = 1e-3) -> None:
    """That x is the truth up to one lattice vector for each molecule, the same in all frames."""
    shifts = lattice_shifts(x, walk, within)
    np.testing.assert_array_equal(shifts, np.broadcast_to(shifts[:1], shifts.shape))
    first = np.searchsorted(walk.molecule, walk.molecule)
    np.testing.assert_array_equal(shifts[0], shifts[0][first])


def lower_triangular(walk: Walk) -> Walk:
    """The same motion in boxes whose vectors are lower triangular, as most packages have them."""
    first = np.searchsorted(walk.molecule, walk.molecule)  # the first atom of each atom's molecule
    cells = np.tril(walk.cells)
    centre = walk.x[:, first] @ np.linalg.inv(walk.cells) @ cells
    images = np.rint((walk.wrapped - walk.x) @ np.linalg.inv(walk.cells))
    x = centre + walk.x - walk.x[:, first]
    return walk._replace(x=x, wrapped=x + images @ cells, cells=cells)
