"""XYZ and extended XYZ, in chunks.

A frame is a line with the number of atoms, a line of comment, and a line for each atom. Extended XYZ says in the
comment what the columns are (`Properties=species:S:1:pos:R:3`), the box (`Lattice="..."`) and its periodic directions
(`pbc`).
"""

import itertools
import pathlib
import re
from collections.abc import Iterator
from typing import IO, NamedTuple

import numpy as np

from geotdm_fast.data.molecule_files.contents import Atoms, Frames, common_values, frames_in_chunk
from geotdm_fast.data.molecule_files.cursor import Cursor
from geotdm_fast.data.molecule_files.elements import NUMBERS
from geotdm_fast.data.molecule_files.text_files import open_text, shown

_NAMES = (b"lattice", b"properties", b"pbc", b"time", b"step", b"i")
# Both cases of every letter by hand: re.IGNORECASE takes twice as long.
_NAME = b"|".join(b"".join(b"[%c%c]" % (letter, letter - 32) for letter in name) for name in _NAMES)
_KEY = re.compile(rb"""[\s,](%s)\s*=\s*(?:"([^"]*)"|'([^']*)'|([^\s,]+))""" % _NAME)
_NUMBER = re.compile(rb"([-+]?\d+\.?\d*(?:[eE][-+]?\d+)?)[a-zA-Z]*")
_TRUE = {b"t", b"true", b"1"}


class Columns(NamedTuple):
    """Where the label and the three coordinates stand in a line.

    width: how many columns there are, None if free; numbers: labels are atomic numbers, not symbols
    """

    label: int | None
    position: int
    width: int | None
    numbers: bool = False


class XyzFile:
    """A `Source` that knows its `atoms` too; all frames must have the same. Raises ValueError for a broken file."""

    has_positions = None

    def __init__(self, path: pathlib.Path):
        self.path = path
        self._cursor = Cursor(lambda: open_text(path))
        self._last_cell: tuple[bytes, list[float]] | None = None
        self._first(*self._scan())

    def _scan(self) -> tuple[dict[bytes, bytes], list[bytes]]:
        """Count frames and look at the number of atoms and the time of each; the keys and lines of the first."""
        self.num_frames, self.num_atoms = 0, 0
        times, steps = [], []
        with open_text(self.path) as file:
            for header in file:
                if not header.strip():
                    if not file.read(4096).strip():
                        break
                    raise ValueError(f"{self.path}: frame {self.num_frames} must begin with a number, got a blank line")
                count = count_of(self.path, self.num_frames, header)
                if self.num_frames and count != self.num_atoms:
                    raise ValueError(
                        f"{self.path} must have the same atoms in every frame, got {count} instead of {self.num_atoms} "
                        f"in frame {self.num_frames}"
                    )
                self.num_atoms = count
                keys = keys_of(file.readline())
                times.append(_value(keys.get(b"time")))
                steps.append(_value(keys.get(b"step", keys.get(b"i"))))
                if self.num_frames == 0:
                    first = keys, list(itertools.islice(file, count))
                    last = first[1][-1] if len(first[1]) == count else b""
                else:
                    last = next(itertools.islice(file, count - 1, count), b"")
                if not last.strip():
                    raise ValueError(
                        f"{self.path} must have {count} lines of atoms in frame {self.num_frames}, got less"
                    )
                self.num_frames += 1
        if self.num_frames == 0:
            raise ValueError(f"{self.path} must have a frame, got none")
        self.times = common_values(times)
        self.times = common_values(steps) if self.times is None else self.times
        return first

    def _first(self, keys: dict[bytes, bytes], lines: list[bytes]) -> None:
        """What the first frame says of atoms, columns and periodic directions."""
        self._properties = keys.get(b"properties")
        self._columns = columns_of(self.path, self._properties)
        self.pbc = pbc_of(keys)
        if self._columns.label is None:
            raise ValueError(f"{self.path}: Properties must have species, got {shown(self._properties or b'')}")
        tokens, width = self._tokens(lines, 0)
        self._labels = tokens[self._columns.label :: width]
        names = [label.decode("utf-8", "replace") for label in self._labels]
        numbers = elements_of_labels(names, self._columns.numbers)
        self.atoms = Atoms(names, numbers, self.path, first_line=3, called="label")

    def _tokens(self, lines: list[bytes], frame: int) -> tuple[list[bytes], int]:
        """The words of a frame's lines, one after the other, and how many each line has."""
        tokens = b" ".join(lines).split()
        width = self._columns.width or len(lines[0].split())
        if len(tokens) != width * self.num_atoms or width < self._columns.position + 3:
            expected = max(width, self._columns.position + 3)
            for i, line in enumerate(lines):
                if len(line.split()) != expected:
                    raise ValueError(f"{self._place(frame, i)} must have {expected} columns, got {shown(line)}")
        return tokens, width

    def _place(self, frame: int, atom: int) -> str:
        line = frame * (self.num_atoms + 2) + 3 + atom
        return f"{self.path}: line {line}, atom {atom} of frame {frame},"

    def close(self) -> None:
        """See `Source`."""
        self._cursor.close()

    def read(self, atoms: np.ndarray, numbers: np.ndarray) -> Iterator[Frames]:
        """See `Source`."""
        size = frames_in_chunk(self.num_atoms)
        with self._cursor.before(numbers[0]) as file:
            for start in range(0, len(numbers), size):
                chunk = numbers[start : start + size].tolist()
                x, cells = np.empty((len(chunk), 3, self.num_atoms)), []
                for t, number in enumerate(chunk):
                    if skipped := (number - self._cursor.position) * (self.num_atoms + 2):
                        next(itertools.islice(file, skipped, skipped), None)
                    cells.append(self._frame(file, number, x[t]))
                    self._cursor.position = number + 1
                yield Frames(np.array(chunk), x.transpose(0, 2, 1)[:, atoms], self._cells(cells, chunk))

    def _frame(self, file: IO[bytes], number: int, x: np.ndarray) -> list[float] | None:
        """Read a frame: its positions into x [3, N], and its cell, nine numbers, None without one."""
        file.readline()
        keys = keys_of(file.readline())
        if keys.get(b"properties") != self._properties:
            raise ValueError(f"{self.path} must have the same Properties in every frame, got others in frame {number}")
        tokens, width = self._tokens(list(itertools.islice(file, self.num_atoms)), number)
        if (labels := tokens[self._columns.label :: width]) != self._labels:
            i = next(i for i in range(self.num_atoms) if labels[i] != self._labels[i])
            came = f"{shown(labels[i])} for {shown(self._labels[i])} in frame {number}"
            raise ValueError(
                f"{self.path} must have the same atoms in every frame, got others in frame {number}: {came}"
            )
        try:
            for k in range(3):
                x[k] = list(map(float, tokens[self._columns.position + k :: width]))
        except ValueError as error:
            for i in range(self.num_atoms):
                words = tokens[i * width + self._columns.position :][:3]
                if not all(map(_is_number, words)):
                    raise ValueError(
                        f"{self._place(number, i)} must have three coordinates, got {shown(b' '.join(words))}"
                    ) from error
            raise
        lattice = keys.get(b"lattice")
        return None if lattice is None else self._cell(lattice, number)

    def _cell(self, text: bytes, number: int) -> list[float]:
        if self._last_cell is not None and self._last_cell[0] == text:
            return self._last_cell[1]
        cell = cell_of(self.path, number, text)
        self._last_cell = text, cell
        return cell

    def _cells(self, cells: list, chunk: list[int]) -> np.ndarray | None:
        lacking = [number for number, cell in zip(chunk, cells, strict=True) if cell is None]
        if lacking and len(lacking) < len(cells):
            raise ValueError(f"{self.path} must have a Lattice in every frame or none, got none in frame {lacking[0]}")
        return None if lacking else np.array(cells).reshape(-1, 3, 3)


