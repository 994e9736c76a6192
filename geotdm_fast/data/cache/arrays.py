"""The arrays of a cache: `.npy` files that are written row by row, checked when opened, and read by ranges of rows."""

import contextlib
import io
import math
import os
import pathlib
from collections.abc import Iterator, Mapping
from types import TracebackType
from typing import NamedTuple

import numpy as np

from geotdm_fast.runtime.sampled_digest import sampled_sha256
from geotdm_fast.runtime.shown import shown


class ArrayWriter:
    """Writes an `.npy` of `shape` row by row, and never more than one block in memory. A context manager.

    Plain writes, not a map: on a full disk a write raises OSError, which names the file, where a map would end the
    process.
    """

    def __init__(self, path: pathlib.Path, shape: tuple[int, ...], dtype: np.dtype):
        self.path, self.shape, self.dtype, self.rows = path, shape, np.dtype(dtype), 0

    def __enter__(self) -> "ArrayWriter":
        self._file = open(self.path, "wb")
        self._file.write(_header_of(self.shape, self.dtype))
        return self

    def write(self, block: np.ndarray) -> None:
        """Some rows more, [b, ...]."""
        with writing(self.path):
            self._file.write(np.ascontiguousarray(block, dtype=self.dtype).data)
        self.rows += len(block)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with writing(self.path):
            try:
                if kind is None:
                    self._file.flush()
                    os.fsync(self._file.fileno())
            finally:
                self._file.close()
        if kind is None and self.rows != self.shape[0]:
            raise ValueError(f"{self.path} must get {self.shape[0]} rows, got {self.rows}")


@contextlib.contextmanager
def writing(path: pathlib.Path) -> Iterator[None]:
    """An OSError within names the file that is written, which writes to an open file do not."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            error.filename = str(path)
        raise


def keep_rows(path: pathlib.Path, rows: np.ndarray, block_bytes: int) -> None:
    """Leave these ascending rows [M] alone in an `.npy` that `ArrayWriter` wrote, in its place: no room is needed.

    block_bytes: moved at a time. Cut short it leaves a file of no use.
    """
    stored = StoredRows(path)
    each = math.prod(stored.shape[1:]) * stored.dtype.itemsize
    step = max(1, block_bytes // max(1, each))
    with writing(path), open(path, "r+b") as file:
        before = np.load(path, mmap_mode="r", allow_pickle=False)
        for first in range(0, len(rows), step):
            # A row never moves onto one that is to come.
            block = before[rows[first : first + step]]
            file.seek(stored.begin + first * each)
            file.write(block.data)
        file.truncate(stored.begin + len(rows) * each)
        file.seek(0)
        file.write(_header_of((len(rows), *stored.shape[1:]), stored.dtype, length=stored.begin))
        file.flush()
        os.fsync(file.fileno())


def write_array(path: pathlib.Path, array: np.ndarray) -> None:
    """Write a small array."""
    with ArrayWriter(path, array.shape, array.dtype) as writer:
        if array.size:
            writer.write(array)
        else:
            writer.rows = len(array)


def describe_array(path: pathlib.Path) -> dict:
    """Shape, dtype, bytes and digest of an `.npy`, as `check_array_file` compares them."""
    header = _header(path)
    return {
        "shape": list(header.shape),
        "dtype": header.dtype.str,
        "bytes": path.stat().st_size,
        "sha256": sampled_sha256(path),
    }


def check_array_file(path: pathlib.Path, expected: Mapping) -> None:
    """ValueError naming the file unless it is what `describe_array` said of it; FileNotFoundError where it is gone.

    The bytes are compared by `sampled_sha256`.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; delete the folder {path.parent}, and it is made anew")
    size = path.stat().st_size
    again = f"; delete the folder {path.parent}, and it is made anew"
    if size != expected["bytes"]:
        raise ValueError(f"{path} must have {expected['bytes']} bytes, as when it was written, got {size}{again}")
    came = describe_array(path)
    for name in ("shape", "dtype", "sha256"):
        if came[name] != expected[name]:
            raise ValueError(
                f"{path} must have the {name} {shown(expected[name])}, as when it was written, got {shown(came[name])}"
                f"{again}"
            )


def _header_of(shape: tuple[int, ...], dtype: np.dtype, length: int | None = None) -> bytes:
    """What an `.npy` begins with; of `length` bytes, by spaces before its last, which ends the line."""
    about = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    made = io.BytesIO()
    np.lib.format.write_array_header_1_0(made, about)
    header = made.getvalue()
    if length is None or length == len(header):
        return header
    text = header[10:-1].rstrip().ljust(length - 11) + b"\n"
    return header[:8] + len(text).to_bytes(2, "little") + text


class _Header(NamedTuple):
    shape: tuple[int, ...]
    dtype: np.dtype
    begin: int


def _header(path: pathlib.Path) -> _Header:
    """Shape and dtype of an `.npy`, and the byte at which its numbers begin. Nothing is unpickled."""
    try:
        with open(path, "rb") as file:
            if np.lib.format.read_magic(file) != (1, 0):
                raise ValueError("its version is not 1.0")
            shape, fortran, dtype = np.lib.format.read_array_header_1_0(file)
            if dtype.hasobject or fortran:
                raise ValueError("it holds pickled objects, or is in the order of Fortran")
            return _Header(shape, dtype, file.tell())
    except (ValueError, SyntaxError, TypeError) as error:
        raise ValueError(
            f"{path} must be an .npy file of plain numbers, got an unreadable one ({error}); delete the folder "
            f"{path.parent}, and it is made anew"
        ) from error


class StoredRows:
    """Rows of an `.npy` that are read when asked for, [rows, ...]; they begin at byte `begin`.

    By reads at a place of the file, not by a map: the pages of a map count to the memory of the process, and Python
    waits as a whole for one that is not there yet, while a read lets other threads go on.
    """

    def __init__(self, path: pathlib.Path):
        self.path = path
        self.shape, self.dtype, self.begin = _header(path)
        self._row = int(np.prod(self.shape[1:])) * self.dtype.itemsize

    def __len__(self) -> int:
        return self.shape[0]

    def open(self) -> int:
        """A descriptor for `read_into`; the caller closes it."""
        return os.open(self.path, os.O_RDONLY)

    def read_into(self, descriptor: int, first: int, out: np.ndarray) -> None:
        """Rows first ... first + len(out) - 1 into the contiguous `out`; ValueError where the file ends before."""
        view, place = out.data.cast("B"), self.begin + first * self._row
        while len(view):
            count = os.preadv(descriptor, [view], place)
            if count == 0:
                raise ValueError(f"{self.path} must have {len(self)} rows, got an end before; it was cut meanwhile")
            view, place = view[count:], place + count

    def rows(self, first: int, number: int) -> np.ndarray:
        """A copy of some rows."""
        out = np.empty((number, *self.shape[1:]), self.dtype)
        descriptor = self.open()
        try:
            self.read_into(descriptor, first, out)
        finally:
            os.close(descriptor)
        return out


def read_small(path: pathlib.Path) -> np.ndarray:
    """An array of the cache as a whole."""
    return np.load(path, allow_pickle=False)


def named_error(error: OSError, path: pathlib.Path) -> OSError:
    """An error of writing a cache, which names its folder."""
    what = error.strerror or error
    return OSError(error.errno, f"cannot write the cache {path} ({what}); cache: names another folder")
