"""A data loader that batches trajectories, with the arguments of torch_geometric's."""

from collections.abc import Sequence
from typing import Any, cast

import torch

from geotdm_fast.data.separate import owners
from geotdm_fast.data.trajectory import Batch, Trajectory, collate

_NEEDED = ("x", "h", "edge_index", "scored")


class DataLoader(torch.utils.data.DataLoader):
    """torch's DataLoader whose batches are `Batch`es, made by `collate`.

    follow_batch: fields for which the batch also has <name>_batch [rows], the graph of each row
    exclude_keys: fields to leave out of the batch
    options: every other argument of `torch.utils.data.DataLoader`, by keyword (sampler, drop_last, num_workers, ...)
    Raises TypeError for a collate_fn, which is built in, and ValueError for a field that a batch cannot do without.
    """

    def __init__(
        self,
        dataset: torch.utils.data.Dataset | Sequence[Trajectory],
        batch_size: int | None = 1,
        shuffle: bool | None = False,
        follow_batch: Sequence[str] | None = None,
        exclude_keys: Sequence[str] | None = None,
        **options: Any,
    ):
        given = options.pop("collate_fn", None)
        # Frameworks make a loader anew from the attributes of one, the built-in function among them.
        if given is not None and not isinstance(given, _Collate):
            raise TypeError(f"DataLoader: collate_fn is built in, got {given!r}; torch.utils.data.DataLoader takes one")
        self.follow_batch = follow_batch
        self.exclude_keys = exclude_keys
        together = given or _Collate(tuple(follow_batch or ()), tuple(exclude_keys or ()))
        super().__init__(cast("torch.utils.data.Dataset", dataset), batch_size, shuffle, collate_fn=together, **options)


class _Collate:
    """`collate`, with fields followed and left out. A class, so that worker processes can be sent one."""

    def __init__(self, follow: tuple[str, ...], exclude: tuple[str, ...]):
        needed = [name for name in exclude if name in _NEEDED]
        if needed:
            raise ValueError(f"DataLoader: exclude_keys must leave {', '.join(_NEEDED)} in, got {', '.join(needed)}")
        self.follow, self.exclude = follow, exclude

    def __call__(self, trajectories: Trajectory | Sequence[Trajectory]) -> Batch:
        # Without automatic batching (batch_size=None) torch hands over one item.
        trajectories = [trajectories] if isinstance(trajectories, Trajectory) else list(trajectories)
        batch = collate([item.without(self.exclude) for item in trajectories] if self.exclude else trajectories)
        for name in self.follow:
            batch[f"{name}_batch"] = owners(batch, name)
        return batch