def count_of(path: pathlib.Path, frame: int, line: bytes) -> int:
    """The number of atoms that the first line of a frame says. Raises ValueError for one that says none."""
    try:
        count = int(line)
    except ValueError:
        count = 0
    if count < 1:
        raise ValueError(f"{path}: frame {frame} must begin with the number of its atoms, got {shown(line)}")
    return count


def keys_of(comment: bytes) -> dict[bytes, bytes]:
    """What a line of comment says, by names in small letters."""
    if b"=" not in comment:
        return {}
    return {name.lower(): quoted or single or bare for name, quoted, single, bare in _KEY.findall(b" " + comment)}


def cell_of(path: pathlib.Path, frame: int, text: bytes) -> list[float]:
    """The nine numbers that `Lattice` says, three vectors. Raises ValueError naming the file and the frame."""
    try:
        cell = list(map(float, text.split()))
    except ValueError:
        cell = []
    if len(cell) != 9:
        raise ValueError(f"{path}: Lattice of frame {frame} must be nine numbers, got {shown(text)}")
    return cell


def pbc_of(keys: dict[bytes, bytes]) -> np.ndarray:
    """[3] bool - the periodic directions that the keys of a comment say; all of a `Lattice` where they say none."""
    words = keys.get(b"pbc", b"").lower().split()
    return np.array([word in _TRUE for word in words] if len(words) == 3 else [b"lattice" in keys] * 3)


def columns_of(path: pathlib.Path, text: bytes | None) -> Columns:
    """The columns that `Properties` says, or those of plain XYZ. Raises ValueError naming the file."""
    if text is None:
        return Columns(0, 1, None)
    words = text.decode("utf-8", "replace").split(":")
    if len(words) % 3 or not all(word.isdigit() for word in words[2::3]):
        raise ValueError(f"{path}: Properties must be name:type:columns triples, got {shown(text)}")
    start: dict[str, tuple[int, int]] = {}
    place = 0
    for name, _, count in zip(words[::3], words[1::3], map(int, words[2::3]), strict=True):
        start[name.lower()] = (place, count)
        place += count
    label = next((name for name in ("species", "element", "z") if name in start), None)
    position = start.get("pos", start.get("position"))
    if position is None or position[1] != 3:
        raise ValueError(f"{path}: Properties must have pos:R:3, got {shown(text)}")
    return Columns(None if label is None else start[label][0], position[0], place, label == "z")


def elements_of_labels(labels: list[str], are_numbers: bool) -> np.ndarray:
    """[N] - the atomic numbers of symbols, or of numbers as texts; 0 for a label that is no element."""
    known = {str(number): number for number in NUMBERS.values()} if are_numbers else NUMBERS
    return np.array([known.get(label, 0) for label in labels])


def _is_number(word: bytes) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True


def _value(text: bytes | None) -> float | None:
    """The number that a text is, with a unit or without; None without one, as for 12:30:05."""
    match = None if text is None else _NUMBER.fullmatch(text)
    return float(match[1]) if match else None
