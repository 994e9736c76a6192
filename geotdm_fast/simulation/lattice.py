"""Where the particles of a liquid start: on a lattice that fills the box."""

import numpy as np

_FCC = np.array([(0.25, 0.25, 0.25), (0.75, 0.75, 0.25), (0.75, 0.25, 0.75), (0.25, 0.75, 0.75)])
_SIMPLE = np.array([(0.5, 0.5, 0.5)])
# TIP3P (Jorgensen et al. 1983): the length of O-H in angstrom and the angle at O.
_OH, _HOH = 0.9572, np.deg2rad(104.52)


def close_packed(num_particles: int, edge: float) -> np.ndarray:
    """Positions [N, 3] (angstrom) on a face-centred cubic lattice in a cubic box, its places taken evenly."""
    return _places(_FCC, num_particles, edge)


def water_molecules(num_molecules: int, edge: float, rng: np.random.Generator) -> np.ndarray:
    """Positions [3 M, 3] (angstrom) of O, H, H of each molecule, turned at random, O on a simple cubic lattice."""
    oxygen = _places(_SIMPLE, num_molecules, edge)
    half = _HOH / 2
    arms = _OH * np.array([(0.0, 0.0, 0.0), (np.sin(half), np.cos(half), 0.0), (-np.sin(half), np.cos(half), 0.0)])
    turned = np.einsum("mij,aj->mai", _rotations(num_molecules, rng), arms)
    return (oxygen[:, None] + turned).reshape(-1, 3)


def _places(basis: np.ndarray, num_particles: int, edge: float) -> np.ndarray:
    """N of the places of the smallest lattice with as many, evenly spaced among them."""
    side = 1
    while len(basis) * side**3 < num_particles:
        side += 1
    corners = np.stack(np.meshgrid(*[np.arange(side)] * 3, indexing="ij"), -1).reshape(-1, 1, 3)
    places = ((corners + basis) * (edge / side)).reshape(-1, 3)
    return places[np.arange(num_particles) * len(places) // num_particles]


def _rotations(number: int, rng: np.random.Generator) -> np.ndarray:
    """Rotations [M, 3, 3], uniform over all: of unit quaternions."""
    q = rng.standard_normal((number, 4))
    w, x, y, z = (q / np.linalg.norm(q, axis=1, keepdims=True)).T
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]
    return np.moveaxis(np.array(rows), -1, 0)
