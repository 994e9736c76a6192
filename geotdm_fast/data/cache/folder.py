"""The folder of a cache: found by what it is made of, else made aside by one process and renamed."""

import contextlib
import errno
import json
import os
import pathlib
import shutil
import time
import warnings
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

from geotdm_fast.data.cache.arrays import check_array_file, describe_array, named_error, read_small, writing
from geotdm_fast.data.cache.source import key_of
from geotdm_fast.runtime.files import PathLike
from geotdm_fast.runtime.folder_lock import locked
from geotdm_fast.runtime.shown import plain

ABOUT = "about.json"
POSITIONS = "positions"
REQUIRED = (POSITIONS, "ends", "origin", "first")
_SECONDS_BETWEEN_LOOKS = 0.5
# A lock's folder may vanish between making and locking it, when another process has just finished; more than so often
# in a row it is something else.
_MOST_VANISHED = 100


class Cached(NamedTuple):
    """A cache that was found or made. folder: its arrays are files in it; about: what `about.json` says."""

    folder: pathlib.Path
    about: dict

    def array(self, name: str) -> np.ndarray | None:
        """An array as a whole; None where the cache has none of this name."""
        return read_small(self.folder / f"{name}.npy") if name in self.about["arrays"] else None

    @property
    def positions(self) -> pathlib.Path:
        return self.folder / f"{POSITIONS}.npy"


class FrameCache:
    """The caches of one source in the folder `root`: `<key>-<span>/` with `about.json` and arrays as `.npy`.

    source: of `describe_source`. The key is its digest. A cache holds the stretches of frames that have room for a
    window of `span` frames, and serves every span for which these are the same stretches.
    """

    def __init__(self, root: PathLike, source: Mapping):
        self.root, self.source = pathlib.Path(root), source
        self.key = key_of(source)
        if self.root.exists() and not self.root.is_dir():
            raise ValueError(f"cache: {self.root} must be a folder, got a file")

    def get(self, where: str, span: int, make: Callable[[pathlib.Path], dict], say: Callable[[str], None]) -> Cached:
        """The cache for windows of `span` frames, made by `make` where it is not there.

        where: what the warnings of the making begin with, the source may have another name since
        make: writes arrays into a folder and returns what `about.json` is to say beside them, `shortest` and
            `left_out` among it, frames of the shortest stretch that is in the cache, and of the longest that is
            not
        say: told in a line that another process is making the same cache, which is waited for
        One process makes it, others wait. What is not whole is never found: it is made aside and renamed. Warnings of
        the making are raised again each time the cache is found.
        Raises OSError naming the folder where it cannot be written, ValueError or FileNotFoundError naming the file
        where a cache is damaged, and what `make` raises of other files as it is.
        """
        found = self._find(span)
        told, vanished = False, 0
        aside = self.root / f".{self.key}-{span}"
        while found is None:
            try:
                with contextlib.ExitStack() as held:
                    refused = _refused(held, aside)
                    if refused is None:
                        # The process that held the lock before may have made it.
                        found = self._find(span) or self._made(span, make, aside / "building")
            finally:
                with contextlib.suppress(OSError):
                    aside.rmdir()  # it stays where another process has its lock in it
            if refused is not None:
                vanished += refused.errno == errno.ENOENT
                if vanished > _MOST_VANISHED:
                    raise refused
                if refused.errno == errno.EAGAIN and not told:
                    say(f"another process is making the cache {self.root / self.key}-{span}; waiting for it")
                    told = True
                time.sleep(_SECONDS_BETWEEN_LOOKS)
                found = self._find(span)
        for text in found.about["warnings"]:
            warnings.warn(text.replace(found.about["where"], where, 1), stacklevel=4)
        return found

    def _find(self, span: int) -> Cached | None:
        for folder in sorted(self.root.glob(f"{self.key}-*")):
            about = read_about(folder)
            if about["key"] != self.key:
                raise ValueError(f"{folder / ABOUT} must be of the cache {self.key}, got {plain(about['key'])}")
            if about["left_out"] < span <= about["shortest"]:
                check_arrays(folder, about)
                return Cached(folder, about)
        return None

    def _made(self, span: int, make: Callable[[pathlib.Path], dict], building: pathlib.Path) -> Cached:
        shutil.rmtree(building, ignore_errors=True)  # of a process that was killed
        try:
            building.mkdir()
            with warnings.catch_warnings(record=True) as said:
                warnings.simplefilter("always")
                about = make(building)
            for one in said:
                if not issubclass(one.category, UserWarning):  # of a library: told now, and no more
                    warnings.warn_explicit(one.message, one.category, one.filename, one.lineno)
            texts = dict.fromkeys(str(one.message) for one in said if issubclass(one.category, UserWarning))
            arrays = {file.stem: describe_array(file) for file in sorted(building.glob("*.npy"))}
            own = {"key": self.key, "source": self.source, "arrays": arrays, "warnings": list(texts)}
            with writing(building / ABOUT), open(building / ABOUT, "w") as file:
                file.write(json.dumps(about | own, indent=1) + "\n")
                file.flush()
                os.fsync(file.fileno())
            os.rename(building, self.root / f"{self.key}-{span}")
        except OSError as error:
            if not _is_within(building.parent, error.filename):
                raise
            raise named_error(error, self.root / f"{self.key}-{span}") from error
        finally:
            shutil.rmtree(building, ignore_errors=True)
        found = self._find(span)
        if found is None:
            raise ValueError(f"cache: {self.root}: the cache {self.key}-{span} must be found once made, got nothing")
        return found


