"""Checks of the values in a file of samples, beyond the shapes."""

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from geotdm_fast.data.periodic import check_cells
from geotdm_fast.runtime.shown import shown

if TYPE_CHECKING:
    from geotdm_fast.samples.record import Samples

_NUMBERS = {"scale": "iuf", "seed": "iu", "frame_time": "iuf", "num_steps": "iu"}
_DIMENSIONS = {
    "target": ("N, D, T",), "x_given": ("N, D, T",), "cond_mask": ("T",), "batch": ("N",), "scored": ("M",),
    "h": ("N, F", "N, F, T"), "edge_index": ("2, E",), "atomic_numbers": ("N",),
}  # fmt: skip


def check_scalar(path: str | os.PathLike, name: str, value: np.ndarray) -> None:
    """ValueError unless the array `name`, of one value, is a number (of `_NUMBERS`) or a text (the others)."""
    kinds = _NUMBERS.get(name, "U")
    if np.size(value) != 1 or np.asarray(value).dtype.kind not in kinds:
        expected = "one text" if kinds == "U" else "one number"
        raise ValueError(f"{path}: {name} must be {expected}, got {np.asarray(value).dtype} {list(np.shape(value))}")


def check_dimensions(path: str | os.PathLike, arrays: Mapping[str, np.ndarray]) -> None:
    """ValueError for an array of another number of dimensions than samples have, or an empty `batch`."""
    for name, names in _DIMENSIONS.items():
        shape = np.shape(arrays[name])
        if len(shape) not in [len(one.split(", ")) for one in names] or (name == "batch" and shape == (0,)):
            expected = " or ".join(f"[{one}]" for one in names)
            raise ValueError(f"{path}: {name} must be {expected}, got {list(shape)}")


def check_values(path: str | os.PathLike, s: "Samples") -> None:
    """ValueError naming the array, what was expected and what came, for values that no samples have."""
    fail = lambda name, expected, came: ValueError(f"{path}: {name} must be {expected}, got {came}")
    num_nodes, dims = s.target.shape[:2]
    for name in ("samples", "target", "x_given", "h"):
        if getattr(s, name).dtype.kind != "f":
            raise fail(name, "floating point", getattr(s, name).dtype)
    if dims not in (2, 3):
        raise fail("samples", "in 2 or 3 dimensions, [K, N, D, T]", f"D = {dims}")
    if s.cond_mask.dtype != bool:
        raise fail("cond_mask", "bool", s.cond_mask.dtype)
    if len(s.h) != num_nodes:
        raise fail("h", f"[{num_nodes}, F] or [{num_nodes}, F, T]", list(s.h.shape))
    if len(s.scored) == 0:
        raise fail("scored", "[M], not empty", list(s.scored.shape))
    if len(s.edge_index) != 2:
        raise fail("edge_index", "[2, E]", list(s.edge_index.shape))
    for name, most in (("batch", num_nodes - 1), ("scored", num_nodes - 1), ("edge_index", num_nodes - 1),
                       ("atomic_numbers", 118)):  # fmt: skip
        values = getattr(s, name)
        if values.dtype.kind not in "iu" and values.size:
            raise fail(name, "whole numbers", values.dtype)
        if values.size and not 0 <= int(values.min()) <= int(values.max()) <= most:
            raise fail(name, f"in 0..{most}", f"{int(values.min())}..{int(values.max())}")
    if s.cell is not None and s.pbc is not None:
        check_cells(str(path), s.cell, s.pbc, dims)
    if s.conditions is not None and s.condition_names is not None:
        if s.condition_names.dtype.kind != "U" or s.condition_names.ndim != 1:
            raise fail("condition_names", "texts [C]", f"{s.condition_names.dtype} {list(s.condition_names.shape)}")
        if s.conditions.dtype.kind != "f" or not np.isfinite(s.conditions).all():
            raise fail("conditions", "finite floating point", s.conditions.dtype)
    if s.num_steps is not None and s.num_steps < 1:
        raise fail("num_steps", "at least 1", s.num_steps)
    for name in ("scale", "frame_time"):
        number = getattr(s, name)
        if number is not None and not (np.isfinite(number) and number > 0):
            raise fail(name, "a positive, finite number", shown(number))
