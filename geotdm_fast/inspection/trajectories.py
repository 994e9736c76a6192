"""What a training would read of a file, and the configuration of that."""

import warnings
from collections.abc import Mapping, Sequence
from typing import cast

import torch
from torch import Tensor

from geotdm_fast.data.cache import StoredWindows
from geotdm_fast.data.molecule_files.elements import formula
from geotdm_fast.data.molecule_files.reading import OpenFile
from geotdm_fast.data.sections import open_datasets
from geotdm_fast.data.trajectory import TrajectoryDataset
from geotdm_fast.data.windows import Joined, Windows
from geotdm_fast.inspection.findings import Findings
from geotdm_fast.inspection.motion import steps_in_words

# Above all atomic numbers: which features an element has is no matter here.
_EVERY_TYPE, _TYPES_BY_DEFAULT = 119, 10
_SPAN, _MOST_WINDOWS = 30, 5000
# Of a window of pedestrians the first frames are given.
_PAST, _PEDESTRIAN_FRAMES = 8, 20


def inspect_trajectories(section: Mapping, found: Findings, span: int | None, file: OpenFile) -> None:
    """Open the data of a section (kinds npz, file and pedestrian), and note what is in them.

    section: as in a configuration, without split, span and stride
    span: 1 for one trajectory, whose frames are told one by one; None for many, which are taken whole
    file: what opens a file of molecules, or has opened it
    Raises what opening the data raises: its message says what is missing.
    """
    dataset = _opened(section, span, found, file)
    first, numbers = dataset[0], dataset.numbers_of(0)
    if section["kind"] == "pedestrian":
        _pedestrians(section, dataset, found)
        return
    parts = _blocks(dataset.items)
    frames = sorted({x.shape[-1] for x in parts})
    trajectories = sum(x.shape[0] for x in parts)
    is_one = trajectories == 1
    noun = "node" if numbers is None else "atom"
    found.add("read", f"{_between(frames)} frames" + ("" if is_one else f" in each of {trajectories} trajectories"))
    found.add(f"{noun}s", f"{_between(sorted({x.shape[1] for x in parts}))} in {first.x.shape[1]} dimensions")
    if numbers is not None:
        found.add("formula", formula(numbers.tolist()))
    found.add("unit", dataset.unit or "not said")
    found.add("extent", _extent(parts))
    found.add("steps", steps_in_words(parts, noun))
    found.add("graph", _graph(first, numbers is not None))
    _suggest(section, found, first, numbers, frames[0], None if is_one else trajectories)


def _opened(section: Mapping, span: int | None, found: Findings, file: OpenFile) -> TrajectoryDataset:
    """The data; what reading says goes into the notes."""
    about = {"num_types": _EVERY_TYPE} | ({} if span is None else {"span": span})
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        keys = dict(section) if section["kind"] == "pedestrian" else about | dict(section)
        dataset = open_datasets({"data": keys}, progress=False, file=file)["data"]
    found.notes += dict.fromkeys(str(warning.message) for warning in said)
    return dataset


def _blocks(items: Sequence) -> list[Tensor]:
    """The positions [B, N, D, T] of data, each once."""
    parts = items.parts if isinstance(items, Joined) else [items]
    inside = [part.in_memory() if isinstance(part, StoredWindows) else part for part in parts]
    return [cast(Windows, part).x for part in inside]  # or people, who have it too


def _between(values: list[int]) -> str:
    return str(values[0]) if len(values) == 1 else f"{values[0]} to {values[-1]}"


def _extent(parts: Sequence[Tensor]) -> str:

    def ends(x):
        return torch.stack([x.nan_to_num(torch.inf).amin((0, 1, 3)), -x.nan_to_num(-torch.inf).amax((0, 1, 3))])

    low, high = torch.stack([ends(x) for x in parts]).amin(0)
    return " x ".join(f"{length:.4g}" for length in (-high - low).tolist())


