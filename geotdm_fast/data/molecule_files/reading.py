"""An open file of molecules, whose frames are read once for all data sets that are made of it."""

import pathlib
from collections.abc import Iterator
from typing import cast

import numpy as np

from geotdm_fast.data.molecule_files.contents import Atoms, Frames, Source, readable
from geotdm_fast.data.molecule_files.following import Followed
from geotdm_fast.data.molecule_files.opening import check_atoms, open_molecules


class Reading:
    """The atoms and the frames of a file.

    reduced: lengths have no unit of their own
    agreeing: pairs of frames, with the atoms looked at, that were found to be the same
    followed: the stretch that the last data set has followed to its end, if any
    """

    def __init__(self, where: str, atoms: Atoms, source: Source, per_type: bool, reduced: bool):
        self.where, self.atoms, self.source, self.per_type, self.reduced = where, atoms, source, per_type, reduced
        self.agreeing: set[tuple] = set()
        self.followed: Followed | None = None
        self._single: Frames | None = None

    def frame(self, number: int) -> Frames:
        """One frame, of all atoms; it is kept until another one is asked for."""
        if self._single is None or self._single.numbers[0] != number:
            self._single = next(self._chunks(np.arange(self.source.num_atoms), np.array([number])))
        return self._single

    def frames(self, atoms: np.ndarray, numbers: np.ndarray) -> Iterator[Frames]:
        """The frames `numbers`, ascending, of `atoms` alone, in chunks.

        Each is taken from the file once, that of `frame` too. What a reader raises for a broken file, whatever it is,
        is a ValueError that names the file.
        """
        single = self._single
        if single is None or len(numbers) == 0 or single.numbers[0] != numbers[0]:
            yield from self._chunks(atoms, numbers)
            return
        first = Frames(single.numbers, single.x[:, atoms], single.cells)
        for chunk in self._chunks(atoms, numbers[1:], held=1):
            if first is not None and (first.cells is None) != (chunk.cells is None):
                yield from self._chunks(atoms, numbers)  # which says what is wrong with that
                return
            yield chunk if first is None else _joined(first, chunk)
            first = None
        if first is not None:
            yield first

    def _chunks(self, atoms: np.ndarray, numbers: np.ndarray, held: int = 0) -> Iterator[Frames]:
        """held: how many frames before these there are already, for messages."""
        chunks, arrived = self.source.read(atoms, numbers), 0
        while len(numbers):
            try:
                frames = next(chunks, None)
            except Exception as error:  # readers raise anything for a broken file
                raise readable(self.where, error) from error
            if frames is None:
                if arrived < len(numbers):
                    came = f"{held + arrived} of {held + len(numbers)}"
                    raise ValueError(f"{self.where} must have its frames to the end, got {came}")
                return
            arrived += len(frames.numbers)
            yield frames


class OpenFile:
    """The file that was opened last: data sets that are made of one file after the other open and look through it once.

    A context manager, which closes it.
    """

    def __init__(self) -> None:
        self._key: tuple | None = None
        self._reading: Reading | None = None

    def __enter__(self) -> "OpenFile":
        return self

    def __exit__(self, *_: object) -> None:
        if self._reading is not None:
            self._reading.source.close()
        self._key = self._reading = None

    def molecules(
        self,
        where: str,
        path: pathlib.Path,
        topology: pathlib.Path | None,
        reader: str,
        file_format: str | None,
        unwrap: bool,
    ) -> Reading:
        """See `open_molecules`; ValueErrors begin with `where`, and one comes where topology and frames do not fit."""
        key = (path, topology, reader, file_format, unwrap)
        if key != self._key:
            self.__exit__()
            self._reading = _open(where, path, topology, reader, file_format, unwrap)
            self._key = key
        return cast(Reading, self._reading)


def _open(
    where: str, path: pathlib.Path, topology: pathlib.Path | None, reader: str, file_format: str | None, unwrap: bool
) -> Reading:
    try:
        opened = open_molecules(where, path, topology, reader, file_format, unwrap)
        check_atoms(where, opened.atoms, opened.source)
    except ValueError as error:
        raise error if str(error).startswith("file_dataset") else readable(where, error, topology) from error
    return Reading(where, *opened)


def _joined(first: Frames, chunk: Frames) -> Frames:
    cells = None if first.cells is None else np.concatenate([first.cells, chunk.cells])
    return Frames(np.concatenate([first.numbers, chunk.numbers]), np.concatenate([first.x, chunk.x]), cells)
