"""Trajectories of ASE and of the packages whose files it reads."""

import contextlib
import pathlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from geotdm_fast.data.molecule_files.contents import Atoms, Frames, frames_in_chunk
from geotdm_fast.data.molecule_files.elements import SYMBOLS
from geotdm_fast.data.molecule_files.formats import require
from geotdm_fast.data.molecule_files.structures import Structure


class AseFile:
    """A `Source` that knows its `atoms` too; all frames must have the same.

    ase_format: ASE's name of the format, so that a file's content cannot choose another one
    """

    has_positions = None
    times = None

    def __init__(self, path: pathlib.Path, ase_format: str):
        import ase.io

        self.path = path
        self._frames = None
        if ase_format != "traj":  # those are read one frame at a time
            self._frames = [frame for frame in ase.io.iread(str(path), index=":", format=ase_format) if len(frame)]
        with self._open() as frames:
            self.num_frames = len(frames)
            if self.num_frames == 0:
                raise ValueError(f"{path} must have a frame, got none")
            first = frames[0]
        self._numbers = first.numbers
        self.num_atoms = len(first)
        self.pbc = np.asarray(first.pbc, bool)
        names = [SYMBOLS[number] for number in first.numbers.tolist()]
        self.atoms = Atoms(names, first.numbers.astype(np.int64), path, called="label")

    def _open(self) -> contextlib.AbstractContextManager[Any]:
        import ase.io

        if self._frames is None:
            return ase.io.Trajectory(str(self.path))
        return contextlib.nullcontext(self._frames)

    def read(self, atoms: np.ndarray, numbers: np.ndarray) -> Iterator[Frames]:
        """See `Source`."""
        size = frames_in_chunk(self.num_atoms)
        with self._open() as all_frames:
            for start in range(0, len(numbers), size):
                chunk = numbers[start : start + size]
                yield self._chunk([all_frames[int(number)] for number in chunk], chunk, atoms)

    def _chunk(self, frames: list, chunk: np.ndarray, atoms: np.ndarray) -> Frames:
        for number, frame in zip(chunk, frames, strict=True):
            if not np.array_equal(frame.numbers, self._numbers):
                raise ValueError(f"{self.path} must have the same atoms in every frame, got others in frame {number}")
        cells = np.stack([np.asarray(frame.cell) for frame in frames])
        return Frames(chunk, np.stack([frame.positions[atoms] for frame in frames]), cells)

    def close(self) -> None:
        """See `Source`; the file is open while it is read, no longer."""


def ase_structures(where: str, path: pathlib.Path) -> list[Structure]:
    """The structures of a file, also those without atoms. Raises ImportError, ValueError naming the file."""
    require(where, "ase")
    import ase.io
    from ase.io.formats import UnknownFileTypeError, filetype

    try:
        # By the name alone: the content of a file must not choose who reads it.
        ase_format = filetype(str(path), read=False)
        frames = list(ase.io.iread(str(path), index=":", format=ase_format))
    except UnknownFileTypeError as error:
        raise ValueError(f"{where} must be .sdf, .npz or a format of ASE, by its suffix; got {path.suffix}") from error
    except Exception as error:
        why = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
        raise ValueError(f"{where} must be a file that ASE reads, got an unreadable one ({why})") from error
    return [
        Structure(
            np.asarray(frame.numbers, np.int64),
            np.asarray(frame.positions, np.float64),
            np.asarray(frame.cell, np.float64),
            np.asarray(frame.pbc, bool),
        )
        for frame in frames
    ]
