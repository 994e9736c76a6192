"""Whether the distances in a molecule can be angstrom, and what they are otherwise."""

import warnings
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from geotdm_fast.data.bonds import bonds_by_distance
from geotdm_fast.data.covalent_radii import bonding_radii
from geotdm_fast.runtime.choices import nearest

# Of a length in angstrom.
ANGSTROM = {
    "angstrom": 1.0, "Angstrom": 1.0, "angstroms": 1.0, "A": 1.0, "Å": 1.0, "ang": 1.0,
    "nm": 10.0, "nanometer": 10.0, "nanometers": 10.0, "nanometre": 10.0, "nanometres": 10.0,
    "bohr": 0.529177210903, "Bohr": 0.529177210903, "pm": 0.01, "picometer": 0.01, "picometre": 0.01,
}  # fmt: skip
_LIKELY = {"angstrom": 1.0, "nm": 10.0, "bohr": 0.529177210903, "pm": 0.01}
_ALIKE = 1.25  # the usual distance of nearest atoms, over that of bonds, is within this factor of 1
_TOO_NEAR = 0.5  # angstrom; the shortest bond, that of H2, has 0.74
_SAMPLE = 512  # atoms looked at
_MOLECULES = 64  # molecules looked at, of conformers


def unit_factor(where: str, unit: str) -> float:
    """What a molecule's positions in `unit` are multiplied by to be angstrom; '' is angstrom. ValueError for others."""
    if unit == "":
        return 1.0
    if unit not in ANGSTROM:
        hint = nearest(unit, _LIKELY)
        raise ValueError(f"{where}: unit must be one of {', '.join(_LIKELY)} for molecules (z), got '{unit}'{hint}")
    return ANGSTROM[unit]


def check_distances(
    where: str, name: str, positions: np.ndarray, atomic_numbers: np.ndarray, stated: bool, guessed: bool = True
) -> None:
    """Look at the first frame of a molecule: do nearest atoms have the distance of bonds?

    name: what the positions are called in the file
    positions: [N, 3] (angstrom); atomic_numbers: [N]
    stated: whether somebody said that the unit is angstrom; guessed: whether bonds are taken by distance
    Raises ValueError where they look like nm and nobody stated a unit; warns where they look like another unit, and of
    atoms nearer than 0.5 angstrom and hydrogens with several bonds.
    """
    z = np.asarray(atomic_numbers)
    found = _judged(positions, z)
    if len(found.distance) == 0 or not _is_angstrom(where, name, found, bool((z == 1).any()), stated):
        return
    near = found.distance < _TOO_NEAR
    if near.any():
        i = np.where(near, found.distance, np.inf).argmin()
        warnings.warn(
            f"{where}: atoms {found.atom[i]} and {found.neighbour[i]} are {found.distance[i]:.3g} angstrom apart in "
            f"the first frame, nearer than any bond; {int(near.sum())} of {found.looked_at} atoms looked at are so "
            "near to another",
            stacklevel=4,
        )
    elif guessed:
        _check_hydrogens(where, positions, z)


def check_conformers(
    where: str, name: str, molecules: Sequence[tuple[np.ndarray, np.ndarray]], stated: bool = False
) -> None:
    """The same for molecules of one frame each, by the nearest atoms of some of them together.

    name: what the positions are called; molecules: positions [N, 3] (angstrom) and atomic numbers [N] of each
    Raises ValueError where they look like nm and nobody stated a unit; warns where they look like another unit, and of
    atoms nearer than 0.5 angstrom.
    """
    numbers = np.unique(np.linspace(0, len(molecules) - 1, min(len(molecules), _MOLECULES)).astype(np.int64)).tolist()
    parts = [_judged(*molecules[number]) for number in numbers]
    if not any(len(part.distance) for part in parts):
        return
    joined = [np.concatenate(arrays) for arrays in zip(*(part[:4] for part in parts), strict=True)]
    found = _Judged(joined[0], joined[1], joined[2], joined[3], sum(part.looked_at for part in parts))
    hydrogens = any((np.asarray(molecules[number][1]) == 1).any() for number in numbers)
    if not _is_angstrom(where, name, found, hydrogens, stated):
        return
    for number, part in zip(numbers, parts, strict=True):
        near = np.flatnonzero(part.distance < _TOO_NEAR)
        if len(near):
            i = near[0]
            total = int((found.distance < _TOO_NEAR).sum())
            warnings.warn(
                f"{where}: atoms {part.atom[i]} and {part.neighbour[i]} of molecule {number} of those read are "
                f"{part.distance[i]:.3g} angstrom apart, nearer than any bond; {total} of {found.looked_at} atoms "
                "looked at are so near to another",
                stacklevel=4,
            )
            return