def _graph(first, is_molecule: bool) -> str:
    num_nodes, num_edges = first.x.shape[0], first.edge_index.shape[1]
    if is_molecule and first.edge_attr is not None and first.edge_attr.shape[1] > 1:
        bonded = int(first.edge_attr[:, 0].sum()) // 2
        return f"{bonded} bonds, {num_edges} edges between atoms up to {first.edge_attr.shape[1] - 1} bonds apart"
    complete = " (all nodes with all)" if num_edges == num_nodes * (num_nodes - 1) else ""
    return f"{num_edges} edges{complete}"


def _suggest(
    section: Mapping, found: Findings, first, numbers: Tensor | None, num_frames: int, trajectories: int | None
) -> None:
    """A configuration that trains on the data: 60, 20 and 20 % for train, val and test."""
    span = min(_SPAN, num_frames if trajectories is not None else int(0.2 * num_frames))
    if span < 3:
        of = "" if trajectories is not None else ", of which 20 % are to validate on"
        found.why = f"forecasts need windows of 3 frames, there are {num_frames}{of}"
        return
    if trajectories is not None and trajectories < 5:
        found.why = f"{trajectories} trajectories cannot be split into 60, 20 and 20 %"
        return
    data = dict(section) | {"span": span}
    if num_frames > span:
        data["stride"] = max(1, int(0.6 * num_frames * (trajectories or 1)) // _MOST_WINDOWS)
    node_dim = first.h.shape[1]
    if numbers is not None and node_dim == 3 * _EVERY_TYPE:
        types = sorted(set(numbers.tolist()))
        node_dim = 3 * _TYPES_BY_DEFAULT
        if types[-1] >= _TYPES_BY_DEFAULT:
            data["atom_types"], node_dim = types, 3 * len(types)
    if section.get("features") is not None:
        sections = {split: data | {"split": split} for split in ("train", "val", "test")}
        found.config = {
            "data": sections,
            "denoise_model": {"type": "interpolator", "ft_dim": first.h.shape[1] - 1, "conditioning": "forward"},
        }
        return
    edge_dim = 0 if first.edge_attr is None else first.edge_attr.shape[1]
    sections = {split: data | {"split": split} for split in ("train", "val", "test")}
    found.config = _config(sections, node_dim, edge_dim, span // 3, span)


def _config(data: dict, node_dim: int, edge_dim: int, given: int, span: int) -> dict:
    """The parts of a configuration that depend on the data; the first `given` of `span` frames are given."""
    return {
        "data": data,
        "denoise_model": {"node_dim": node_dim, "edge_dim": edge_dim, "num_w": span - given},
        "train": {"cond_mask": [[0, given]]},
    }


def _pedestrians(section: Mapping, dataset, found: Findings) -> None:
    """People of a recording, in windows of a fixed length."""
    found.add("windows", f"{len(dataset)} of {_PEDESTRIAN_FRAMES} frames, each around one person")
    found.add("people", f"{_between(sorted({item.x.shape[0] for item in dataset}))} in a window")
    found.add("unit", dataset.unit or "not said")
    found.add("steps", steps_in_words([item.x[None] for item in dataset], "person"))
    frames = _shares(section, found)
    sections = {split: dict(section) | frames.get(split, {}) for split in ("train", "val", "test")}
    found.config = _config(sections, dataset[0].h.shape[1], 0, _PAST, _PEDESTRIAN_FRAMES)


def _shares(section: Mapping, found: Findings) -> dict[str, dict]:
    """The frames of a recording that are for train, val and test, each a key `frames`: 60, 20 and 20 % in time."""
    from geotdm_fast.data.recordings import read_recording

    how = {key: section[key] for key in ("frame_step", "every", "columns") if key in section}
    ends = {int(read_recording(path, **how).frame.max()) + 1 for path in section["recordings"]}
    total = ends.pop()
    if ends or "frames" in section or total < 5 * _PEDESTRIAN_FRAMES:
        found.notes.append("train, val and test read the same frames: frames: [start, stop] tells them apart")
        return {}
    cuts = [0, int(0.6 * total), int(0.8 * total), total]
    splits = ("train", "val", "test")
    return {split: {"frames": [a, b]} for split, a, b in zip(splits, cuts, cuts[1:], strict=False)}
