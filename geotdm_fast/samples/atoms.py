"""The atoms of samples of molecules as other packages want them: names, residues and bonds."""

import pathlib
from typing import NamedTuple

import numpy as np

from geotdm_fast.data.bonds import bonds_by_distance, complete_bonds, fragments
from geotdm_fast.data.molecule import renumbered_bonds
from geotdm_fast.data.molecule_files.contents import Atoms
from geotdm_fast.data.molecule_files.elements import SYMBOLS
from geotdm_fast.data.molecule_files.opening import named_atoms, select
from geotdm_fast.runtime.files import PathLike
from geotdm_fast.samples.record import Samples

# The residue of atoms whose residue nobody names.
UNNAMED = "MOL"


class AtomTable(NamedTuple):
    """The atoms of a molecule.

    numbers: [N] int64 - atomic numbers; names: [N]
    residues: [R] - the name of every residue; residue_of: [N] int64 - the residue of every atom, from 0
    bonds: [M, 2] int64 - every bonded pair i < j once
    """

    numbers: np.ndarray
    names: list[str]
    residues: list[str]
    residue_of: np.ndarray
    bonds: np.ndarray

    @property
    def symbols(self) -> list[str]:
        """[N] - the symbols of the elements, X for atomic number 0."""
        return [SYMBOLS[number] for number in self.numbers.tolist()]


class NamedAtoms(NamedTuple):
    """The atoms that a topology names. path: its file; atoms: all of it; chosen: [M] int64 - the selection of them."""

    path: PathLike
    atoms: Atoms
    chosen: np.ndarray


def read_topology(where: str, topology: PathLike | None, selection: str | None) -> NamedAtoms | None:
    """The atoms that a topology names; None without one.

    topology: a file of the formats of `data.file_dataset`; selection: which of its atoms, in the language of MDTraj or
        MDAnalysis

    where: for messages. Raises ValueError for a selection without a topology, and for files and selections that cannot
    be read, ModuleNotFoundError where the reader of the topology is not installed.
    """
    if topology is None:
        if selection is not None:
            raise ValueError(f"{where}: selection must come with a topology, whose atoms it chooses, got none")
        return None
    atoms = named_atoms(where, pathlib.Path(topology))
    return NamedAtoms(topology, atoms, select(where, atoms, selection))


def atom_table(where: str, numbers: np.ndarray, positions: np.ndarray, named: NamedAtoms | None) -> AtomTable:
    """The atoms of a molecule, with names, residues and bonds of a topology, or made of elements and positions.

    numbers: [N] int64 - atomic numbers; positions: [N, 3] (angstrom) - a frame in which the molecule is whole
    named: the N atoms in their order; those without a bond there get bonds by distance
    Without a topology names are symbol and number (C1, C2, H3), bonds are those by distance (`bonds_by_distance`), and
    what bonds join is a residue MOL.

    where: for messages. Raises ValueError for a topology of other atoms.
    """
    if named is None:
        bonds = bonds_by_distance(positions, numbers)
        names = [f"{SYMBOLS[number]}{i + 1}" for i, number in enumerate(numbers.tolist())]
        return _table(numbers, names, None, None, bonds)
    topology, found, chosen = named
    if len(chosen) != len(numbers):
        raise ValueError(
            f"{where}: topology must name the {len(numbers)} atoms of the samples, got {len(chosen)} ({topology}); "
            "selection chooses among its atoms"
        )
    stated = found.numbers[chosen]
    wrong = np.flatnonzero((stated > 0) & (numbers > 0) & (stated != numbers))
    if len(wrong):
        i = int(wrong[0])
        raise ValueError(
            f"{where}: topology must have the elements of the samples, {SYMBOLS[numbers[i]]} for atom {i}, got "
            f"{SYMBOLS[stated[i]]} ({topology})"
        )
    if found.bonds is None:
        bonds = bonds_by_distance(positions, numbers)
    else:
        bonds = renumbered_bonds(where, found.bonds, chosen, len(found.names))
        bonds = complete_bonds(where, positions, numbers, bonds, whose="of the topology")
    residues = None if found.residues is None else [found.residues[i] for i in chosen.tolist()]
    residue_of = None if found.residue_of is None else found.residue_of[chosen]
    return _table(numbers, [found.names[i] for i in chosen.tolist()], residues, residue_of, bonds)


def first_frame(samples: Samples, graph: int, sample: int) -> tuple[np.ndarray, bool]:
    """[N, 3] (unit), and whether it is of the data: the first frame of a graph; where nobody knows it, of a sample."""
    truth = samples.truth(graph=graph)[..., 0]
    if np.isfinite(truth).all():
        return truth, True
    return samples.forecasts(graph=graph, samples=range(sample, sample + 1))[0, ..., 0], False


def _table(
    numbers: np.ndarray,
    names: list[str],
    residue_names: list[str] | None,
    residue_of: np.ndarray | None,
    bonds: np.ndarray,
) -> AtomTable:
    """residue_names, residue_of: [N], of every atom, the residues by any numbers; None: by what bonds join."""
    if residue_of is None:
        residue_of = fragments(len(numbers), bonds)
    _, first, inverse = np.unique(residue_of, return_index=True, return_inverse=True)
    order = np.argsort(first)  # residues in the order of their first atoms
    residue_of = np.argsort(order)[inverse]
    residues = [UNNAMED if residue_names is None else residue_names[i] for i in first[order].tolist()]
    bonds = np.unique(np.sort(bonds, axis=1), axis=0).reshape(-1, 2).astype(np.int64)
    return AtomTable(numbers, names, residues, residue_of, bonds)
