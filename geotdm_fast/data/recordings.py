"""Recordings of people: text files with a line for each person and moment."""

import pathlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from geotdm_fast.data.checks import check_number
from geotdm_fast.data.frames import frame_slice
from geotdm_fast.runtime.files import PathLike

_WHERE = "pedestrian recording"
_NAMES = ("frame", "person", "x", "y")
_HIDDEN = {"", "?", "-", "nan", "na", "null", "none"}
# Words of a header, lower case, for frame, person, x and y.
_WORDS = (
    ("frame", "frame_id", "frameid", "frame_number", "t", "time", "timestamp"),
    ("person", "person_id", "ped", "ped_id", "pedestrian", "pedestrian_id", "id", "agent", "agent_id", "track_id"),
    ("x", "pos_x", "px", "x_m"),
    ("y", "pos_y", "py", "y_m"),
)
# ETH's own annotation (obsmat.txt): frame, person, x, height, y, and three velocities.
_ETH_COLUMNS = (0, 1, 2, 4)
_FARTHEST = 1e9  # steps; no recording is so long
_OFF = 0.05  # share of a step by which a frame may miss its place: times in seconds are rounded


class Recording(NamedTuple):
    """frame: [R] int64, counted in steps; person: [R] float64; place: [R, 2] float64; in the file's order"""

    frame: np.ndarray
    person: np.ndarray
    place: np.ndarray


def read_recording(
    path: PathLike,
    *,
    frame_step: float | None = None,
    frames: Sequence[int | None] | str | None = None,
    every: int | None = None,
    columns: Sequence[int] | None = None,
) -> Recording:
    """The people of a recording: lines of frame, person, x, y, separated by blanks, tabs, commas or semicolons.

    A header, a byte order mark, empty lines and comments (#) are passed over. Further columns are not read. A person
    whose x or y is empty, `?` or NaN is hidden then.
    frame_step: how far the numbers of successive frames are apart, in the file's unit (frames, seconds); by default
        what most of a person's successive lines are apart
    frames, every: which frames there are at all, counted in steps from the first, see `frame_slice`
    columns: which hold frame, person, x and y, from 0; by default those that a header names, in ETH's obsmat.txt 0, 1,
        2 and 4, else the first four
    Raises FileNotFoundError, ValueError/TypeError naming the file, the line and the value.
    """
    path = pathlib.Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{_WHERE}: {path}: no such recording")
    frame, person, place, lines = _numbers(path, columns)
    step = _usual_step(frame, person) if frame_step is None else check_number(_WHERE, "frame_step", frame_step)
    count = (frame - frame.min()) / step
    index = np.round(count)
    off = (np.abs(count - index) > _OFF) | (count > _FARTHEST)
    if off.any():
        row = int(np.argmax(off))
        raise ValueError(
            f"{_WHERE}: {path}, line {lines[row]}: frames must be whole steps of {step:g} apart, got frame "
            f"{frame[row]:g}, the first is {frame.min():g}; give frame_step"
        )
    index = index.astype(np.int64)
    _check_once(path, index, person, frame, lines)
    visible = np.isfinite(place).all(axis=1)
    if frames is not None or every is not None:
        chosen = frame_slice(f"{_WHERE}: {path}", frames, every, int(index.max()) + 1)
        visible &= (index >= chosen.start) & (index < chosen.stop) & ((index - chosen.start) % chosen.step == 0)
        index = (index - chosen.start) // chosen.step
    return Recording(index[visible], person[visible], place[visible])


