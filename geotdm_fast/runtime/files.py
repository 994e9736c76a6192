"""Files at the border: written aside and renamed, read without executing anything."""

import contextlib
import json
import os
import pathlib
import tokenize
import zipfile
import zlib
from collections.abc import Collection, Iterable, Iterator
from typing import Any, cast

import numpy as np

from geotdm_fast.runtime.npy_sizes import check_member_size, check_npy_size
from geotdm_fast.runtime.shown import listed, plain

PathLike = str | os.PathLike
# What numpy raises for an archive that is cut short, damaged, or holds pickled objects.
UNREADABLE = (
    ValueError,
    OSError,
    EOFError,
    zipfile.BadZipFile,
    zlib.error,
    tokenize.TokenError,
    SyntaxError,
    NotImplementedError,
    RuntimeError,
)


@contextlib.contextmanager
def atomic_path(path: PathLike) -> Iterator[pathlib.Path]:
    """Yield a temporary path beside `path`; rename it onto `path` when the block succeeds.

    A reader sees the old file or the new one, never half of either: the data are flushed to disk before the rename,
    and an error (a full disk, an interrupt, kill -9) leaves the earlier file as it was. Raises OSError naming `path`.
    """
    path = pathlib.Path(path)
    # The suffix stays last: numpy, PIL and matplotlib choose the format by it.
    aside = path.with_name(f".{path.stem}.{os.getpid()}.tmp{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield aside
        with open(aside, "rb") as file:
            os.fsync(file.fileno())
        os.replace(aside, path)
    except OSError as error:
        kept = "the earlier file is unchanged" if path.exists() else "nothing was written"
        raise OSError(error.errno, f"cannot write {path} ({error.strerror or error}); {kept}") from error
    finally:
        with contextlib.suppress(OSError):
            aside.unlink(missing_ok=True)


def remove_leftovers(folder: pathlib.Path, names: Iterable[str]) -> None:
    """Remove what killed processes left of files of these names (patterns: `epoch_*.safetensors`) in the folder.

    For a folder that nobody else writes to. What cannot be removed stays.
    """
    for name in map(pathlib.PurePath, names):
        for leftover in folder.glob(f".{name.stem}.*.tmp{name.suffix}"):
            with contextlib.suppress(OSError):
                leftover.unlink()


def write_json(path: PathLike, value: object) -> None:
    """Write `value` as indented JSON, atomically."""
    with atomic_path(path) as aside:
        aside.write_text(json.dumps(value, indent=2) + "\n")


def write_npz(path: PathLike, **arrays: np.ndarray) -> None:
    """Write named arrays as a compressed `.npz`, atomically."""
    with atomic_path(path) as aside:
        np.savez_compressed(aside, **cast("dict[str, Any]", arrays))  # whose hints have an option beside the arrays


def read_npz(
    path: PathLike, required: tuple[str, ...] = (), only: Collection[str] | None = None
) -> dict[str, np.ndarray]:
    """Read every array of an `.npz`; pickled objects are refused, never executed.

    required: names that must be there; only: the names to read, all by default; what else is there is not touched.
    Raises FileNotFoundError, or ValueError naming the file, what was expected and what came.
    """
    path = pathlib.Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    try:
        check_npy_size(path)
        archive = np.load(path, allow_pickle=False)
    except UNREADABLE as error:
        raise ValueError(f"{path} must be an .npz archive of plain arrays, got {what_came(path, error)}") from error
    if not isinstance(archive, np.lib.npyio.NpzFile):
        raise ValueError(f"{path} must be an .npz archive, got a single array")
    with archive:
        missing = [name for name in required if name not in archive.files]
        if missing:
            raise ValueError(f"{path} must contain {', '.join(required)}; got {listed(archive.files)}")
        arrays = {}
        for name in archive.files:
            if only is not None and name not in only:
                continue
            try:
                check_member_size(archive, name)
                arrays[name] = archive[name]
            except UNREADABLE as error:
                if "allow_pickle" in str(error):
                    raise ValueError(
                        f"{path}: array '{plain(name)}' must be plain numbers, got pickled objects, which are refused"
                    ) from error
                raise ValueError(f"{path}: array '{plain(name)}' is corrupt ({plain(error)})") from error
            if not isinstance(arrays[name], np.ndarray):
                raise ValueError(f"{path}: array '{plain(name)}' must be an array, got other bytes")
    return arrays


def what_came(path: pathlib.Path, error: Exception) -> str:
    """What a file is that numpy does not read. Numpy takes what it does not know for a pickle, to be read unsafely."""
    if "pickle" not in str(error):
        return f"an unreadable file ({plain(error)})"
    own = path.suffix.lower() in (".npz", ".npy")
    return "a file of another kind" + ("" if own else "; kind: file reads what molecular simulation packages write")
