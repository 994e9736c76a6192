"""Single arrays on disk, read without executing anything."""

import contextlib
import copy
import math
import pathlib
import zipfile
from collections.abc import Iterator
from typing import IO

import numpy as np

from geotdm_fast.runtime.files import UNREADABLE, PathLike, what_came
from geotdm_fast.runtime.npy_sizes import check_npy_size

_BLOCK = 2**17  # numbers read at once: memory follows what is kept, and a block fits into a cache


def read_npy(path: PathLike) -> np.ndarray:
    """The array of an `.npy` file; pickled objects are refused. Raises FileNotFoundError, or ValueError naming it."""
    path = pathlib.Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    try:
        check_npy_size(path)
        array = np.load(path, allow_pickle=False)
    except UNREADABLE as error:
        raise ValueError(f"{path} must be an .npy file of plain numbers, got {what_came(path, error)}") from error
    if not isinstance(array, np.ndarray):
        raise ValueError(f"{path} must be an .npy file of one array, got an archive")
    return array


def rows_at_once(shape: tuple[int, ...]) -> int:
    """How many rows of an array of this shape make a block: about a hundred thousand numbers."""
    return max(1, _BLOCK // max(1, math.prod(shape[1:])))


class StoredArray:
    """An array in an `.npz`, whose rows are read when asked for.

    shape, dtype: of the array, from its header; nothing else is read before `blocks`
    Raises FileNotFoundError, ValueError naming the file and the array for a damaged file.
    """

    def __init__(self, path: PathLike, name: str):
        self.path, self.name = pathlib.Path(path), name
        self._nodes: np.ndarray | None = None
        with self._open() as (_, shape, fortran_order, dtype):
            self.shape, self.dtype, self._fortran_order = shape, dtype, fortran_order
        # Before anything is allocated by what a damaged header says.
        with zipfile.ZipFile(self.path) as archive:
            stored = archive.getinfo(f"{name}.npy").file_size
        if not dtype.hasobject and stored < self.size * dtype.itemsize:
            raise ValueError(f"{path}: array '{name}' is corrupt ({stored} bytes for {list(shape)} {dtype})")

    def plain(self, hint: str = "") -> "StoredArray":
        """The array itself; ValueError for pickled objects, with a hint at what to do about them."""
        if self.dtype.hasobject:
            came = f"pickled objects, which are refused{hint}"
            raise ValueError(f"{self.path}: array '{self.name}' must be plain numbers, got {came}")
        return self

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    def first_row(self) -> np.ndarray:
        """The first row, a copy."""
        return next(self.blocks())[1][0].copy()

    def of_nodes(self, nodes: np.ndarray) -> "StoredArray":
        """Positions [..., N, D] as those of some nodes alone, which are chosen as blocks are read."""
        part = copy.copy(self)
        part.shape, part._nodes = (*self.shape[:-2], len(nodes), self.shape[-1]), nodes
        return part

    def blocks(self) -> Iterator[tuple[int, np.ndarray]]:
        """The number of its first row, and some rows: one block after the other, to the end."""
        for first, block in self._whole_blocks():
            yield first, block if self._nodes is None else block[..., self._nodes, :]

    def _whole_blocks(self) -> Iterator[tuple[int, np.ndarray]]:
        with self._open() as (file, shape, _, dtype):
            if self._fortran_order:
                whole = np.frombuffer(self._read(file, math.prod(shape)), dtype).reshape(shape, order="F")
                yield 0, whole
                return
            step, row = rows_at_once(shape), math.prod(shape[1:])
            for first in range(0, shape[0], step):
                number = min(step, shape[0] - first)
                yield first, np.frombuffer(self._read(file, number * row), dtype).reshape(number, *shape[1:])
            file.read(1)  # at the end the archive compares its checksum

    def _read(self, file: IO[bytes], count: int) -> bytes:
        data = file.read(count * self.dtype.itemsize)
        if len(data) < count * self.dtype.itemsize:
            raise EOFError(f"{count * self.dtype.itemsize - len(data)} bytes are missing")
        return data

    @contextlib.contextmanager
    def _open(self) -> Iterator[tuple]:
        """The file behind the array's header, with shape, fortran_order and dtype."""
        try:
            with zipfile.ZipFile(self.path) as archive, archive.open(f"{self.name}.npy") as file:
                version = np.lib.format.read_magic(file)
                read = {(1, 0): np.lib.format.read_array_header_1_0}.get(version, np.lib.format.read_array_header_2_0)
                yield (file, *read(file))
        except GeneratorExit:
            raise
        except UNREADABLE as error:
            raise ValueError(f"{self.path}: array '{self.name}' is corrupt ({error})") from error
