"""Data sets of different graphs as one: molecules of different size and kind for one model."""

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor

from geotdm_fast.data.trajectory import TrajectoryDataset, description
from geotdm_fast.data.windows import Joined


def join_datasets(datasets: Sequence[TrajectoryDataset], name: str | None = None) -> TrajectoryDataset:
    """The trajectories of all `datasets`, one data set after the other; batches may mix them.

    name: of the whole; by default the names joined by ` + `
    Raises ValueError for none, and, naming both, for data sets that differ in D, T, the shapes of features, unit or
    scale: molecules want the same span, max_hops, num_types and atom_types. A data set without a unit goes with any.
    """
    if len(datasets) == 0:
        raise ValueError("join_datasets: datasets must hold at least one data set, got none")
    first = datasets[0]
    about = lambda dataset: description(dataset[0]) | {"unit": dataset.unit, "scale": dataset.scale}
    for dataset in datasets[1:]:
        for what, expected in about(first).items():
            came = about(dataset)[what]
            if came != expected and not (what == "unit" and "" in (came, expected)):
                raise ValueError(
                    f"join_datasets: {what} of {dataset.name} must be {expected} as in {first.name}, got {came}"
                )
    numbers = [dataset.atomic_numbers for dataset in datasets]
    molecules = all(own is not None for own in numbers)
    # Replicas of one molecule have its numbers once, not once for each of millions of windows.
    one = all(isinstance(own, Tensor) and torch.equal(own, cast(Tensor, numbers[0])) for own in numbers)
    return TrajectoryDataset(
        Joined([dataset.items for dataset in datasets]),
        name=" + ".join(dataset.name for dataset in datasets) if name is None else name,
        unit=next((dataset.unit for dataset in datasets if dataset.unit), ""),
        scale=first.scale,
        h_is_made=any(dataset.h_is_made for dataset in datasets),
        frame_time=first.frame_time if len({dataset.frame_time for dataset in datasets}) == 1 else None,
        atomic_numbers=numbers[0]
        if one
        else cast(Sequence[Tensor], [d.numbers_of(i) for d in datasets for i in range(len(d))])
        if molecules
        else None,
    )
