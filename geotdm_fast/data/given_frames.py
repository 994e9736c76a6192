"""Data sets for forecasts whose future is unknown: the given frames, and room for the others."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from geotdm_fast.conditions import is_number
from geotdm_fast.data.arrays import position_name
from geotdm_fast.data.chemistry.keys import RATIO
from geotdm_fast.data.conditions import with_conditions
from geotdm_fast.data.frames import frame_slice
from geotdm_fast.data.lags import LAG, check_section, cut_at_lag, entries_told, lag_of
from geotdm_fast.data.md17 import CUTOFF, molecule_path
from geotdm_fast.data.molecule_files.reading import OpenFile
from geotdm_fast.data.npy import StoredArray
from geotdm_fast.data.pedestrian import as_people, pedestrian_windows
from geotdm_fast.data.replicas import expanded_paths
from geotdm_fast.data.section_forms import normalise_section
from geotdm_fast.data.section_keys import infer_kind
from geotdm_fast.data.sections import open_datasets
from geotdm_fast.data.trajectory import Trajectory, TrajectoryDataset

_KINDS = ("npz", "file", "md17", "pedestrian")
_PASSED_OVER = (
    *("split", "mode", "split_by", "split_ratio", "stride", "span", "num_windows", "force_length"),
    *("down_sample_every", "cache", "phases", RATIO),
)
_OF_A_MOLECULE = (
    *("with_h", "max_hops", "fully_connected", "bonds", "num_types", "atom_types"),
    *("project", "frames", "every", "conditions", "features", "molecule"),
)
_ONE_LAG = "the given frames must have one lag; --set conditions.lag=... says which"


def given_frames_dataset(
    section: Mapping, given: Sequence[bool] | Tensor, where: str = "data", progress: bool = True
) -> TrajectoryDataset:
    """The last frames of each trajectory as the given ones of a forecast, whose other frames nobody knows.

    Items have T = len(given) frames and `has_target` False. Their given frames are the last G = sum(given) of the file;
    the others repeat the given one before (the first, before all), which means nothing.

    section: of kind npz, file, md17 or pedestrian, see `open_dataset`. split, split_ratio, stride, span, windows and
        ratio are passed over, and so is down_sample_every: frames of the file are as far apart as the model's, or as
        its one `conditions.lag` says. Of pedestrian recordings the people who are there in all of the last G frames are
        taken
    given: [T] - which frames of the window are given, as the model's `cond_mask` says
    Raises what `open_dataset` raises, and ValueError where there are fewer than G frames, and for kind nbody, whose
    future is simulated.
    """
    mask = np.asarray(given, dtype=bool).reshape(-1)
    if mask.all() or not mask.any():
        raise ValueError(f"{where}: given must give some frames and leave some, got {int(mask.sum())} of {len(mask)}")
    asked, section = section, {key: value for key, value in section.items() if key not in _PASSED_OVER}
    kind = section.get("kind", infer_kind(section))
    if kind not in _KINDS:
        raise ValueError(f"{where}: kind must be one of {', '.join(_KINDS)} where the future is unknown, got {kind}")
    if kind == "pedestrian":
        return _people(section, mask, where)
    if kind == "md17":
        section = _molecule(section, where)
    number = int(mask.sum())
    with OpenFile() as file:
        section = _last_frames(section, number, where, file) | {"span": number}
        dataset = open_datasets({where: section}, progress, file)[where]
    if kind == "md17" and (section.get("conditions") or {}).get(LAG) == "frames":
        # Counted in frames of the training's file, of which this one has those at the model's lag.
        dataset = with_conditions(dataset, {LAG: lag_of(kind, asked, "frames", dataset)}, where)
    return as_given_frames(dataset, mask)


def as_given_frames(dataset: TrajectoryDataset, mask: np.ndarray) -> TrajectoryDataset:
    """Trajectories of the given frames alone, or of all T = len(mask), as ones of all frames without a target."""
    return TrajectoryDataset(
        _Given(dataset.items, mask),
        name=dataset.name,
        unit=dataset.unit,
        scale=dataset.scale,
        atomic_numbers=dataset.atomic_numbers,
        frame_time=dataset.frame_time,
        h_is_made=dataset.h_is_made,
    )


def _molecule(section: dict, where: str) -> dict:
    """An md17 section as one of kind npz, with the official bonds."""
    normalised = normalise_section({"kind": "md17", "split": "test"} | section, where)
    path = normalised.get("path")
    if path is None:
        molecules = normalised["molecule_name"]
        several = [molecules] if isinstance(molecules, str) else molecules
        paths = [str(molecule_path(normalised["root"], molecule)) for molecule in several]
        path = paths[0] if isinstance(molecules, str) else paths
    kept = {key: normalised[key] for key in _OF_A_MOLECULE if key in normalised}
    return {"kind": "npz", "path": path, "cutoff": normalised.get("cutoff", CUTOFF)} | kept


def _last_frames(section: dict, number: int, where: str, file: OpenFile) -> dict:
    """The section with `frames` that chooses the last `number` of those that it chooses now."""
    section["path"] = expanded_paths(where, section.get("path"))
    every = _step(section, where, file)
    frames = section.pop("frames", None)
    section.pop("every", None)
    last = [-((number - 1) * every + 1), None, every]
    if section.get("kind") != "npz":
        if frames is not None:
            raise ValueError(f"{where}: frames must not be given for a file whose last {number} frames are given ones")
        return section | {"frames": last}
    paths = section["path"] if isinstance(section["path"], (list, tuple)) else [section["path"]]
    for path in paths:
        if path is None:
            continue  # who opens it says so
        shape = StoredArray(path, position_name(path)).shape
        num_frames = shape[-3] if len(shape) > 2 else 0
        chosen = frame_slice(where, frames, None if every == 1 else every, num_frames)
        if len(chosen) < number:
            raise ValueError(f"{where}: {path} must have the {number} given frames, got {len(chosen)}")
        if frames is not None:
            if len(paths) > 1:
                raise ValueError(
                    f"{where}: frames must not be given for several files whose last frames are given ones"
                )
            chosen = chosen[-number:]
            last = [chosen.start, chosen[-1] + 1, chosen.step]
    return section | {"frames": last}


def _step(section: Mapping, where: str, file: OpenFile) -> int:
    """How many frames of the file go to the next one that is given, by `every` or a lag in the file's times."""
    lag, every = check_section(where, section).get(LAG), section.get("every")
    if isinstance(every, (list, tuple)) or isinstance(lag, (list, tuple)):
        raise ValueError(f"{where}: {_ONE_LAG}")
    if not is_number(lag):
        return every or 1
    steps = {}
    for entry in _files(section):
        try:
            steps[str(entry["path"])] = cut_at_lag(section["kind"], entry, lag, file).get("every") or 1
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from error
    if not steps:
        return every or 1  # who opens the data says that there are none
    (first, step), *others = steps.items()
    for path, other in others:
        if other != step:
            raise ValueError(
                f"{where}: conditions.lag {lag:g} must be as many frames in every file, got {step} in {first} and "
                f"{other} in {path}"
            )
    return step


