"""What the bonds of a molecule imply: angles, torsions, rings, stereocentres, pieces, pairs that are not bonded."""

from collections import deque
from functools import cached_property
from itertools import combinations
from typing import NamedTuple

import numpy as np

from geotdm_fast.data.bonds import fragments

# The longest cycle that counts as a ring.
LARGEST_RING = 8


class Centre(NamedTuple):
    """A stereocentre: an atom, and three of its neighbours in the order of their numbers.

    hidden: whether it has these three alone, so that it is one only if a hydrogen that is left out is the fourth
    """

    atom: int
    neighbours: tuple[int, int, int]
    hidden: bool = False


class Topology:
    """The graph of the bonds of a molecule, and what follows from it.

    atomic_numbers: [N] int64, 0 for atoms without an element
    bonds: [P, 2] int64 - each pair once, i < j, sorted
    """

    def __init__(self, atomic_numbers: np.ndarray, bonds: np.ndarray):
        self.atomic_numbers = np.asarray(atomic_numbers, dtype=np.int64)
        pairs = np.sort(np.asarray(bonds, dtype=np.int64).reshape(-1, 2), axis=1)
        pairs = np.unique(pairs[pairs[:, 0] != pairs[:, 1]], axis=0)
        self.bonds = pairs
        self.neighbours: list[list[int]] = [[] for _ in range(len(self.atomic_numbers))]
        for i, j in pairs.tolist():
            self.neighbours[i].append(j)
            self.neighbours[j].append(i)

    @property
    def num_atoms(self) -> int:
        return len(self.atomic_numbers)

    @cached_property
    def angles(self) -> np.ndarray:
        """[A, 3] int64 - i, j, k with i < k both bonded to j."""
        found = [(i, j, k) for j, near in enumerate(self.neighbours) for i, k in combinations(sorted(near), 2)]
        return np.array(found, dtype=np.int64).reshape(-1, 3)

    @cached_property
    def torsions(self) -> np.ndarray:
        """[Q, 4] int64 - all i, j, k, l along three bonds, with j < k."""
        found = [
            (i, j, k, m)
            for j, k in self.bonds.tolist()
            for i in self.neighbours[j]
            for m in self.neighbours[k]
            if len({i, j, k, m}) == 4
        ]
        return np.array(found, dtype=np.int64).reshape(-1, 4)

    @cached_property
    def slow_torsions(self) -> np.ndarray:
        """[F, 4] int64 - of `torsions` one around each bond; those of heavy atoms alone where there are any such.

        Of several around a bond, that whose ends are heavy and have the most heavy neighbours: so phi and psi of an
        amino acid go along its backbone.
        """
        z = self.atomic_numbers
        heavy_near = [sum(int(z[near] != 1) for near in around) for around in self.neighbours]
        weight = [100 * int(z[atom] != 1) + heavy_near[atom] for atom in range(self.num_atoms)]
        best: dict[tuple[int, ...], tuple] = {}
        for torsion in self.torsions.tolist():
            around = tuple(torsion[1:3])
            rank = (-weight[torsion[0]] - weight[torsion[3]], torsion)
            if around not in best or rank < best[around]:
                best[around] = rank
        chosen = [torsion for _, torsion in best.values()]
        heavy = [torsion for torsion in chosen if (z[torsion] != 1).all()]
        return np.array(heavy or chosen, dtype=np.int64).reshape(-1, 4)

    @cached_property
    def piece(self) -> np.ndarray:
        """[N] int64 - which connected piece every atom is in, numbered by their first atoms."""
        return fragments(self.num_atoms, self.bonds)

    @cached_property
    def ring_bonds(self) -> list[np.ndarray]:
        """For the smallest ring through each bond, up to 8 atoms, once: the places of its bonds in `bonds`."""
        place = {tuple(bond): p for p, bond in enumerate(self.bonds.tolist())}
        rings: dict[frozenset, np.ndarray] = {}
        for i, j in self.bonds.tolist():
            path = self._path_without_bond(i, j)
            if path:
                ring = frozenset(tuple(sorted(pair)) for pair in zip(path, path[1:] + path[:1], strict=True))
                rings.setdefault(ring, np.array(sorted(place[bond] for bond in ring)))
        return list(rings.values())

    def _path_without_bond(self, start: int, end: int) -> list[int]:
        before, queue = {start: start}, deque([(start, 1)])
        while queue:
            atom, length = queue.popleft()
            if length == LARGEST_RING:
                continue
            for near in self.neighbours[atom]:
                if near in before or (atom, near) == (start, end):
                    continue
                before[near] = atom
                if near == end:
                    path = [end]
                    while path[-1] != start:
                        path.append(before[path[-1]])
                    return path
                queue.append((near, length + 1))
        return []

    @cached_property
    def centres(self) -> list[Centre]:
        """Atoms with four neighbours that differ as parts of the graph, and carbons with three.

        Neighbours differ where refinement of colours (Weisfeiler and Leman 1968) tells them apart, from the elements.
        """
        colour = self.atomic_numbers.tolist()
        for _ in range(self.num_atoms):
            signature = [
                (colour[atom], tuple(sorted(colour[near] for near in around)))
                for atom, around in enumerate(self.neighbours)
            ]
            names = {key: number for number, key in enumerate(sorted(set(signature)))}
            if len(names) == len(set(colour)):
                break
            colour = [names[key] for key in signature]
        found = []
        for atom, around in enumerate(self.neighbours):
            hidden = len(around) == 3 and self.atomic_numbers[atom] == 6
            if (hidden or len(around) == 4) and len({colour[near] for near in around}) == len(around):
                a, b, c = sorted(around)[:3]
                found.append(Centre(atom, (a, b, c), hidden))
        return found

    def pairs_beyond(self, num_bonds: int, atoms: np.ndarray | None = None) -> np.ndarray:
        """[M, 2] int64 - pairs i < j of `atoms` (default all) that are more than `num_bonds` bonds apart."""
        atoms = np.arange(self.num_atoms) if atoms is None else atoms
        i, j = np.triu_indices(len(atoms), k=1)
        pairs = np.stack([atoms[i], atoms[j]], axis=1)
        near = [
            start * self.num_atoms + end for start in range(self.num_atoms) for end in self._within(start, num_bonds)
        ]
        return pairs[~np.isin(pairs[:, 0] * self.num_atoms + pairs[:, 1], near)]

    def _within(self, start: int, num_bonds: int) -> set[int]:
        seen, edge = {start}, {start}
        for _ in range(num_bonds):
            edge = {near for atom in edge for near in self.neighbours[atom]} - seen
            seen |= edge
        return {end for end in seen if end > start}
