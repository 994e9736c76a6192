"""Files of samples: `.npz` with all that scores and pictures need."""

import pathlib
from collections.abc import Mapping
from dataclasses import MISSING, fields
from typing import Any

import numpy as np

from geotdm_fast.runtime.choices import check_choice
from geotdm_fast.runtime.files import PathLike, read_npz, write_npz
from geotdm_fast.runtime.shown import listed
from geotdm_fast.samples.checks import check_dimensions, check_scalar, check_values
from geotdm_fast.samples.record import Samples

FORMAT = "geotdm_fast samples 1"


def write_samples(path: PathLike, samples: Samples, about: Mapping[str, np.ndarray] | None = None) -> None:
    """Write every field of `samples`, and `format`, to an `.npz`, atomically; about: further arrays beside them."""
    values = {field.name: getattr(samples, field.name) for field in fields(samples)}
    arrays = {name: np.asarray(value) for name, value in values.items() if value is not None}
    write_npz(path, format=np.asarray(FORMAT), **arrays, **(about or {}))


def read_samples(path: PathLike) -> Samples:
    """Read what `write_samples` wrote, or all shards of a folder of `geotdm sample`.

    ValueError for any other file and for a folder that lacks shards, FileNotFoundError for none.
    """
    if pathlib.Path(path).is_dir():
        from geotdm_fast.samples.shards import read_shards

        return read_shards(path)
    return samples_of(path, read_npz(path))


def samples_of(path: PathLike, arrays: Mapping[str, np.ndarray]) -> Samples:
    """The samples among the arrays of a file; path: for messages. ValueError where they are no samples."""
    names = [field.name for field in fields(Samples) if field.default is MISSING or field.name in arrays]
    missing = [name for name in ["format", *names] if name not in arrays]
    if missing or str(arrays["format"]) != FORMAT:
        lacks = ", ".join(missing[:4]) + (", ..." if len(missing) > 4 else "") or f"the format '{FORMAT}'"
        raise ValueError(
            f"{path} must be a file of samples as written by `geotdm sample`; "
            f"it holds {listed(arrays)} and lacks {lacks}"
        )
    convert = {"scale": float, "seed": int, "unit": str, "name": str, "mode": str, "checkpoint": str}
    convert |= {"experiment": str, "frame_time": float, "method": str, "num_steps": int}
    for name in convert.keys() & arrays.keys():
        check_scalar(path, name, arrays[name])
    check_dimensions(path, arrays)
    values: dict[str, Any] = {name: convert.get(name, np.asarray)(arrays[name]) for name in names}
    samples = Samples(**values)
    check_samples(path, samples)
    check_values(path, samples)
    return samples


def check_samples(path: PathLike, s: Samples) -> None:
    """ValueError naming `path` and the field, unless shapes, the graphs of the nodes and the mode fit together."""
    check_choice(f"{path}: mode", s.mode, ("cond", "uncond"))
    if s.samples.ndim != 4 or s.samples.size == 0:
        raise ValueError(f"{path}: samples must be [K, N, D, T], not empty; got {list(s.samples.shape)}")
    _, num_nodes, dims, num_noisy = s.samples.shape
    num_given = int(s.cond_mask.sum())
    expected = {
        "target": (num_nodes, dims, num_noisy if s.has_target else 0),
        "x_given": (num_nodes, dims, num_given),
        "cond_mask": (num_given + num_noisy,),
        "batch": (num_nodes,),
    }
    if s.origin is not None:
        expected["origin"] = (s.num_graphs, dims)
    if (s.cell is None) != (s.pbc is None):
        raise ValueError(f"{path}: cell and pbc must come together, got {'pbc' if s.cell is None else 'cell'} alone")
    if s.cell is not None:
        frames = 1 if s.cell.shape[1:2] == (1,) else num_given + num_noisy
        expected |= {"cell": (s.num_graphs, frames, 3, 3), "pbc": (s.num_graphs, 3)}
    if (s.conditions is None) != (s.condition_names is None):
        missing = "conditions" if s.conditions is None else "condition_names"
        raise ValueError(f"{path}: conditions and condition_names must come together, got no {missing}")
    if s.conditions is not None and s.condition_names is not None:
        expected |= {"conditions": (s.num_graphs, np.size(s.condition_names))}
    if s.is_molecule:
        expected["atomic_numbers"] = (num_nodes,)
    for name, shape in expected.items():
        if getattr(s, name).shape != shape:
            raise ValueError(f"{path}: {name} must be {list(shape)}, got {list(getattr(s, name).shape)}")
    _check_graphs(path, s.batch)


def _check_graphs(path: PathLike, batch: np.ndarray) -> None:
    """`nodes` and `num_graphs` hold for graphs whose nodes lie together, numbered 0, 1, 2, ... without a gap."""
    if not np.issubdtype(batch.dtype, np.integer):
        raise ValueError(f"{path}: batch must hold whole numbers, the graph of each node; got {batch.dtype}")
    first = np.concatenate([[-1], batch[:-1]])
    wrong = np.flatnonzero((batch != first) & (batch != first + 1)) if batch[0] == 0 else [0]
    if len(wrong):
        node = int(wrong[0])
        behind = f" behind {first[node]}" if node else ""
        raise ValueError(
            f"{path}: batch must ascend from 0 without a gap, the nodes of a graph side by side; "
            f"got {batch[node]}{behind} at node {node}"
        )
