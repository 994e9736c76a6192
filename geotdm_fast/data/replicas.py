"""Several files of one system: which files a section names, and which of them are for train, val and test."""

import glob
import os
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from geotdm_fast.data.lags import LAG
from geotdm_fast.data.splits import SPLIT_RATIO, check_ratio, split_range
from geotdm_fast.runtime.choices import check_choice
from geotdm_fast.runtime.shown import plain

SPLIT_BY = ("time", "replica")
# What stands for the folder of a path in the name of a file beside it.
FOLDER = "{folder}"


def expanded_paths(where: str, path: Any) -> Any:
    """`path` of a section, a text or a list, with every pattern (`runs/*/traj.xtc`) as the files that it finds.

    A pattern becomes a list, in the order of the names; in a list its files take its place. A path that is there is
    no pattern, whatever its characters. Raises FileNotFoundError for a pattern that finds nothing.
    """
    if isinstance(path, (str, os.PathLike)):
        found = _found(where, path)
        return path if found == [path] else found
    if isinstance(path, (list, tuple)) and all(isinstance(one, (str, os.PathLike)) for one in path):
        return [one for pattern in path for one in _found(where, pattern)]
    return path  # whoever opens it says what is wrong


def numbers_of_files(where: str, path: Any, num_entries: int) -> list[int]:
    """For every file of `expanded_paths(where, path)` the number of its entry in the lists of a section.

    num_entries: of the lists; beside lists of names, a pattern has a file for each entry, and one path is every entry's
    """
    if isinstance(path, (list, tuple)):
        files = [expanded_paths(where, [entry]) for entry in path]
        return [number for number, own in enumerate(files) for _ in own]
    found = expanded_paths(where, path)
    num_files = len(found) if isinstance(found, list) else max(num_entries, 1)
    return list(range(num_files)) if num_entries > 1 else [0] * num_files


def _found(where: str, path: str | os.PathLike) -> list:
    text = os.fspath(path)
    if not glob.has_magic(text) or os.path.exists(text):
        return [path]
    found = sorted(glob.glob(text, recursive=True))
    if not found:
        raise FileNotFoundError(f"{where}: path {text}: no file has such a name")
    return found


def check_split_by(where: str, value: object) -> None:
    """ValueError for what is neither time nor replica."""
    check_choice(f"{where}: split_by", value, SPLIT_BY)


def chosen_files(where: str, section: dict, lists: Sequence[str]) -> dict:
    """A section of files with the patterns of its path expanded and, split by replica, the files of its split alone.

    lists: the keys that may be lists beside that of paths, one entry for each file, as the conditions may be
    Raises what `expanded_paths` raises, and ValueError where no file is of the split: of few files some shares have
    none, as of two files that of val.
    """
    section = section | {"path": expanded_paths(where, section["path"])}
    section |= {key: _beside(section["path"], section[key]) for key in lists if key != "path" and key in section}
    if section.pop("split_by", "time") != "replica":
        return section
    paths = section["path"] if isinstance(section["path"], (list, tuple)) else [section["path"]]
    split, ratio = section.pop("split", None), section.pop("split_ratio", SPLIT_RATIO)
    if split is None:
        return section
    chosen = split_range(where, len(paths), split, check_ratio(where, ratio))
    if len(chosen) == 0:
        raise ValueError(
            f"{where}: split '{split}' must hold a file where split_by is replica, got none of {len(paths)} at "
            f"split_ratio {list(ratio)}; give another split_ratio, or split_by: time"
        )
    section["path"] = [paths[i] for i in chosen]

    def of_chosen(key: str, value: object) -> object:
        if not isinstance(value, (list, tuple)):
            return value
        if len(value) != len(paths):
            came = f"{len(paths)} and {len(value)}"
            raise ValueError(f"{where}: path and {key} must be lists of the same length, got {came}")
        return [value[i] for i in chosen]

    section |= {key: of_chosen(key, section[key]) for key in lists if key != "path" and key in section}
    if told := section.get("conditions"):
        # A list of lags is for every file.
        section["conditions"] = {
            name: value if name == LAG else of_chosen(f"conditions.{name}", value) for name, value in told.items()
        }
    return section


def _beside(paths: Any, value: Any) -> Any:
    """A text with `{folder}` as one for every path, with the folder that the path is in; anything else as it is."""
    if not isinstance(value, str) or FOLDER not in value:
        return value
    of = lambda path: value.replace(FOLDER, os.path.dirname(os.fspath(path)) or ".")
    return [of(path) for path in paths] if isinstance(paths, (list, tuple)) else of(paths)


def leave_out_short(where: str, parts: Mapping[int, tuple[int, str, str]], errors: Mapping[int, ValueError]) -> None:
    """Warn of files, or files at one lag, without room for a window; where there are no others, raise for the first.

    parts: of each part of a section, by its number, the entry that it is of, its file and, where there are several, its
        lag; those alike in these are the phases of one, which is left out where none of them has room
    errors: of some
    A lag at which no file has room is told too: nothing is learned of it.
    """
    if len(errors) == len(parts):
        raise next(iter(errors.values()))
    alike: dict[tuple[int, str, str], list[int]] = {}
    for number, part in parts.items():
        alike.setdefault(part, []).append(number)
    short = {part: own for part, own in alike.items() if all(number in errors for number in own)}
    if not short:
        return
    left_out = [f"{path} at {lag}" if lag else path for _, path, lag in short]
    more = f" and {len(short) - 1} more" if len(short) > 1 else ""
    of_what = "parts (a file at one lag)" if any(lag for *_, lag in alike) else "files"
    error = errors[next(iter(short.values()))[0]]
    warnings.warn(
        f"{where}: {len(short)} of {len(alike)} {of_what} have no room for a window and are left out, "
        f"{left_out[0]}{more}: {plain(error)}",
        stacklevel=3,
    )
    kept = {part[-1] for part in alike if part not in short}
    if lost := [lag for lag in dict.fromkeys(lag for *_, lag in alike) if lag not in kept]:
        warnings.warn(
            f"{where}: no file has room for a window at {', '.join(lost)}, of which there are no data then; a shorter "
            "span or longer files make room",
            stacklevel=3,
        )