def _refused(held: contextlib.ExitStack, aside: pathlib.Path) -> OSError | None:
    """Hold the lock of a making; else the error, where another process has it or has just taken its folder away."""
    try:
        held.enter_context(locked(aside, "making the cache in"))
    except OSError as error:
        if error.errno not in (errno.EAGAIN, errno.ENOENT):
            raise
        return error
    return None


def _is_within(aside: pathlib.Path, file: object) -> bool:
    """Whether what an error names is a file that is being made, not one that it is made of."""
    return isinstance(file, (str, os.PathLike)) and aside.resolve() in pathlib.Path(file).resolve().parents


def caches_in(root: pathlib.Path) -> list[pathlib.Path]:
    """The folders in `root` that hold a cache, or say so."""
    return sorted(file.parent for file in root.glob(f"*/{ABOUT}"))


def check_arrays(folder: pathlib.Path, about: Mapping) -> None:
    """Raise ValueError or FileNotFoundError naming the first array that is not as `about.json` says."""
    for name, expected in about["arrays"].items():
        check_array_file(folder / f"{name}.npy", expected)


def check_room(folder: pathlib.Path, needed: int) -> None:
    """OSError naming both numbers where the disk of `folder` has no room for `needed` bytes."""
    free = shutil.disk_usage(folder).free
    if needed > free:
        text = f"it needs {needed / 2**30:.3g} GiB, and {free / 2**30:.3g} GiB are free"
        raise OSError(errno.ENOSPC, f"No space left on device: {text}", str(folder))


# What `about.json` must have, and of what kind.
_FIELDS: dict[str, type | tuple[type, ...]] = {
    "key": str, "where": str, "source": dict, "arrays": dict, "warnings": list, "shortest": int,
    "left_out": int, "unit": str, "frame_time": (int, float, type(None)), "names": (list, type(None)),
    "pbc": (list, type(None)), "given": bool,
}  # fmt: skip
_OF_AN_ARRAY: dict[str, type] = {"shape": list, "dtype": str, "bytes": int, "sha256": str}


def read_about(folder: pathlib.Path) -> dict:
    """`about.json` of a cache. ValueError or FileNotFoundError naming it for one that no cache has."""
    path = folder / ABOUT
    again = f"; delete the folder {folder}, and it is made anew"
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file{again}")
    try:
        about = json.loads(path.read_text())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} must be JSON, got {plain(error)}{again}") from error
    wrong = _wrong_field(about)
    if wrong is not None:
        raise ValueError(f"{path} must be what a cache says of itself, got another {wrong}{again}")
    return about


def _wrong_field(about: object) -> str | None:
    """The name of the first field that no cache has so; None where all are right."""
    if not isinstance(about, dict):
        return "value than an object"
    for name, kind in _FIELDS.items():
        if name not in about or not isinstance(about[name], kind):
            return f"field '{name}'"
    if not all(isinstance(text, str) for text in [*about["warnings"], *(about["names"] or [])]):
        return "field 'warnings' or 'names'"
    arrays = about["arrays"]
    for name, array in arrays.items():
        right = isinstance(array, dict) and all(isinstance(array.get(key), kind) for key, kind in _OF_AN_ARRAY.items())
        if not right or not name.isidentifier():  # a name is that of a file in this folder
            return f"array '{plain(name)}'"
    if any(name not in arrays for name in REQUIRED):
        return "choice of arrays"
    if ("box" in arrays) != (about["pbc"] is not None):
        return "field 'pbc'"
    frames, atoms = [*arrays[POSITIONS]["shape"], None, None][:2]
    shapes = {
        POSITIONS: [[frames, atoms, 3]], "first": [[atoms, 3]], "elements": [[atoms]], "origin": [[3]],
        "box": [[frames, 3, 3], [1, 3, 3]],
    }  # fmt: skip
    for name, expected in shapes.items():
        if name in arrays and arrays[name]["shape"] not in expected:
            return f"shape of the array '{name}'"
    return None
