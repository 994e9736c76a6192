"""The graph and the features of a molecule."""

import warnings
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from geotdm_fast.data.bonds import bonds_by_distance, fragments
from geotdm_fast.data.checks import (
    check_array,
    check_count,
    check_flag,
    check_indices,
    check_number,
    check_positions,
    check_shape,
)


def molecule_graph(
    positions: ArrayLike | Tensor,
    atomic_numbers: ArrayLike | Tensor,
    cutoff: float | None = None,
    max_hops: int = 3,
    fully_connected: bool = False,
    bonds: ArrayLike | Tensor | None = None,
    *,
    num_types: int = 10,
    atom_types: Sequence[int] | None = None,
    one_molecule: bool = True,
) -> tuple[Tensor, Tensor, Tensor]:
    """Atom features and edges up to `max_hops` bonds apart, from one frame of a molecule.

    h_i = one_hot(z_i) x [1, z_i / n, (z_i / n)^2], with n = num_types, or with atom_types their largest + 1; bonds are
    those of `bonds_by_distance`.

    positions: [N, 3] (angstrom)
    atomic_numbers: [N], below num_types, or of atom_types
    cutoff: the longest bond (angstrom), of all elements alike: 1.6 in the benchmark. None: by covalent radii
    max_hops: pairs up to so many bonds apart get an edge
    fully_connected: every pair gets an edge
    bonds: [M, 2] - the bonds instead of those by distance, each pair once or twice, in any order
    num_types: atomic numbers are below it (10 in the benchmark: up to fluorine)
    atom_types: the atomic numbers that there are, instead, in the order of their features: [1, 6, 7, 8, 17], say, for
        molecules with chlorine; one model for many molecules states them all. 0 .. n - 1 is the same as num_types = n
    one_molecule: False: the atoms may be a liquid, so that bonds by distance may leave pieces of the same elements
    Returns h [N, 3 types] float32, edge_index [2, E] int64 in row-major order and edge_attr [E, max_hops + 1]
    float32: one-hot of hops - 1, or when fully connected one-hot of hops with 0 for pairs further apart.
    Raises ValueError/TypeError for a bad argument. Warns when the bonds by distance do not join all atoms.
    Source: the official features, after Satorras et al. 2021 and Kohler et al. 2020.
    """
    where = "molecule_graph"
    positions = check_positions(where, "positions", positions, "N, 3", dtype=np.float64)
    num_atoms = len(positions)
    fully_connected = check_flag(where, "fully_connected", fully_connected)
    max_hops = check_count(where, "max_hops", max_hops)
    types = range(check_count(where, "num_types", num_types))
    h = _atom_features(where, atomic_numbers, num_atoms, types if atom_types is None else _types(where, atom_types))
    if bonds is None:
        cutoff = None if cutoff is None else check_number(where, "cutoff", cutoff)
        bonded = bonds_by_distance(positions, check_array(where, "atomic_numbers", atomic_numbers, "N"), cutoff)
        origin = "by distance, " + ("of covalent radii," if cutoff is None else f"at most {cutoff} angstrom,")
        if one_molecule or not _are_alike(bonded, np.asarray(atomic_numbers)):
            warn_if_apart(where, num_atoms, bonded, origin, "in a hot frame a bond may be longer")
    else:
        bonds = check_indices(where, "bonds", bonds, "M, 2", num_atoms)
        bonded = np.concatenate([bonds, bonds[:, ::-1]])
        bonded = bonded[bonded[:, 0] != bonded[:, 1]]
    edge_index, hops = _pairs_by_hops(num_atoms, bonded, max_hops)
    if fully_connected:
        matrix = np.zeros((num_atoms, num_atoms), dtype=np.int64)
        matrix[edge_index[0], edge_index[1]] = hops
        edge_index = np.stack(np.nonzero(~np.eye(num_atoms, dtype=bool)))
        kinds = matrix[edge_index[0], edge_index[1]]
    else:
        kinds = hops - 1
    edge_attr = np.eye(max_hops + 1, dtype=np.float32)[kinds]
    return h, torch.from_numpy(edge_index), torch.from_numpy(edge_attr)


def _are_alike(bonds: np.ndarray, z: np.ndarray) -> bool:
    """Whether all pieces have the same elements, as the molecules of a pure liquid have."""
    piece = fragments(len(z), bonds)
    return len({tuple(sorted(z[piece == number].tolist())) for number in np.unique(piece)}) <= 1


