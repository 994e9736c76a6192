"""Structures: frames that are molecules of their own, each with its atoms and its box."""

import warnings
from typing import NamedTuple

import numpy as np

from geotdm_fast.data.molecule_files.boxes import checked_cell, heights, touching_radii, whole

WITHOUT_BOX = "remove the box (Lattice, or cell and pbc) to take positions as they are"
_LONGEST_BOND = 2.4  # angstrom; what is bonded through a lower box is no molecule


class Structure(NamedTuple):
    """One frame as it is stored.

    z: [N] int64 - atomic numbers; x: [N, 3] float64 - positions; cell: [3, 3] float64 - the box vectors as rows, in the
    unit of x, or None; pbc: [3] bool - the periodic directions
    """

    z: np.ndarray
    x: np.ndarray
    cell: np.ndarray | None
    pbc: np.ndarray

    def scaled(self, factor: float) -> "Structure":
        """The same in another unit: positions and box are multiplied by `factor`."""
        return self._replace(x=self.x * factor, cell=None if self.cell is None else self.cell * factor)


class MadeWhole:
    """Makes structures whole that their boxes cut, and counts them."""

    def __init__(self, where: str):
        self._where, self._cut, self._low = where, 0, 0

    def __call__(self, number: int, one: Structure, bonds: np.ndarray | None = None) -> np.ndarray:
        """The positions [N, 3] of structure `number` (angstrom), bonded atoms beside each other, see `boxes.whole`.

        bonds: [M, 2] or None - found by distance beside these
        Where there is no box, or one lower than a bond is long, the positions stay. Raises ValueError for vectors of
        periodic directions that are not finite or span no volume.
        """
        try:
            box = None if one.cell is None else checked_cell(one.cell, one.pbc, f"of molecule {number}")
        except ValueError as error:
            raise ValueError(f"{self._where}: {error}; {WITHOUT_BOX}") from None
        if box is None:
            return one.x
        cell, pbc = box
        if heights(cell)[pbc].min() < _LONGEST_BOND:
            self._low += 1
            return one.x
        images, _ = whole(one.x, cell, pbc, bonds, touching_radii(one.z))
        if not images.any():
            return one.x
        self._cut += 1
        return one.x + images @ cell

    def report(self, total: int) -> None:
        """Warn of what was done with the boxes of `total` structures."""
        if self._cut:
            warnings.warn(
                f"{self._where}: molecules cut by the box are made whole in {self._cut} of {total} structures; "
                f"{WITHOUT_BOX}",
                stacklevel=3,
            )
        if self._low:
            warnings.warn(
                f"{self._where}: the boxes of {self._low} of {total} structures are passed over, lower than a bond is "
                f"long ({_LONGEST_BOND} angstrom)",
                stacklevel=3,
            )
