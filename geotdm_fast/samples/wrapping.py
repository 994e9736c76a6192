"""Positions in their periodic boxes as formats want them: wrapped, whole molecules or not, and turned with the box."""

import numpy as np

from geotdm_fast.data.bonds import bonds_by_distance, fragments

WRAPS = ("no", "atoms", "molecules")
# Of the lengths of a box: above it a number that should be 0 turns the box.
_TURNED = 1e-6


def wrapped(x: np.ndarray, cell: np.ndarray, pbc: np.ndarray, molecule: np.ndarray | None = None) -> np.ndarray:
    """Positions moved by lattice vectors into the box: x - floor(s) C along periodic directions, s = c inverse(C).

    c is the position itself, or the mean of the atoms of its molecule: a molecule stays whole then.
    x: [T, N, 3]; cell C: [1 or T, 3, 3], vectors as rows; pbc: [3] bool; molecule: [N] int64 - whose atom each is, or
    None. Returns the dtype of x.
    """
    vectors = cell.astype(np.float64)
    centre = x.astype(np.float64)
    if molecule is not None:
        size = np.bincount(molecule)
        sums = np.add.reduceat(centre[:, np.argsort(molecule, kind="stable")], np.cumsum(size) - size, axis=1)
        centre = (sums / size[:, None])[:, molecule]
    image = np.floor(centre @ np.linalg.inv(vectors)) * pbc
    return (x - image @ vectors).astype(x.dtype)


def molecules_of(edge_index: np.ndarray, atomic_numbers: np.ndarray, first: np.ndarray) -> np.ndarray:
    """[N] int64: the molecule of each atom, numbered from 0: what edges join. Where all pairs have an edge, as in a
    complete graph, what bonds by distance join in the frame `first` [N, 3] (angstrom).

    edge_index: [2, E], within the graph
    """
    num_atoms = len(atomic_numbers)
    pairs = edge_index.T
    if len(np.unique(pairs[:, 0] * num_atoms + pairs[:, 1])) >= num_atoms * (num_atoms - 1):
        pairs = bonds_by_distance(first.astype(np.float64), atomic_numbers)
    return fragments(num_atoms, pairs)


def lower_triangular(x: np.ndarray, cell: np.ndarray) -> tuple[np.ndarray, np.ndarray, bool]:
    """The same positions and lattice, turned so that a lies along x and b in the xy plane; and whether they had to be.

    C = L inverse(Q) with L lower triangular, of a positive diagonal, and Q a rotation: x becomes x Q and C becomes L.
    Of left-handed vectors c is replaced by -c first, which is of the same lattice.
    x: [T, N, 3]; cell: [1 or T, 3, 3] of boxes that are periodic in all directions
    """
    vectors = cell.astype(np.float64)
    above = np.abs(vectors[:, [0, 0, 1], [1, 2, 2]]).max(initial=0)
    diagonal = vectors[:, [0, 1, 2], [0, 1, 2]]
    if above <= _TURNED * np.abs(vectors).max() and (diagonal > 0).all():
        return x, np.tril(cell), False
    left = np.linalg.det(vectors) < 0
    vectors[left, 2] *= -1
    # The transpose of C is Q R with R upper triangular: C = L inverse(Q), where L is the transpose of R.
    turn, upper = np.linalg.qr(vectors.transpose(0, 2, 1))
    signs = np.sign(upper[:, [0, 1, 2], [0, 1, 2]])[:, None]
    turn, lower = turn * signs, (upper * signs.transpose(0, 2, 1)).transpose(0, 2, 1)
    return (x.astype(np.float64) @ turn).astype(x.dtype), np.tril(lower).astype(cell.dtype), True


def lengths_and_angles(cell: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of boxes [T, 3, 3] the lengths [T, 3] of a, b, c, and the angles [T, 3] between b c, a c and a b (degrees)."""
    vectors = cell.astype(np.float64)
    lengths = np.linalg.norm(vectors, axis=-1)
    unit = vectors / lengths[..., None]
    cosines = np.stack([(unit[:, i] * unit[:, j]).sum(-1) for i, j in ((1, 2), (0, 2), (0, 1))], axis=-1)
    return lengths, np.degrees(np.arccos(np.clip(cosines, -1, 1)))