def warn_if_apart(where: str, num_atoms: int, bonds: np.ndarray, origin: str, reason: str) -> None:
    """Warn when `bonds [M, 2]`, which nobody gave, leave the atoms in more than one piece."""
    count = int(fragments(num_atoms, bonds).max(initial=-1)) + 1
    if count > 1:
        warnings.warn(
            f"{where}: the bonds {origin} leave {num_atoms} atoms in {count} pieces; {reason}. If this is one "
            "molecule, give its bonds as pairs of atoms: bonds=[[0, 1], [1, 2], ...]",
            stacklevel=4,
        )


def heavy_atoms(where: str, z: np.ndarray) -> np.ndarray:
    """The places in z [N] of the atoms other than hydrogen. Raises ValueError where there is none."""
    atoms = np.flatnonzero(z > 1)
    if len(atoms) == 0:
        raise ValueError(f"{where}: z must hold an atom other than hydrogen when with_h is false, got {z.tolist()}")
    return atoms


def renumbered_bonds(where: str, bonds: ArrayLike | Tensor, atoms: np.ndarray, num_atoms: int) -> np.ndarray:
    """The bonds between the chosen `atoms` of `num_atoms`, by their places in `atoms`: [M, 2]."""
    bonds = check_indices(where, "bonds", bonds, "M, 2", num_atoms)
    place = np.full(num_atoms, -1)
    place[atoms] = np.arange(len(atoms))
    bonds = place[bonds]
    return bonds[(bonds >= 0).all(axis=1)]


def _types(where: str, atom_types: Sequence[int]) -> list[int]:
    """`atom_types` as a list of different atomic numbers."""
    given = check_array(where, "atom_types", atom_types, "K").tolist()
    types = [check_count(where, "atom_types", number, minimum=0) for number in given]
    if len(set(types)) < len(types):
        raise ValueError(f"{where}: atom_types must be atomic numbers, each once, got {types}")
    return types


def _atom_features(where: str, atomic_numbers: ArrayLike | Tensor, num_atoms: int, types: Sequence[int]) -> Tensor:
    z = check_array(where, "atomic_numbers", atomic_numbers, "N")
    check_shape(where, "atomic_numbers", z, (num_atoms,))
    known = np.isin(z, types)
    if not known.all():
        bad = z[~known][0]
        if isinstance(types, range):
            more = f"; give num_types={int(z.max()) + 1} or more" if z.max() >= len(types) else ""
            raise ValueError(
                f"{where}: atomic_numbers must be whole numbers from 0 to {len(types) - 1}, got {bad}{more}"
            )
        raise ValueError(f"{where}: atomic_numbers must be of atom_types {types}, got {bad}")
    place = torch.zeros(max(types) + 1, dtype=torch.int64, device="cpu")
    place[list(types)] = torch.arange(len(types), device="cpu")
    z = torch.from_numpy(z.astype(np.int64))
    powers = (z[:, None].float() / (max(types) + 1)) ** torch.arange(3.0, device="cpu")  # [N, 3]
    one_hot = torch.nn.functional.one_hot(place[z], len(types))
    return (one_hot[:, :, None] * powers[:, None, :]).flatten(1)


def _pairs_by_hops(num_nodes: int, bonded: np.ndarray, max_hops: int) -> tuple[np.ndarray, np.ndarray]:
    """Ordered pairs 1 to `max_hops` bonds apart: edge_index [2, E] in row-major order and hops [E].

    Pairs are keys row * N + col; each round steps from the newest pairs to their columns' neighbours, so that memory
    follows the number of edges, not N^2.
    """
    first = np.unique(bonded[:, 0] * num_nodes + bonded[:, 1])
    neighbours = first % num_nodes
    degree = np.bincount(first // num_nodes, minlength=num_nodes)
    begin = np.cumsum(degree) - degree
    seen = np.concatenate([np.arange(num_nodes) * (num_nodes + 1), first])
    rounds = [first]
    for _ in range(1, max_hops):
        row, col = np.divmod(rounds[-1], num_nodes)
        steps = degree[col]
        within = np.arange(steps.sum()) - np.repeat(np.cumsum(steps) - steps, steps)
        reached = np.repeat(row, steps) * num_nodes + neighbours[np.repeat(begin[col], steps) + within]
        reached = np.setdiff1d(reached, seen)
        seen = np.concatenate([seen, reached])
        rounds.append(reached)
    keys = np.concatenate(rounds)
    hops = np.repeat(np.arange(1, max_hops + 1), [len(keys_of_round) for keys_of_round in rounds])
    order = np.argsort(keys)
    return np.stack(np.divmod(keys[order], num_nodes)), hops[order]
