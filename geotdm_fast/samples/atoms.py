"""The atoms of samples of molecules as other packages want them: names, residues and bonds."""

import pathlib
from typing import NamedTuple

import numpy as np

from geotdm_fast.data.bonds import bonds_by_distance, complete_bonds, fragments
from geotdm_fast.data.molecule import renumbered_bonds
from geotdm_fast.data.molecule_files.elements import SYMBOLS
from geotdm_fast.data.molecule_files.opening import named_atoms, select
from geotdm_fast.runtime.files import PathLike

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


def atom_table(
    where: str, numbers: np.ndarray, positions: np.ndarray, topology: PathLike | None, selection: str | None
) -> AtomTable:
    """The atoms of a molecule, with names, residues and bonds of a topology, or made of elements and positions.

    numbers: [N] int64 - atomic numbers; positions: [N, 3] (angstrom) - a frame in which the molecule is whole
    topology: a file that names the N atoms in their order, of the formats of `data.file_dataset`; selection: which of
        its atoms these are, in the language of MDTraj or MDAnalysis. Atoms without a bond there get those by distance
    Without a topology names are symbol and number (C1, C2, H3), bonds are those by distance (`bonds_by_distance`), and
    what bonds join is a residue MOL.

    where: for messages. Raises ValueError for a topology of other atoms, ModuleNotFoundError where its reader is not
    installed.
    """
    check_selection(where, topology, selection)
    if topology is None:
        bonds = bonds_by_distance(positions, numbers)
        names = [f"{SYMBOLS[number]}{i + 1}" for i, number in enumerate(numbers.tolist())]
        return _table(numbers, names, None, None, bonds)
    found = named_atoms(where, pathlib.Path(topology))
    chosen = select(where, found, selection)
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
        bonds = complete_bonds(where, positions, numbers, bonds)
    residues = None if found.residues is None else [found.residues[i] for i in chosen.tolist()]
    residue_of = None if found.residue_of is None else found.residue_of[chosen]
    return _table(numbers, [found.names[i] for i in chosen.tolist()], residues, residue_of, bonds)


def check_selection(where: str, topology: PathLike | None, selection: str | None) -> None:
    """ValueError for a selection without a topology."""
    if topology is None and selection is not None:
        raise ValueError(f"{where}: selection must come with a topology, whose atoms it chooses, got none")


def first_frame(truth: np.ndarray, drawn: np.ndarray) -> np.ndarray:
    """[N, 3] - the first frame of the data; where nobody knows it, of what was drawn. Both are [N, 3, T]."""
    return truth[..., 0] if np.isfinite(truth[..., 0]).all() else drawn[..., 0]


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
