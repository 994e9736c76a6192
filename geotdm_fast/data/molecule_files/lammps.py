"""Text dumps of LAMMPS, in chunks: any columns, any box, atoms in any order.

Source: the manual's pages on `dump custom`, and "Triclinic (non-orthogonal) simulation boxes" for the corner and the
vectors of a box.
"""

import itertools
import pathlib
from collections.abc import Iterator
from typing import IO, Any, NamedTuple, cast

import numpy as np

from geotdm_fast.data.molecule_files.contents import Atoms, Frames, common_values, frames_in_chunk
from geotdm_fast.data.molecule_files.cursor import Cursor
from geotdm_fast.data.molecule_files.elements import stated
from geotdm_fast.data.molecule_files.text_files import open_text, shown

# Columns of positions, the best first: unwrapped ones before wrapped ones, plain ones before scaled ones.
_POSITIONS = (("xu", "yu", "zu"), ("xsu", "ysu", "zsu"), ("x", "y", "z"), ("xs", "ys", "zs"))
_IMAGES = ("ix", "iy", "iz")
_ANGSTROM = {"real": 1.0, "metal": 1.0, "nano": 10.0, "electron": 0.529177210903, "micro": 1e4, "si": 1e10, "cgs": 1e8}


class _Header(NamedTuple):
    """What stands above the atoms of a frame; corner [3] and cell [3, 3] of the box, pbc [3]."""

    step: float
    time: float | None
    units: str | None
    num_atoms: int
    corner: np.ndarray
    cell: np.ndarray
    pbc: np.ndarray
    columns: list[str]