def _files(section: Mapping) -> list[dict]:
    """The section for each of its files; who opens them says what is wrong with what is none."""
    paths, topologies = section["path"], section.get("topology")
    paths = paths if isinstance(paths, (list, tuple)) else [paths]
    topologies = topologies if isinstance(topologies, (list, tuple)) else [topologies] * len(paths)
    pairs = [pair for pair in zip(paths, topologies, strict=False) if isinstance(pair[0], (str, os.PathLike))]
    return [dict(section) | {"path": path, "topology": topology} for path, topology in pairs]


def _people(section: dict, mask: np.ndarray, where: str) -> TrajectoryDataset:
    number = int(mask.sum())
    if not mask[:number].all():
        raise ValueError(f"{where}: given must be the first frames for pedestrians, got {mask.astype(int).tolist()}")
    default = {} if section.get("recordings") is not None else {"phase": "testing"}
    section = normalise_section(default | section, where)
    lags = entries_told(where, [section], section.pop("conditions", {}))
    if len(lags) > 1:
        raise ValueError(f"{where}: {_ONE_LAG}")
    section, conditions = dict(lags[0][0]), lags[0][1]
    for key in ("kind", "graph", "past_frames", "future_frames"):
        section.pop(key, None)
    scene, scale = section.pop("dataset", None), section.pop("traj_scale", 1.0)
    data, num = pedestrian_windows(scene=scene, **section, num_frames=number, last=True)
    data = data[:, :, _before(mask)]
    people = as_people(where, data, num, number, scale, scene, section.get("recordings"))
    if LAG in conditions:
        conditions |= {LAG: lag_of("pedestrian", section, conditions[LAG], people)}
    return as_given_frames(with_conditions(people, conditions, where), mask)


def _before(mask: np.ndarray) -> np.ndarray:
    """For each frame of the window the given frame, by its number among these, that it holds: [T]."""
    return np.maximum(np.cumsum(mask) - 1, 0)


class _Given(Sequence[Trajectory]):
    """Trajectories of the given frames alone, or of all, as ones of all frames without a target."""

    def __init__(self, items: Sequence[Trajectory], mask: np.ndarray):
        self.items = items
        self.num_frames = len(mask)
        self.frames = torch.from_numpy(_before(mask))

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Trajectory:  # type: ignore[override]  # no slices
        item = self.items[index]
        if item.num_frames == self.num_frames:
            return replace(item, has_target=False)
        cell = item.cell if item.cell is None or item.cell.dim() == 2 else item.cell[self.frames]
        return replace(item, x=item.x[..., self.frames], cell=cell, has_target=False)
