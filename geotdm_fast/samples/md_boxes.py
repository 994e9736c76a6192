"""Molecules in boxes as MD programs have them: the first vector along x, the second in the xy plane, float32."""

import warnings
from collections.abc import Iterable, Iterator
from typing import cast

import numpy as np

from geotdm_fast.samples.molecules import Molecule
from geotdm_fast.samples.wrapping import lower_triangular


def in_md_boxes(where: object, molecules: Iterable[Molecule], holder: str) -> Iterator[Molecule]:
    """The same trajectories, in boxes whose vectors are a lower triangular matrix, or without a box.

    where: the file or function that takes them, for messages; holder: what has boxes of that kind alone

    Boxes of another orientation are turned, and positions with them; a box that is not periodic in all directions is
    left out. Either is said in a warning, and so is it where positions are far from 0 (float64). Raises ValueError
    unless all trajectories are of the same atoms, and periodic in all directions or none of them.
    """
    first: Molecule | None = None
    turned = 0
    for molecule in molecules:
        if first is None:
            first = molecule
            _tell_first(where, molecule, holder)
        _check_alike(where, molecule, first)
        molecule, is_turned = _in_md_box(molecule)
        turned += is_turned
        yield molecule
    if turned:
        warnings.warn(
            f"{where}: {holder} has boxes whose first vector is along x and whose second is in the xy plane; "
            f"{turned} trajectories were turned so, positions with their boxes; .xyz and ASE have them as they are",
            stacklevel=3,
        )


def _tell_first(where: object, molecule: Molecule, holder: str) -> None:
    """Warn of what these boxes and float32 do not hold."""
    if molecule.positions.dtype == np.float64:
        warnings.warn(f"{where}: positions are far from 0, where float32 blurs them; use .xyz or ASE", stacklevel=4)
    if molecule.pbc is not None and not molecule.pbc.all():
        warnings.warn(
            f"{where}: {holder} has boxes that are periodic in all directions alone, and these are so in "
            f"{molecule.pbc.tolist()}: positions are written without a box; .xyz and ASE have it",
            stacklevel=4,
        )


def _check_alike(where: object, molecule: Molecule, first: Molecule) -> None:
    if not np.array_equal(molecule.atomic_numbers, first.atomic_numbers):
        raise ValueError(f"{where}: all graphs must be the same molecule, graph {molecule.graph} is another")
    if molecule.pbc is not None and first.pbc is not None and molecule.pbc.all() != first.pbc.all():
        raise ValueError(
            f"{where}: all graphs must be periodic in all directions or none of them, graph {molecule.graph} is so in "
            f"{molecule.pbc.tolist()}"
        )


def _in_md_box(molecule: Molecule) -> tuple[Molecule, bool]:
    """The molecule in a box of that kind, or without; and whether it was turned for that."""
    if molecule.cell is None or not cast(np.ndarray, molecule.pbc).all():
        return molecule._replace(cell=None), False
    positions, cell, turned = lower_triangular(molecule.positions, molecule.cell)
    return molecule._replace(positions=positions, cell=cell), turned
