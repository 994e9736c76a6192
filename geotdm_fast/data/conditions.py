"""Conditions: numbers of trajectories that a network is told. What sets them, and which a data set has.

A data section sets them by its key `conditions`, whose lags `geotdm_fast.data.lags` brings about.
"""

import copy
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from geotdm_fast.conditions import Conditions, check_finite_conditions, check_name, check_untold
from geotdm_fast.data.cache import StoredWindows
from geotdm_fast.data.trajectory import Trajectory, TrajectoryDataset
from geotdm_fast.data.windows import Joined, Windows
from geotdm_fast.runtime.shown import shown


def with_conditions(
    dataset: TrajectoryDataset, conditions: Mapping[str, Any], where: str = "with_conditions"
) -> TrajectoryDataset:
    """`dataset`, whose trajectories have these conditions beside, or in place of, those that they have.

    conditions: by name, a number for all trajectories, or [len(dataset)] numbers
    Raises ValueError for a name that is no word, another count, and numbers that are not finite.
    """
    names = sorted(check_name(where, name) for name in conditions)
    if not names:
        return dataset
    columns = [_column(where, name, conditions[name], len(dataset)) for name in names]
    rows = 1 if all(len(column) == 1 for column in columns) else len(dataset)
    values = torch.stack([column.expand(rows) for column in columns], dim=1)
    told = copy.copy(dataset)
    told.items = _told(dataset.items, tuple(names), values)
    return told


def conditions_of(dataset: TrajectoryDataset, where: str = "conditions_of") -> tuple[tuple[str, ...], Tensor]:
    """The names of the conditions of a data set, and rows [M, C] float32 with every number that a trajectory has.

    Without conditions no names and [0, 0]. Raises ValueError where trajectories have different conditions or numbers
    that are not finite.
    """
    found = list(_rows(dataset.items))
    names = found[0][0]
    for number, (others, _) in enumerate(found):
        if others != names:
            expected, came = (", ".join(each) or "none" for each in (names, others))
            raise ValueError(f"{where}: the conditions of part {number} must be {expected} as in the first, got {came}")
    if not names:
        return (), torch.zeros(0, 0)
    values = torch.cat([rows for _, rows in found])
    if values.shape[1] != len(names):
        raise ValueError(f"{where}: conditions must be [{len(names)}], of {', '.join(names)}, got [{values.shape[1]}]")
    check_finite_conditions(where, names, values)
    return names, values


def check_conditions(
    dataset: TrajectoryDataset, told: Conditions | None, where: str, extrapolate: bool = False
) -> None:
    """ValueError unless a data set has the conditions that a network is told, within the trained range.

    extrapolate: outside of it too
    """
    names, values = conditions_of(dataset, where)
    if told is None:
        check_untold(where, names)
        return
    told.check_names(where, names)
    if names != told.names:
        raise ValueError(f"{where}: conditions must be in the order {', '.join(told.names)}, got {', '.join(names)}")
    if not extrapolate:
        told.check_range(where, values)


class ToldEach(Sequence[Trajectory]):
    """Trajectories with conditions of their own: values [1 or trajectories, C] of `names`."""

    def __init__(self, items: Sequence[Trajectory], names: tuple[str, ...], values: Tensor):
        self.items, self.names, self.values = items, names, values

    @property
    def in_files(self) -> bool:
        """Whether some of the trajectories are read when asked for."""
        return _in_files(self.items)

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Trajectory:  # type: ignore[override]  # no slices
        item = self.items[index]
        own = self.values[index if len(self.values) > 1 else 0]
        names, values = _merged(item.condition_names, item.conditions, self.names, own)
        told = copy.copy(item)
        told.conditions, told.condition_names = values, names
        return told


def _told(items: Sequence[Trajectory], names: tuple[str, ...], values: Tensor) -> Sequence[Trajectory]:
    if len(values) == 1 and isinstance(items, (Windows, StoredWindows)):
        told = copy.copy(items)
        told.condition_names, told.conditions = _merged(items.condition_names, items.conditions, names, values[0])
        return told
    if len(values) == 1 and isinstance(items, Joined):
        return Joined([_told(part, names, values) for part in items.parts])
    return ToldEach(items, names, values)


def _in_files(items: Sequence[Trajectory]) -> bool:
    if isinstance(items, Joined):
        return any(_in_files(part) for part in items.parts)
    return isinstance(items, StoredWindows) or (isinstance(items, ToldEach) and items.in_files)


def _merged(
    names: tuple[str, ...], values: Tensor | None, more: tuple[str, ...], others: Tensor
) -> tuple[tuple[str, ...], Tensor]:
    known = {} if values is None else dict(zip(names, values.unbind(), strict=True))
    known |= dict(zip(more, (others if values is None else others.to(values.device)).unbind(), strict=True))
    every = tuple(sorted(known))
    return every, torch.stack([known[name] for name in every])


def _column(where: str, name: str, value: Any, count: int) -> Tensor:
    """[1 or count] float32."""
    numbers = value.detach().cpu().numpy() if isinstance(value, Tensor) else np.asarray(value)
    if numbers.dtype.kind not in "iuf" or numbers.ndim > 1 or (numbers.ndim == 1 and len(numbers) not in (1, count)):
        raise ValueError(
            f"{where}: the condition {name} must be a number, or one for each of the {count} trajectories, got "
            f"{shown(value)}"
        )
    column = torch.from_numpy(np.atleast_1d(numbers).astype(np.float32))
    check_finite_conditions(where, (name,), column[:, None])
    return column


def _rows(items: Sequence[Trajectory]) -> Iterator[tuple[tuple[str, ...], Tensor]]:
    """(names, [M, C]) of the parts of a sequence of trajectories."""
    if isinstance(items, (Windows, StoredWindows)):
        yield items.condition_names, _row(items)
    elif isinstance(items, Joined):
        for part in items.parts:
            yield from _rows(part)
    else:
        for i in range(len(items)):
            item = items[i]
            yield item.condition_names, _row(item)


def _row(item: Trajectory | Windows | StoredWindows) -> Tensor:
    return torch.zeros(1, 0) if item.conditions is None else item.conditions.detach().cpu().float().reshape(1, -1)
