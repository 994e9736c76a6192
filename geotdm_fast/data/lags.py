"""The key `conditions` of a data section: constants, one number for each file, and lags, at which windows are cut."""

import pathlib
from collections.abc import Mapping
from typing import Any

from geotdm_fast.conditions import check_name, is_number
from geotdm_fast.data.frames import frame_slice
from geotdm_fast.data.molecule_files.reading import OpenFile
from geotdm_fast.data.trajectory import TrajectoryDataset
from geotdm_fast.runtime.shown import shown

LAG = "lag"
# The lag is that of the frames that are read: their distance in the file, or in time.
OF_FRAMES = ("frames", "time")
# How far a lag may be from a whole number of frames, of a frame: times of files are rounded.
_UNEVEN = 0.01


def check_section(where: str, section: Mapping) -> dict[str, Any]:
    """The key `conditions` of a section, checked, by name in alphabetical order.

    Raises ValueError naming the condition, what was expected and what came; and for a list of `every` that is none.
    """
    conditions = section.get("conditions") or {}
    if not isinstance(conditions, Mapping):
        raise ValueError(f"{where}: conditions must be {{name: number}}, got {shown(conditions)}")
    for name, value in conditions.items():
        check_name(f"{where}: conditions", name)
        if name == LAG and isinstance(value, str) and value in OF_FRAMES:
            continue
        numbers = value if isinstance(value, (list, tuple)) else [value]
        if not numbers or not all(map(is_number, numbers)):
            expected = "a finite number or a list of them" + (", frames or time" if name == LAG else "")
            raise ValueError(f"{where}: conditions.{name} must be {expected}, got {shown(value)}")
        if name == LAG and min(numbers) <= 0:
            raise ValueError(f"{where}: conditions.lag must be above 0, got {shown(value)}")
        if name == LAG and len(set(numbers)) < len(numbers):
            raise ValueError(f"{where}: conditions.lag must be different numbers, got {shown(value)}")
    every = section.get("every")
    if isinstance(every, (list, tuple)):
        whole = len(every) > 0 and all(type(n) is int and n > 0 for n in every)
        if not whole or len(set(every)) < len(every):
            raise ValueError(f"{where}: every must be different whole numbers of at least 1, got {shown(every)}")
        if conditions.get(LAG, "frames") not in OF_FRAMES:
            raise ValueError(
                f"{where}: every must not be a list where conditions.lag says how far apart frames are, got "
                f"{shown(every)}"
            )
    return dict(sorted(conditions.items()))


def entries_told(where: str, entries: list[dict], conditions: Mapping[str, Any]) -> list[tuple[dict, dict]]:
    """Every entry (file) of a section at every lag: the entry, and its conditions: name to number, `frames` or `time`.

    A list of lags, or of `every`, is for all entries; a list of another condition has a number for each entry.
    """
    told = []
    for number, entry in enumerate(entries):
        own: dict[str, Any] = {}
        for name, value in conditions.items():
            if name != LAG and isinstance(value, (list, tuple)):
                if len(value) != len(entries):
                    raise ValueError(
                        f"{where}: conditions.{name} must be a number, or one for each of the {len(entries)} files, "
                        f"got {shown(value)}"
                    )
                value = value[number]
            own[name] = value
        lags, every = own.get(LAG), entry.get("every")
        if isinstance(lags, (list, tuple)):
            several = len(lags) > 1
            told += [(entry, own | {LAG: _Cut(lag) if several else lag}) for lag in lags]
        elif isinstance(every, (list, tuple)):
            told += [(entry | {"every": n}, own) for n in every]
        else:
            told.append((entry, own))
    return told


class _Cut(float):
    """A lag of several, which must be that of the frames."""


def cut_at_lag(kind: str, entry: dict, lag: object, file: OpenFile) -> dict:
    """An entry whose frames are as far apart as `lag`, a number, says; where the data have no times, as it is.

    Raises ValueError for a lag that is no whole number of the file's frames, for frames that are chosen at another one,
    and for one of several lags where there are no times.
    """
    if not is_number(lag):
        return entry
    number, spacing = float(lag), frame_spacing(kind, entry, file)  # type: ignore[arg-type]  # a number
    if spacing is None:
        if isinstance(lag, _Cut):
            raise ValueError("several lags need data with times; give every: [N, ...] and conditions: {lag: frames}")
        return entry
    step = frame_slice(kind, entry.get("frames"), entry.get("every"), None).step
    is_chosen = entry.get("every") is not None or step > 1
    frames = number / spacing
    if is_chosen and abs(frames - step) > _UNEVEN * step:
        raise ValueError(
            f"conditions.lag must be {spacing * step:g}, the time between the frames that every or frames "
            f"choose, got {number:g}; leave every out, and windows are cut at the lag"
        )
    if is_chosen:
        return entry
    if frames < 1 - _UNEVEN or abs(frames - round(frames)) > _UNEVEN:
        raise ValueError(
            f"conditions.lag must be a whole number of the file's frames, which are {spacing:g} apart, got {number:g}"
        )
    return entry | ({"every": round(frames)} if round(frames) > 1 else {})


def lag_of(kind: str, entry: Mapping, lag: object, dataset: TrajectoryDataset) -> float:
    """The lag as a number: `frames` is the distance of two frames in the file's frames, `time` in its times."""
    if is_number(lag):
        return float(lag)  # type: ignore[arg-type]  # a number
    step = frame_slice(kind, entry.get("frames"), entry.get("every"), None).step
    if kind == "md17" and entry.get("every") is None and step == 1:
        from geotdm_fast.data.md17 import EVERY

        step = entry.get("down_sample_every") or EVERY
    if lag == "frames":
        return float(step)
    time = dataset.frame_time
    if kind == "nbody":
        time = _simulated() * step
    if time is None:
        raise ValueError("conditions.lag: time needs data with times; lag: frames counts frames")
    return time


def frame_spacing(kind: str, entry: Mapping, file: OpenFile) -> float | None:
    """The time between two frames of what an entry reads, before any are left out; None where it is not known."""
    if kind == "nbody":
        return _simulated()
    if kind == "npz":
        from geotdm_fast.data.arrays import npz_times
        from geotdm_fast.data.times import frame_time

        return frame_time(npz_times(entry["path"]))
    if kind == "file":
        from geotdm_fast.data.checks import check_auto
        from geotdm_fast.data.times import frame_time

        path, topology = pathlib.Path(entry["path"]), entry.get("topology")
        if not path.exists():
            return None  # whoever opens it says so
        where = f"file_dataset: {path}"
        topology = None if topology is None else pathlib.Path(topology)
        follow = check_auto(where, "unwrap", entry.get("unwrap", "auto"))
        reading = file.molecules(where, path, topology, entry.get("reader", "auto"), entry.get("format"), follow)
        return frame_time(reading.source.times)
    return None


def _simulated() -> float:
    from geotdm_fast.data.nbody import FRAME_TIME

    return FRAME_TIME
