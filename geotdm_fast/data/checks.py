"""What every loader and simulator checks about what it is given. `where` names the caller in the message."""

from collections.abc import Sequence
from typing import cast, overload

import numpy as np
from numpy.typing import ArrayLike
from torch import Tensor

from geotdm_fast.data.npy import StoredArray
from geotdm_fast.runtime.checks import check_whole
from geotdm_fast.runtime.choices import check_choice
from geotdm_fast.runtime.shown import shown

SPLITS = ("train", "val", "test")


def check_count(where: str, name: str, value: int, minimum: int = 1) -> int:
    """`value` as an int of at least `minimum`."""
    value = check_whole(where, name, value)
    if value < minimum:
        raise ValueError(f"{where}: {name} must be at least {minimum}, got {value}")
    return value


def check_number(where: str, name: str, value: float) -> float:
    """`value` as a positive, finite float."""
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, float, np.integer, np.floating)):
        raise TypeError(f"{where}: {name} must be a number, got {shown(value)}")
    if not (np.isfinite(value) and value > 0):
        raise ValueError(f"{where}: {name} must be positive and finite, got {value}")
    return float(value)


def check_flag(where: str, name: str, value: bool) -> bool:
    """`value` if it is True or False."""
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{where}: {name} must be true or false, got {shown(value)}")
    return bool(value)


def check_project(where: str, value: bool | str) -> bool | str:
    """`value` if it is True, False or `frames`: which mean is subtracted from windows, see `windows.centred`."""
    if isinstance(value, str):
        if value != "frames":
            raise ValueError(f"{where}: project must be true, false or frames, got {shown(value)}")
        return value
    return check_flag(where, "project", value)


def check_auto(where: str, name: str, value: str | bool) -> bool:
    """Whether `value` is auto, not no; YAML reads a bare `no` as false."""
    if isinstance(value, (bool, np.bool_)):
        return bool(value)
    check_choice(f"{where}: {name}", value, ("auto", "no"))
    return value == "auto"


@overload
def check_array(where: str, name: str, value: StoredArray, shape: str, *, hint: str = "") -> StoredArray: ...
@overload
def check_array(
    where: str, name: str, value: ArrayLike | Tensor, shape: str, dtype: type | None = None, hint: str = ""
) -> np.ndarray: ...
@overload
def check_array(
    where: str, name: str, value: ArrayLike | Tensor | StoredArray, shape: str, *, hint: str = ""
) -> np.ndarray | StoredArray: ...
def check_array(
    where: str,
    name: str,
    value: ArrayLike | Tensor | StoredArray,
    shape: str,
    dtype: type | None = None,
    hint: str = "",
) -> np.ndarray | StoredArray:
    """`value` as a numeric array without an empty dimension; a `StoredArray` stays one, unread.

    shape: the expected one in words, alternatives joined by `or`: `B, N, 3` or `N, F or B, N, F`. Numbers in it are
    required, letters are free. hint: what to do about rows of unequal length, for the message
    """
    if isinstance(value, Tensor):
        value = value.detach().cpu().numpy()
    expected = " or ".join(f"[{one}]" for one in shape.split(" or "))
    try:
        array = value if isinstance(value, StoredArray) else np.asarray(value)
    except ValueError as error:
        raise ValueError(f"{where}: {name} must be {expected}, got rows of unequal length{hint}") from error
    if array.dtype.kind not in "fiub":
        raise TypeError(f"{where}: {name} must hold numbers, got {array.dtype}")
    if not any(_fits(array.shape, one.split(", ")) for one in shape.split(" or ")):
        raise ValueError(f"{where}: {name} must be {expected}, got {list(array.shape)}")
    if array.size == 0:
        raise ValueError(f"{where}: {name} must not be empty, got {list(array.shape)}")
    return array if dtype is None else cast(np.ndarray, array).astype(dtype, copy=False)


def check_positions(
    where: str, name: str, value: ArrayLike | Tensor, shape: str, dtype: type | None = None
) -> np.ndarray:
    """`check_array`, and every number finite."""
    array = check_array(where, name, value, shape, dtype)
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        first = tuple(int(i) for i in np.argwhere(~np.isfinite(array))[0])
        raise ValueError(f"{where}: {name} must be finite, got {array[first]} at {list(first)}")
    return array


def check_shape(where: str, name: str, array: np.ndarray | StoredArray, expected: Sequence[int]) -> None:
    """Raise unless `array` has exactly the shape `expected`."""
    if tuple(array.shape) != tuple(expected):
        raise ValueError(f"{where}: {name} must be {list(expected)}, got {list(array.shape)}")


def check_indices(where: str, name: str, value: ArrayLike | Tensor, shape: str, num_nodes: int) -> np.ndarray:
    """`value` as an int64 array of node indices below `num_nodes`; it may have no entries."""
    if isinstance(value, Tensor):
        value = value.detach().cpu().numpy()
    array = np.asarray(value)
    if array.size == 0 and array.dtype.kind == "f":
        array = array.astype(np.int64)
    if array.dtype.kind not in "iu":
        raise TypeError(f"{where}: {name} must hold whole numbers, got {array.dtype}")
    if not _fits(array.shape, shape.split(", ")):
        raise ValueError(f"{where}: {name} must be [{shape}], got {list(array.shape)}")
    array = array.astype(np.int64)
    if array.size and (array.min() < 0 or array.max() >= num_nodes):
        bad = array.min() if array.min() < 0 else array.max()
        raise ValueError(f"{where}: {name} must be node indices from 0 to {num_nodes - 1}, got {bad}")
    return array


def _fits(shape: tuple[int, ...], expected: list[str]) -> bool:
    return len(shape) == len(expected) and all(
        not word.isdigit() or int(word) == size for size, word in zip(shape, expected, strict=True)
    )