class LammpsDump:
    """A `Source` that knows its `atoms` too; all frames must have the same. Raises ValueError for a broken file.

    unwrap: use the image flags `ix iy iz` where the dump has them
    """

    has_positions = None

    def __init__(self, path: pathlib.Path, unwrap: bool = True):
        self.path, self._unwrap = path, unwrap
        self._cursor = Cursor(lambda: open_text(path))
        steps, times = [], []
        self.num_frames, self.num_atoms, first = 0, 0, None
        with open_text(path) as file:
            while (header := self._header(file, self.num_frames)) is not None:
                lines = list(itertools.islice(file, header.num_atoms))
                if len(lines) < header.num_atoms or header.num_atoms < 1:
                    came = f"{len(lines)} lines for {header.num_atoms}"
                    raise ValueError(f"{path} must have a line for each atom in frame {self.num_frames}, got {came}")
                if first is None:
                    first, self.num_atoms, self.pbc = header, header.num_atoms, header.pbc
                    self._order, self.atoms = self._table(header, lines)
                if header.num_atoms != self.num_atoms:
                    raise ValueError(
                        f"{path} must have the same atoms in every frame, got {header.num_atoms} instead of "
                        f"{self.num_atoms} in frame {self.num_frames}"
                    )
                steps.append(header.step)
                times.append(header.time)
                self.num_frames += 1
        if first is None:
            raise ValueError(f"{path} must have a frame, got none")
        self.units = first.units
        self.times = common_values(times)
        self.times = np.array(steps) if self.times is None else self.times

    def _header(self, file: IO[bytes], frame: int) -> _Header | None:
        """The lines up to `ITEM: ATOMS`; None at the end of the file."""
        found: dict[str, Any] = {}
        for line in file:
            if not line.strip():
                continue
            if not line.startswith(b"ITEM: "):
                raise ValueError(f"{self.path}: frame {frame} must go on with an ITEM, got {shown(line)}")
            item = line[6:].decode("utf-8", "replace").split() or [""]
            try:
                if item[0] == "TIMESTEP":
                    found["step"] = float(file.readline())
                elif item[0] == "TIME":
                    found["time"] = float(file.readline())
                elif item[0] == "UNITS":
                    found["units"] = file.readline().decode("utf-8", "replace").strip()
                elif item[:3] == ["NUMBER", "OF", "ATOMS"]:
                    found["num_atoms"] = int(file.readline())
                elif item[:2] == ["BOX", "BOUNDS"]:
                    rows = [list(map(float, file.readline().split())) for _ in range(3)]
                    found["box"] = _box(rows, item[2:])
                elif item[0] == "ATOMS":
                    found["columns"] = item[1:]
                    break
                else:
                    raise ValueError("an unknown ITEM")
            except ValueError as error:
                what = " ".join(item[:4])
                raise ValueError(
                    f"{self.path}: '{what}' of frame {frame} must be as LAMMPS writes it ({error})"
                ) from None
        if not found:
            return None
        lacking = [key for key in ("step", "num_atoms", "box", "columns") if key not in found]
        if lacking:
            raise ValueError(f"{self.path}: frame {frame} must have TIMESTEP, NUMBER OF ATOMS, BOX BOUNDS and ATOMS")
        corner, cell, pbc = found["box"]
        scale = _ANGSTROM.get(found.get("units", "real"), 1.0)
        return _Header(
            found["step"],
            found.get("time"),
            found.get("units"),
            found["num_atoms"],
            corner * scale,
            cell * scale,
            pbc,
            found["columns"],
        )

    def _words(self, header: _Header, lines: list[bytes], frame: int) -> list[bytes]:
        words, width = b" ".join(lines).split(), len(header.columns)
        if len(words) != width * header.num_atoms:
            for i, line in enumerate(lines):
                if len(line.split()) != width:
                    came = f"{width} columns, got {shown(line)}"
                    raise ValueError(f"{self.path}: atom {i} of frame {frame} must have {came}")
        return words

    def _table(self, header: _Header, lines: list[bytes]) -> tuple[list[bytes] | None, Atoms]:
        """The ids of the first frame in ascending order, if there are any, and the atoms in that order."""
        words, width, columns = self._words(header, lines, 0), len(header.columns), header.columns
        by_id = words[columns.index("id") :: width] if "id" in columns else None
        order = (
            range(header.num_atoms) if by_id is None else sorted(range(header.num_atoms), key=lambda i: int(by_id[i]))
        )
        texts = {
            name: [words[i * width + columns.index(name)].decode("utf-8", "replace") for i in order]
            for name in ("element", "type")
            if name in columns
        }
        called = "type" if "type" in texts else "element"
        names = texts.get("type") or texts.get("element") or ["?"] * header.num_atoms
        numbers = np.array([stated(name) for name in texts["element"]] if "element" in texts else [0] * len(names))
        if "element" in texts and not numbers.all():
            names, called = texts["element"], "element"
        atoms = Atoms(names, numbers, self.path, called=called)
        return None if by_id is None else [by_id[i] for i in order], atoms

    def close(self) -> None:
        """See `Source`."""
        self._cursor.close()

    def read(self, atoms: np.ndarray, numbers: np.ndarray) -> Iterator[Frames]:
        """See `Source`."""
        wanted, size = set(numbers.tolist()), frames_in_chunk(self.num_atoms)
        taken, xs, cells = [], [], []
        with self._cursor.before(numbers[0]) as file:
            for number in range(self._cursor.position, int(numbers[-1]) + 1):
                header = cast(_Header, self._header(file, number))  # it was there when frames were counted
                lines = list(itertools.islice(file, header.num_atoms))
                self._cursor.position = number + 1
                if number not in wanted:
                    continue
                taken.append(number)
                xs.append(self._positions(header, lines, number)[atoms])
                cells.append(header.cell)
                if len(taken) == size or number == numbers[-1]:
                    yield Frames(np.array(taken), np.stack(xs), np.stack(cells))
                    taken, xs, cells = [], [], []

    def _positions(self, header: _Header, lines: list[bytes], frame: int) -> np.ndarray:
        words, columns, width = self._words(header, lines, frame), header.columns, len(header.columns)
        names = next((names for names in _POSITIONS if all(name in columns for name in names)), None)
        if names is None:
            came = " ".join(columns)
            raise ValueError(f"{self.path} must have columns x y z, xs ys zs, xu yu zu or xsu ysu zsu, got {came}")
        try:
            x = np.array([list(map(float, words[columns.index(name) :: width])) for name in names]).T
        except ValueError as error:
            raise ValueError(f"{self.path}: {' '.join(names)} of frame {frame} must be numbers ({error})") from error
        if "s" in names[0]:
            x = header.corner + x @ header.cell
        else:
            x *= _ANGSTROM.get(header.units or "real", 1.0)
        if self._unwrap and "u" not in names[0] and all(name in columns for name in _IMAGES):
            images = np.array([list(map(float, words[columns.index(name) :: width])) for name in _IMAGES]).T
            x += images @ header.cell
        if self._order is None:
            return x
        ids = words[columns.index("id") :: width]
        if ids == self._order:
            return x
        place = {word: i for i, word in enumerate(ids)}
        try:
            return x[[place[word] for word in self._order]]
        except KeyError as error:
            raise ValueError(
                f"{self.path} must have the same atoms in every frame, got others in frame {frame}"
            ) from error


def _box(lines: list[list[float]], words: list[str]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The corner [3], the cell [3, 3] and the periodic directions [3] of `BOX BOUNDS`."""
    width = 4 if words[:2] == ["abc", "origin"] else 3 if words[:3] == ["xy", "xz", "yz"] else 2
    if any(len(line) != width for line in lines):
        raise ValueError(f"three lines of {width} numbers")
    rows = np.array(lines)
    flags = [word for word in words if len(word) == 2 and set(word) <= set("pfsm")]
    pbc = np.array([flag == "pp" for flag in flags] if len(flags) == 3 else [False] * 3)
    if words[:2] == ["abc", "origin"]:
        return rows[:, 3], rows[:, :3], pbc
    low, high = rows[:, 0], rows[:, 1]
    if words[:3] != ["xy", "xz", "yz"]:
        return low, np.diag(high - low), pbc
    xy, xz, yz = rows[:, 2]
    low = low - [min(0, xy, xz, xy + xz), min(0, yz), 0]
    high = high - [max(0, xy, xz, xy + xz), max(0, yz), 0]
    size = high - low
    return low, np.array([[size[0], 0, 0], [xy, size[1], 0], [xz, yz, size[2]]]), pbc
