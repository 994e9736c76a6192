"""Trajectories of ASE and of the packages whose files it reads."""

import pathlib
from collections.abc import Iterator

import numpy as np

from geotdm_fast.data.molecule_files.contents import Atoms, Frames, frames_in_chunk
from geotdm_fast.data.molecule_files.elements import SYMBOLS


class AseFile:
    """A `Source` that knows its `atoms` too; all frames must have the same.

    ase_format: ASE's name of the format, so that a file's content cannot choose another one
    """

    has_positions = None
    times = None

    def __init__(self, path: pathlib.Path, ase_format: str):
        import ase.io

        self.path = path
        if ase_format == "traj":
            self._frames = ase.io.Trajectory(str(path))  # one frame at a time
        else:
            self._frames = [frame for frame in ase.io.iread(str(path), index=":", format=ase_format) if len(frame)]
        self.num_frames = len(self._frames)
        if self.num_frames == 0:
            raise ValueError(f"{path} must have a frame, got none")
        first = self._frames[0]
        self._numbers = first.numbers
        self.num_atoms = len(first)
        self.pbc = np.asarray(first.pbc, bool)
        names = [SYMBOLS[number] for number in first.numbers.tolist()]
        self.atoms = Atoms(names, first.numbers.astype(np.int64), path, called="label")

    def read(self, atoms: np.ndarray, numbers: np.ndarray) -> Iterator[Frames]:
        """See `Source`."""
        size = frames_in_chunk(self.num_atoms)
        for start in range(0, len(numbers), size):
            chunk = numbers[start : start + size]
            frames = [self._frames[int(number)] for number in chunk]
            for number, frame in zip(chunk, frames, strict=True):
                if not np.array_equal(frame.numbers, self._numbers):
                    raise ValueError(
                        f"{self.path} must have the same atoms in every frame, got others in frame {number}"
                    )
            cells = np.stack([np.asarray(frame.cell) for frame in frames])
            yield Frames(chunk, np.stack([frame.positions[atoms] for frame in frames]), cells)
