"""What a reader says of a file: its atoms, and chunks of frames."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import numpy as np

# A chunk of frames holds so many bytes of float64 positions of all atoms of the file, or one frame.
CHUNK_BYTES = 2_000_000


@dataclass
class Atoms:
    """The atoms of a file.

    names: [N] - what the file calls each atom: a name, a label, a type
    numbers: [N] int64 - the atomic numbers that the file states, 0 where it states none
    bonds: [M, 2] int64, or None where the file has none
    residues: [N] - the names of the residues, or None
    residue_of: [N] int64 - the residue of each atom, or None
    resids: [N] int64 or text - what the file numbers each atom's residue with, as 52 or 52A, or None
    chains: [N] - the name of each atom's chain, or None
    orders: [M] int64, with bonds - 1, 2, 3, 4 for an aromatic bond, 0 where the file does not say; or None
    path: the file that says all this; first_line: its line with the first atom, where each atom has a line
    called: what `names` are: 'name', 'label' or 'type'
    select: the numbers of the atoms that a selection chooses; None where no reader with a selection language is at work
    """

    names: list[str]
    numbers: np.ndarray
    path: object
    bonds: np.ndarray | None = None
    residues: list[str] | None = None
    residue_of: np.ndarray | None = None
    resids: np.ndarray | None = None
    chains: list[str] | None = None
    orders: np.ndarray | None = None
    first_line: int | None = None
    called: str = "name"
    select: Callable[[str], np.ndarray] | None = field(default=None, repr=False)


class Frames(NamedTuple):
    """numbers [T]: which of the file; x [T, N, 3] (angstrom); cells [T, 3, 3] (angstrom) or None."""

    numbers: np.ndarray
    x: np.ndarray
    cells: np.ndarray | None


class Source(Protocol):
    """The frames of a file.

    num_atoms, num_frames: how many there are
    times: [num_frames] float, in the precision of the file, or None
    has_positions: [num_frames] bool, or None where every frame has
    pbc: [3] bool - the periodic directions of the cells
    """

    @property
    def num_atoms(self) -> int: ...
    @property
    def num_frames(self) -> int: ...
    @property
    def times(self) -> np.ndarray | None: ...
    @property
    def has_positions(self) -> np.ndarray | None: ...
    @property
    def pbc(self) -> np.ndarray: ...

    def read(self, atoms: np.ndarray, numbers: np.ndarray) -> Iterator[Frames]:
        """The frames `numbers`, ascending, of `atoms` alone, in chunks; files of text are read on from the frame where
        the last reading ended."""

    def close(self) -> None:
        """Close the file; nothing is read after."""


class NamedSource(Source, Protocol):
    """One that names its atoms too."""

    @property
    def atoms(self) -> Atoms: ...


def frames_in_chunk(num_atoms: int) -> int:
    return max(1, CHUNK_BYTES // (24 * num_atoms))


def common_values(values: list) -> np.ndarray | None:
    """The numbers of all frames as an array; None where a frame has none."""
    return None if not values or any(value is None for value in values) else np.array(values, np.float64)


def readable(where: str, error: Exception, topology: object = None) -> ValueError:
    """What a reader raised, as a ValueError that names the file, or its topology."""
    files = [where.removeprefix("file_dataset: "), *([] if topology is None else [str(topology)])]
    if isinstance(error, ValueError) and any(file in str(error) for file in files):
        return ValueError(f"file_dataset: {str(error).removeprefix('file_dataset: ')}")
    return ValueError(f"{where} must be readable, got {type(error).__name__}: {error}")
