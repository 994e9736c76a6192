"""The bonds of a molecule: by distance, and where a topology names too few."""

import warnings

import numpy as np
import torch

from geotdm_fast.data.covalent_radii import bonding_radii
from geotdm_fast.ops import radius_graph

# Bonds stretch by heat; 1.3 is what RDKit's `rdDetermineBonds` takes, too.
STRETCH = 1.3


def bonds_by_distance(positions: np.ndarray, atomic_numbers: np.ndarray, cutoff: float | None = None) -> np.ndarray:
    """Ordered pairs of bonded atoms, each pair in both directions, in row-major order: [M, 2] int64.

    cutoff: two atoms are bonded when at most so far apart (angstrom), the official rule. None: when at most
        1.3 (r_i + r_j) apart, with the covalent radii r; two hydrogens when neither is bonded to another element (H2);
        no alkali or alkaline earth metal, noble gas, or atom without an element

    positions: [N, 3] (angstrom); atomic_numbers: [N]
    """
    if cutoff is not None:
        return radius_graph(torch.tensor(positions, device="cpu"), cutoff).T.numpy()
    z = np.asarray(atomic_numbers)
    radii = bonding_radii(z)
    if np.isnan(radii).all():
        return np.zeros((0, 2), dtype=np.int64)
    positions = torch.tensor(positions, dtype=torch.float64, device="cpu")
    pairs = radius_graph(positions, 2 * STRETCH * float(np.nanmax(radii))).T.numpy()
    row, col = pairs.T
    distance = np.linalg.norm(positions.numpy()[row] - positions.numpy()[col], axis=1)
    bonded = distance <= STRETCH * (radii[row] + radii[col])
    both_hydrogen = (z[row] == 1) & (z[col] == 1)
    has_other = np.zeros(len(z), dtype=bool)
    has_other[row[bonded & ~both_hydrogen]] = True
    return pairs[bonded & ~(both_hydrogen & (has_other[row] | has_other[col]))]


def complete_bonds(
    where: str,
    positions: np.ndarray,
    atomic_numbers: np.ndarray,
    bonds: np.ndarray,
    cutoff: float | None = None,
    whose: str = "that were given",
) -> np.ndarray:
    """`bonds` [M, 2] and those by distance of the atoms that have none: [M', 2].

    Topologies name the bonds of the residues they know and pass over the others, so that a ligand has none.
    positions: [N, 3] (angstrom); atomic_numbers: [N]; cutoff: as in `bonds_by_distance`
    whose: who says `bonds`, for the warning
    Warns once, with the number of bonds added and the atoms that got them.
    """
    alone = np.ones(len(positions), dtype=bool)
    alone[bonds] = False
    if not alone.any():
        return bonds
    found = bonds_by_distance(positions, atomic_numbers, cutoff)
    found = found[(found[:, 0] < found[:, 1]) & alone[found].any(axis=1)]
    if len(found) == 0:
        return bonds
    atoms = np.flatnonzero(alone & np.isin(np.arange(len(alone)), found))
    listed = ", ".join(map(str, atoms[:8].tolist())) + (", ..." if len(atoms) > 8 else "")
    warnings.warn(
        f"{where}: the bonds {whose} leave {len(atoms)} atoms without any ({listed}); {len(found)} bonds were "
        "added by distance. Give all bonds, or edge_index, if this is not meant",
        stacklevel=4,
    )
    return np.concatenate([bonds, found])


def fragments(num_nodes: int, edges: np.ndarray) -> np.ndarray:
    """[N] int64 - which piece of a graph with `edges [M, 2]` each node is in, numbered by their first nodes."""
    piece = np.arange(num_nodes)
    while True:
        # The smallest number among neighbours, and then that of this number, until nothing changes.
        least = piece.copy()
        np.minimum.at(least, edges[:, 0], piece[edges[:, 1]])
        np.minimum.at(least, edges[:, 1], piece[edges[:, 0]])
        least = least[least]
        if (least == piece).all():
            return np.unique(piece, return_inverse=True)[1].astype(np.int64)
        piece = least