class _Judged(NamedTuple):
    """Atoms whose nearest neighbour can be judged, each array [n].

    distance: to that neighbour; usual: the length of a bond of both; atom, neighbour: which they are
    looked_at: how many atoms were looked at
    """

    distance: np.ndarray
    usual: np.ndarray
    atom: np.ndarray
    neighbour: np.ndarray
    looked_at: int


def _judged(positions: np.ndarray, z: np.ndarray) -> _Judged:
    """At most `_SAMPLE` evenly spaced atoms with their nearest ones; those without a known bond are left out."""
    sample = np.unique(np.linspace(0, len(z) - 1, min(len(z), _SAMPLE)).astype(np.int64))
    radii = bonding_radii(np.asarray(z))
    distance, neighbour = _nearest(np.asarray(positions, dtype=np.float64), sample)
    usual = radii[sample] + radii[neighbour]
    known = np.isfinite(usual) & np.isfinite(distance)
    return _Judged(distance[known], usual[known], sample[known], neighbour[known], len(sample))


def _is_angstrom(where: str, name: str, found: _Judged, hydrogens: bool, stated: bool) -> bool:
    """Whether nearest atoms have the distance of bonds in angstrom, as far as can be known; raises or warns if not."""
    ratio = float(np.median(found.distance / found.usual))
    # Heavy atoms alone are as far apart in a bare lattice of water as bonds in bohr.
    units = [unit for unit in _LIKELY if unit in ("angstrom", "nm") or hydrogens]
    unit = min(units, key=lambda u: abs(np.log(max(ratio, 1e-9) * _LIKELY[u])))
    if unit == "angstrom" or not 1 / _ALIKE < ratio * _LIKELY[unit] < _ALIKE:
        return True
    message = (
        f"{where}: distances look like {unit}: an atom and the nearest one are {np.median(found.distance):.3g} apart, "
        f"bonds between these elements have {np.median(found.usual):.2f} angstrom; multiply {name} by "
        f"{_LIKELY[unit]:.4g}, or give unit: {unit}"
    )
    if unit == "nm" and not stated:
        raise ValueError(message)
    warnings.warn(message, stacklevel=5)
    return False


def _check_hydrogens(where: str, positions: np.ndarray, z: np.ndarray) -> None:
    """Warn of hydrogens that bonds by distance would bond to several atoms."""
    degree = np.bincount(bonds_by_distance(positions, z)[:, 0], minlength=len(z))
    several = np.flatnonzero((z == 1) & (degree > 1))
    if len(several):
        warnings.warn(
            f"{where}: atom {several[0]}, a hydrogen, is within a bond's length of {degree[several[0]]} atoms in the "
            f"first frame, as {len(several)} of {int((z == 1).sum())} hydrogens are; look at the unit and at z, or "
            "give bonds",
            stacklevel=5,
        )


def _nearest(positions: np.ndarray, sample: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The distance to the nearest other atom, and which it is, for each atom of `sample`; inf where there is none."""
    distance, neighbour = np.full(len(sample), np.inf), np.zeros(len(sample), dtype=np.int64)
    for k, i in enumerate(sample.tolist()):
        squares = np.square(positions - positions[i]).sum(axis=1)
        squares[i] = np.inf
        neighbour[k] = squares.argmin()
        distance[k] = np.sqrt(squares[neighbour[k]])
    return distance, neighbour