def _numbers(path: pathlib.Path, columns: Sequence[int] | None) -> tuple[np.ndarray, ...]:
    """frame [R], person [R], place [R, 2] (NaN where hidden), and the number of each line [R]."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{_WHERE}: {path} must be text, got {error}") from error
    kept = [(number, line.strip()) for number, line in enumerate(text.splitlines(), start=1)]
    kept = [(number, line) for number, line in kept if line and not line.startswith("#")]
    if not kept:
        raise ValueError(f"{_WHERE}: {path} must hold lines of frame, person, x, y, got none")
    separator = next((mark for mark in (";", ",") if mark in kept[0][1]), None)
    rows = [(number, _cells(line, separator)) for number, line in kept]
    header = None if _is_number(rows[0][1][0]) else rows.pop(0)[1]
    chosen = _columns(path, header, rows, columns)
    values, width = [], max(chosen) + 1
    for number, cells in rows:
        if len(cells) < width:
            raise ValueError(f"{_WHERE}: {path}, line {number}: must hold frame, person, x, y, got {len(cells)} values")
        values.append([_value(path, number, name, cells[c]) for name, c in zip(_NAMES, chosen, strict=True)])
    table = np.array(values, dtype=np.float64).reshape(-1, 4)
    if len(table) == 0:
        raise ValueError(f"{_WHERE}: {path} must hold lines of frame, person, x, y, got a header alone")
    return table[:, 0], table[:, 1], table[:, 2:], np.array([number for number, _ in rows])


def _cells(line: str, separator: str | None) -> list[str]:
    if separator is None:
        return line.split()
    cells = [cell.strip().strip('"') for cell in line.split(separator)]
    # Where a semicolon separates, a comma may be a decimal point.
    return [cell.replace(",", ".") for cell in cells] if separator == ";" else cells


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _columns(
    path: pathlib.Path, header: list[str] | None, rows: list[tuple[int, list[str]]], columns: Sequence[int] | None
) -> tuple[int, ...]:
    """The places of frame, person, x and y in a line."""
    if columns is not None:
        whole = all(isinstance(c, int) and not isinstance(c, bool) and c >= 0 for c in columns)
        if len(columns) != 4 or not whole or len(set(columns)) < 4:
            raise ValueError(f"{_WHERE}: columns must be four different numbers from 0, got {columns!r}")
        return tuple(columns)
    if header is not None:
        names = [cell.lower() for cell in header]
        found = [next((names.index(word) for word in words if word in names), None) for words in _WORDS]
        places = [place for place in found if place is not None]
        if len(places) == len(found):
            return tuple(places)
        if len(header) > 4:
            raise ValueError(
                f"{_WHERE}: {path}, line 1: the header must name frame, person, x and y, got {', '.join(header)}; give "
                "columns: [frame, person, x, y] by their numbers from 0"
            )
    if header is None and rows and all(len(cells) == 8 for _, cells in rows):
        return _ETH_COLUMNS
    return (0, 1, 2, 3)


def _value(path: pathlib.Path, number: int, name: str, cell: str) -> float:
    if name in ("x", "y") and cell.lower() in _HIDDEN:
        return np.nan
    try:
        value = float(cell)
    except ValueError:
        value = np.inf
    if not np.isfinite(value):
        hidden = "a number, or ? for a hidden person" if name in ("x", "y") else "a number"
        raise ValueError(f"{_WHERE}: {path}, line {number}: {name} must be {hidden}, got '{cell}'")
    return value


def _usual_step(frame: np.ndarray, person: np.ndarray) -> float:
    """What most of a person's successive frames are apart; 1 where everybody is there once."""
    order = np.lexsort((frame, person))
    steps = np.diff(frame[order])[np.diff(person[order]) == 0]
    steps, counts = np.unique(np.round(steps[steps > 0], 6), return_counts=True)
    return float(steps[counts.argmax()]) if len(steps) else 1.0


def _check_once(
    path: pathlib.Path, index: np.ndarray, person: np.ndarray, frame: np.ndarray, lines: np.ndarray
) -> None:
    order = np.lexsort((lines, index, person))
    twice = np.flatnonzero((np.diff(person[order]) == 0) & (np.diff(index[order]) == 0))
    if len(twice):
        row = order[twice + 1].min()
        raise ValueError(
            f"{_WHERE}: {path}, line {lines[row]}: a person must be once in a frame, got person {person[row]:g} twice "
            f"in frame {frame[row]:g}"
        )
