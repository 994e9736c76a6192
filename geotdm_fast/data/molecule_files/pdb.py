"""Files of the Protein Data Bank's format, in chunks: models as frames, one location of every atom.

Columns (from 1): 13-16 name, 17 alternate location, 18-21 residue, 22 chain, 23-27 its number, 31-54 x y z, 55-60
occupancy, 77-78 element. Source: the format's description 3.3.
"""

import pathlib
import re
import warnings
from collections.abc import Iterator

import numpy as np

from geotdm_fast.data.molecule_files.contents import Atoms, Frames, common_values, frames_in_chunk
from geotdm_fast.data.molecule_files.cursor import Cursor
from geotdm_fast.data.molecule_files.elements import stated
from geotdm_fast.data.molecule_files.text_files import open_text, shown

_ATOM = (b"ATOM  ", b"HETATM")
_TIME = re.compile(rb"\bt=\s*([-+]?\d*\.?\d+(?:[eE][-+]?\d+)?)")
_ALTERNATE = 16


class PdbFile:
    """A `Source` that knows its `atoms` too; all models must have the same. Raises ValueError for a broken file."""

    has_positions = None

    def __init__(self, path: pathlib.Path):
        self.path = path
        self._cursor = Cursor(self._models)
        self.pbc = np.array([True] * 3)
        self.num_frames, times, lines = 0, [], None
        for model, _, time in self._models():
            if lines is None:
                lines = model
                self._total = len(model)
            elif len(model) != self._total:
                raise ValueError(
                    f"{path} must have the same atoms in every frame, got {len(model)} instead of {self._total} in "
                    f"frame {self.num_frames}"
                )
            times.append(time)
            self.num_frames += 1
        if lines is None:
            raise ValueError(f"{path} must have ATOM records, got none")
        self.times = common_values(times)
        self._kept = self._locations(lines)
        self._lines = [lines[i] for i in self._kept]
        self._names = [line[12:27] for line in lines]
        self.num_atoms = len(self._kept)
        self.atoms = self._table()

    def first_model(self) -> bytes:
        """The first model, one location of every atom, and the bonds of CONECT records, as a file."""
        with open_text(self.path) as file:
            bonds = [line for line in file if line.startswith(b"CONECT")]
        lines = [line[:_ALTERNATE] + b" " + line[_ALTERNATE + 1 :] for line in self._lines]
        return b"".join([*lines, *bonds, b"END\n"])

    def _models(self) -> Iterator[tuple[list[bytes], np.ndarray | None, float | None]]:
        """Lines of atoms, cell and time of every model."""
        lines, cell, time = [], None, None
        with open_text(self.path) as file:
            for line in file:
                record = line[:6]
                if record in _ATOM:
                    lines.append(line)
                elif lines and record.rstrip() in (b"ENDMDL", b"END"):
                    yield lines, cell, time
                    lines, time = [], None
                elif record == b"CRYST1":
                    cell = self._cell(line)
                elif record.rstrip() == b"TITLE" and (match := _TIME.search(line)):
                    time = float(match[1])
        if lines:
            yield lines, cell, time

    def _cell(self, line: bytes) -> np.ndarray:
        try:
            a, b, c, *angles = (
                float(line[k : k + w]) for k, w in ((6, 9), (15, 9), (24, 9), (33, 7), (40, 7), (47, 7))
            )
        except ValueError as error:
            raise ValueError(f"{self.path}: CRYST1 must have three lengths and angles, got {shown(line)}") from error
        return cell_of(np.array([[a, b, c]]), np.array([angles]))[0]

    def _locations(self, lines: list[bytes]) -> list[int]:
        """The places of the atoms, of each the location of the highest occupancy, the first of equal ones."""
        best: dict[bytes | int, int] = {}
        given = 0
        for i, line in enumerate(lines):
            atom = line[12:16] + line[21:27] if line[_ALTERNATE : _ALTERNATE + 1] != b" " else i
            given += atom != i
            if atom not in best or _occupancy(line) > _occupancy(lines[best[atom]]):
                best[atom] = i
        if given:
            warnings.warn(
                f"{self.path}: {given} of {len(lines)} records are alternate locations of atoms; of each atom the one "
                "of the highest occupancy is read, the first of equal ones",
                stacklevel=4,
            )
        return sorted(best.values())

    def _table(self) -> Atoms:
        text = [line.decode("utf-8", "replace") for line in self._lines]
        names = [line[12:16].strip() for line in text]
        symbols = [line[76:78].strip() for line in text]
        residues = [line[17:21].strip() for line in text]
        numbers = np.array([stated(symbol) for symbol in symbols])
        _, residue_of = np.unique([line[17:27] for line in text], return_inverse=True)
        atoms = Atoms(names, numbers, self.path, self._bonds(text), residues, residue_of)
        atoms.chains = [line[21:22].strip() for line in text]
        atoms.resids = np.array([line[22:27].strip() for line in text])
        return atoms

    def _bonds(self, text: list[str]) -> np.ndarray | None:
        """The bonds [M, 2] of CONECT records."""
        place = {line[6:11]: i for i, line in enumerate(text)}
        bonds = []
        with open_text(self.path) as file:
            for line in file:
                if line.startswith(b"CONECT"):
                    serials = [line[k : k + 5].decode("utf-8", "replace") for k in range(6, 31, 5)]
                    ends = [place[serial] for serial in serials if serial in place]
                    bonds += [(ends[0], other) for other in ends[1:]]
        return np.array(bonds, np.int64) if bonds else None

    def close(self) -> None:
        """See `Source`."""
        self._cursor.close()

    def read(self, atoms: np.ndarray, numbers: np.ndarray) -> Iterator[Frames]:
        """See `Source`."""
        wanted, size = set(numbers.tolist()), frames_in_chunk(self._total)
        places = [self._kept[i] for i in atoms]
        taken, xs, cells = [], [], []
        with self._cursor.before(numbers[0]) as models:
            ahead = range(self._cursor.position, int(numbers[-1]) + 1)
            for number, (lines, cell, _) in zip(ahead, models, strict=False):
                self._cursor.position = number + 1
                if number not in wanted:
                    continue
                self._check(lines, number)
                taken.append(number)
                xs.append(self._positions([lines[i] for i in places], number))
                cells.append(np.zeros((3, 3)) if cell is None or self._is_dummy(cell) else cell)
                if len(taken) == size or number == numbers[-1]:
                    yield Frames(np.array(taken), np.stack(xs), np.stack(cells) if np.any(cells) else None)
                    taken, xs, cells = [], [], []

    def _is_dummy(self, cell: np.ndarray) -> bool:
        """Whether this is the box of 1 angstrom that models without a box have."""
        return abs(np.linalg.det(cell)) < self.num_atoms

    def _check(self, lines: list[bytes], frame: int) -> None:
        if [line[12:27] for line in lines] != self._names:
            i = next(i for i, line in enumerate(lines) if line[12:27] != self._names[i])
            came = f"{shown(lines[i][12:27])} for {shown(self._names[i])}"
            raise ValueError(
                f"{self.path} must have the same atoms in every frame, got others in frame {frame}: {came}"
            )

    def _positions(self, lines: list[bytes], frame: int) -> np.ndarray:
        try:
            return np.array([(float(line[30:38]), float(line[38:46]), float(line[46:54])) for line in lines])
        except ValueError as error:
            raise ValueError(f"{self.path}: columns 31-54 of frame {frame} must be coordinates ({error})") from error


def _occupancy(line: bytes) -> float:
    try:
        return float(line[54:60])
    except ValueError:
        return 1.0


def cell_of(lengths: np.ndarray, angles: np.ndarray) -> np.ndarray:
    """Box vectors [T, 3, 3] of lengths and angles (degrees) [T, 3]: the first along x, the second in the plane
    of x and y."""
    a, b, c = lengths.T
    cos = np.where(angles == 90, 0.0, np.cos(np.radians(angles)))
    alpha, beta, gamma = cos.T
    sine = np.sqrt(np.maximum(1 - gamma**2, 1e-12))
    x, y = c * beta, c * (alpha - beta * gamma) / sine
    cell = np.zeros((len(lengths), 3, 3))
    cell[:, 0, 0] = a
    cell[:, 1, 0], cell[:, 1, 1] = b * gamma, b * sine
    cell[:, 2, 0], cell[:, 2, 1], cell[:, 2, 2] = x, y, np.sqrt(np.maximum(c**2 - x**2 - y**2, 0))
    return cell
