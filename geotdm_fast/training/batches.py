"""The batches of training and validation, each process its own share of the same global batch."""

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from geotdm_fast.data import Batch, TrajectoryDataset, collate
from geotdm_fast.training import draws


@dataclass(frozen=True)
class Noised:
    """A process's share of a global batch, with what the diffusion draws for it.

    batch: the graphs
    steps: [N] int64 - the diffusion step of each node, the same within a graph
    noise: [N, D, T_noisy] float32 - standard normal
    graph_of_scored: [M] int64 - the graph of each scored node
    weight: [M] float32 - 1 / (scored nodes of the node's graph) / (graphs in the global batch); 0 for stand-ins
    num_graphs: graphs in the global batch
    """

    batch: Batch
    steps: Tensor
    noise: Tensor
    graph_of_scored: Tensor
    weight: Tensor
    num_graphs: int


class BatchSource:
    """Cuts a data set into global batches and draws their diffusion steps and noise, always the same for a seed.

    dataset: the trajectories
    batch_size: graphs of a global batch
    num_timesteps: diffusion steps S
    num_noisy: frames that are diffused
    rank, world_size: which share of each batch to make
    """

    def __init__(
        self,
        dataset: TrajectoryDataset,
        *,
        seed: int,
        batch_size: int,
        num_timesteps: int,
        num_noisy: int,
        rank: int = 0,
        world_size: int = 1,
    ):
        self.dataset = dataset
        self.seed = seed
        self.batch_size = batch_size
        self.num_timesteps = num_timesteps
        self.num_noisy = num_noisy
        self.rank = rank
        self.world_size = world_size
        # Noise is drawn for the global batch, so a process must know how many nodes come before its own.
        self.num_nodes = [item.x.shape[0] for item in dataset] if world_size > 1 else None
        self._order: tuple[int, list[int]] | None = None

    @property
    def per_epoch(self) -> int:
        """Batches of an epoch; the last one may be smaller."""
        return -(-len(self.dataset) // self.batch_size)

    def training(self, step: int) -> Noised:
        """This process's share of the global batch of training step `step` (from 0)."""
        epoch, position = divmod(step, self.per_epoch)
        if self._order is None or self._order[0] != epoch:
            self._order = epoch, draws.epoch_order(self.seed, epoch, len(self.dataset))
        indices = self._order[1][position * self.batch_size : (position + 1) * self.batch_size]
        first, last, real = _share(len(indices), self.rank, self.world_size)
        mine = [self.dataset[i] for i in indices[first:last]]
        batch = collate(mine)
        if self.world_size == 1:
            before, total = 0, batch.x.shape[0]
        else:
            sizes = [self.num_nodes[i] for i in indices]
            before, total = sum(sizes[:first]), sum(sizes)
        rng = draws.generator(self.seed, draws.STEP, step)
        shape = (total, batch.x.shape[1], self.num_noisy)
        steps, noise = draws.steps_and_noise(rng, len(indices), shape, self.num_timesteps)
        noise = noise[before : before + batch.x.shape[0]]
        return _noised(batch, steps[first:last], noise, num_graphs=len(indices) if real else 0, of=len(indices))

    def validation(self, max_graphs: int | None = None) -> Iterator[tuple[int, Noised]]:
        """(number, batch) of this process's batches, in the data's order: the same steps and noise at every call.

        The diffusion steps are spread evenly over the whole set, so that the mean loss is a good estimate.
        """
        count = min(len(self.dataset), max_graphs or len(self.dataset))
        rng = draws.generator(self.seed, draws.VALIDATION)
        spread = (torch.randperm(count, generator=rng) * 2 + 1) * self.num_timesteps // (2 * count)
        for number, first in enumerate(range(0, count, self.batch_size)):
            if number % self.world_size != self.rank:
                continue
            indices = range(first, min(first + self.batch_size, count))
            batch = collate([self.dataset[i] for i in indices])
            rng = draws.generator(self.seed, draws.VALIDATION, number)
            noise = torch.randn((*batch.x.shape[:2], self.num_noisy), generator=rng)
            yield number, _noised(batch, spread[indices.start : indices.stop], noise, num_graphs=len(indices), of=count)


def to_device(noised: Noised, device: torch.device) -> Noised:
    """Move every tensor, from pinned memory without waiting if `device` is CUDA."""
    if device.type == "cpu":
        return noised

    def moved(owner):
        tensors = {f.name: getattr(owner, f.name) for f in fields(owner)}
        pinned = {k: v.pin_memory().to(device, non_blocking=True) for k, v in tensors.items() if isinstance(v, Tensor)}
        return replace(owner, **pinned)

    return replace(moved(noised), batch=moved(noised.batch))


def _share(num_graphs: int, rank: int, world_size: int) -> tuple[int, int, bool]:
    """First and last + 1 graph of a rank, as even as can be; a rank without graphs stands in with one, not counted."""
    first, last = num_graphs * rank // world_size, num_graphs * (rank + 1) // world_size
    return (first, last, True) if first < last else (0, 1, False)


def _noised(batch: Batch, steps: Tensor, noise: Tensor, *, num_graphs: int, of: int) -> Noised:
    graph_of_scored = batch.batch[batch.scored]
    count = torch.bincount(graph_of_scored, minlength=batch.num_graphs)
    weight = (1.0 / count[graph_of_scored].double() / of).float() * (num_graphs > 0)
    return Noised(batch, steps[batch.batch], noise, graph_of_scored, weight, of)
