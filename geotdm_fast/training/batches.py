"""The batches of training and validation, each process its own share of the same global batch."""

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, cast

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from geotdm_fast.data import Batch
from geotdm_fast.diffusion.noise import OF_LIKELIHOOD, TrajectoryNoise
from geotdm_fast.graphs import Graph
from geotdm_fast.runtime.copies import to_device
from geotdm_fast.training import random_streams
from geotdm_fast.training.ahead import Ahead
from geotdm_fast.training.context_noise import ContextNoise
from geotdm_fast.training.device_data import DeviceData, Structure
from geotdm_fast.training.history_windows import HistoryWindows
from geotdm_fast.training.pairs import Pairs
from geotdm_fast.training.streamed_data import Gathered, StreamedData

# Batches that are read from files before they are asked for.
_AHEAD = 2


class Draw(NamedTuple):
    """The random choices for B graphs of a training step, made on the host: everything that differs between two steps.

    items: [B] int64 - the numbers of the trajectories in the data set
    steps: [B] - the diffusion step of each graph, int64; of a flow its time in [0, S], float32
    weight: [B] float32 - the weight of each graph in the mean loss: 1 / (graphs of the global batch), or with
        `by_nodes` its share of the nodes in that batch; 0 for the graph of a process that has no share, see `_share`
    noise: [N, D, T_noisy] float32 - standard normal, for the frames that the model predicts
    turn: [B, D, D] float32 - the random rotation of each graph, or None
    level: [B] float32 (unit of the positions) - the size of the noise on the given frames, or None
    context: [N, D, G] float32 (unit of the positions) - that noise, added to the G given frames, or None
    given: [N, D, G] float32 (unit of the positions) - given frames that replace the data's (`BlockHistory`), or None
    gathered: the positions of `items`, where the data set is read from files, else None
    is_free: whether no frame is given in this step, so that all frames are noisy
    """

    items: Tensor
    steps: Tensor
    weight: Tensor
    noise: Tensor
    turn: Tensor | None
    level: Tensor | None = None
    context: Tensor | None = None
    given: Tensor | None = None
    gathered: Gathered | None = None
    is_free: bool = False

    @property
    def windows(self) -> Tensor | Gathered:
        """What `DeviceData.drawn` takes."""
        return self.items if self.gathered is None else self.gathered

    def to(self, device: torch.device) -> "Draw":
        """Copies on `device`, which nobody waits for."""
        return tree_map_only(Tensor, lambda tensor: to_device(tensor, device), self)


@dataclass(frozen=True)
class Noised:
    """Graphs of a global batch, with what the diffusion draws for them.

    batch: the graphs; graph: their edges
    steps: [N] int64 - the diffusion step of each node, the same within a graph (of a flow its time, float32)
    noise: [N, D, T_noisy] float32 - standard normal
    graph_of_scored: [M] int64 - the graph of each scored node
    weight: [M] float32 - that of the node's graph (`Draw.weight`) / (scored nodes of the graph); 0 for stand-ins
    all_scored: whether the scored nodes are all, in order
    is_free: whether nothing is given, and all frames are noisy
    """

    batch: Batch
    graph: Graph
    steps: Tensor
    noise: Tensor
    graph_of_scored: Tensor
    weight: Tensor
    all_scored: bool
    is_free: bool = False


class BatchSource:
    """Chooses the graphs of every training step, and draws their diffusion steps and noise.

    Every choice is a function of (seed, step, trajectory), so that a resumed run, or one on more processes, makes the
    same ones. A global batch is what all processes together compute in a step; this object makes the share of one.

    data: the trajectories
    batch_size: graphs of a global batch; accumulate: parts, computed one after the other, of this process's share
    num_timesteps: diffusion steps S; time_power: p of `random_streams.times` for a flow, None for a diffusion
    num_noisy: T_noisy, the frames that the model predicts
    rotate: whether every graph is turned by a random rotation
    context: noise on the given frames, in training alone; None: no noise
    windows: how a window that is longer than the model's is cut into blocks; the model learns the last one. None:
        windows are not cut
    shares: (sizes, shares) of data sets that lie one after the other in `data`, and how often each is drawn; None:
        every graph is drawn once in an epoch
    by_nodes: whether the weight of a graph in the loss is its share of the nodes, instead of 1 / graphs
    free_share: the probability that no frame is given in a training step, 0 ... 1
    pairs: the noise of data that are a teacher's draws; then every diffusion step is the one from which the teacher
        began. None: steps and noise are drawn
    rank, world_size: the number of this process, and how many there are
    """

    def __init__(
        self,
        data: DeviceData,
        *,
        seed: int,
        batch_size: int,
        num_timesteps: int,
        num_noisy: int,
        accumulate: int = 1,
        rotate: bool = False,
        context: ContextNoise | None = None,
        windows: HistoryWindows | None = None,
        time_power: float | None = None,
        shares: Sequence[tuple[int, float]] | None = None,
        by_nodes: bool = False,
        free_share: float = 0.0,
        pairs: Pairs | None = None,
        rank: int = 0,
        world_size: int = 1,
    ):
        self.data = data
        self.seed = seed
        self.batch_size = batch_size
        self.accumulate = accumulate
        self.num_timesteps = num_timesteps
        self.time_power = time_power
        self.num_noisy = num_noisy
        self.rotate = rotate
        self.context = context
        self.windows = windows
        self.shares = shares
        self.by_nodes = by_nodes
        self.free_share = free_share
        self.pairs = pairs
        self.rank = rank
        self.world_size = world_size
        self._orders: dict[int, Tensor] = {}
        self._ahead: Ahead[list[Gathered]] = Ahead()

    @property
    def per_epoch(self) -> int:
        """Batches of an epoch; the last one may be smaller."""
        return -(-len(self.data) // self.batch_size)

    def global_size(self, step: int) -> int:
        """Graphs of the global batch of training step `step`."""
        first = step % self.per_epoch * self.batch_size
        return min(self.batch_size, len(self.data) - first)

    def training(self, step: int) -> list[Draw]:
        """This process's share of the global batch of training step `step` (from 0), in at most `accumulate` parts."""
        items = self._items(step)
        real = _share(len(items), self.rank, self.world_size)[2]
        rng = random_streams.generator(self.seed, random_streams.STEP, step)
        # Drawn for the global batch, so that the numbers do not depend on how many processes there are.
        sizes = torch.from_numpy(self.data.sizes_of(items.numpy()))
        is_free = self.free_share > 0 and random_streams.is_free(self.seed, step, self.free_share)
        shape = (int(sizes.sum()), self.data.dim, self.data.num_frames if is_free else self.num_noisy)
        if self.pairs is None:
            steps, noise = random_streams.steps_and_noise(rng, len(items), shape, self.num_timesteps, self.time_power)
        else:
            steps, noise = (
                self._last_steps(len(items)),
                self.pairs.noise(items, torch.repeat_interleave(sizes), *shape[1:]),
            )
        turn = None
        if self.rotate:
            rng = random_streams.generator(self.seed, random_streams.ROTATION, step)
            turn = random_streams.rotations(rng, len(items), self.data.dim)
        level, context = None, None
        if self.context is not None:
            level, context = self.context.drawn(self.seed, step, sizes, self.data.dim)
        ends = sizes.cumsum(0).tolist()
        weight = real * self._weights(sizes)
        nodes = lambda a, b: slice(ends[a - 1] if a else 0, ends[b - 1])
        cuts = self._cuts(len(items))
        gathered = self._gathered("training", range(step, step + 1 + _AHEAD), self.parts)
        return [
            Draw(
                items[a:b], steps[a:b], weight[a:b], noise[nodes(a, b)], None if turn is None else turn[a:b],
                None if level is None else level[a:b], None if context is None else context[nodes(a, b)],
                gathered=None if gathered is None else gathered[part], is_free=is_free,
            )
            for part, (a, b) in enumerate(itertools.pairwise(cuts))
        ]  # fmt: skip

    def _last_steps(self, num_graphs: int) -> Tensor:
        """[B]: the diffusion step of pure noise, S - 1, or of a flow the time S."""
        is_flow = self.time_power is not None
        return torch.full((num_graphs,), float(self.num_timesteps) if is_flow else self.num_timesteps - 1)

    def _items(self, step: int) -> Tensor:
        """The trajectories of the global batch of training step `step`."""
        epoch, position = divmod(step, self.per_epoch)
        if epoch not in self._orders:
            # Two of them: batches are read ahead across the end of an epoch.
            self._orders = {e: order for e, order in self._orders.items() if e == epoch - 1}
            self._orders[epoch] = self._order(epoch)
        return self._orders[epoch][position * self.batch_size : (position + 1) * self.batch_size]

    def _order(self, epoch: int) -> Tensor:
        """The trajectories of an epoch, in the order in which they are drawn."""
        if self.shares is None:
            return random_streams.epoch_order(self.seed, epoch, len(self.data))
        sizes, shares = zip(*self.shares, strict=True)
        return random_streams.mixed_order(self.seed, epoch, sizes, shares)

    def _weights(self, sizes: Tensor) -> Tensor:
        """[B] float32 - the weight of each graph in the mean over a global batch; sizes: [B] - their nodes."""
        if self.by_nodes:
            return (sizes.double() / sizes.sum()).float()
        return torch.full((len(sizes),), 1.0 / len(sizes))

    def _cuts(self, num_graphs: int) -> list[int]:
        """[c_0, ..., c_P]: part p of this process's share is the graphs c_p .. c_(p + 1) - 1 of the global batch."""
        first, last, _ = _share(num_graphs, self.rank, self.world_size)
        parts = min(self.accumulate, last - first)
        return [first + (last - first) * part // parts for part in range(parts + 1)]

    def parts(self, step: int) -> list[Tensor]:
        """The trajectories of each part of this process's share of training step `step`."""
        items = self._items(step)
        return [items[a:b] for a, b in itertools.pairwise(self._cuts(len(items)))]

    def _gathered(
        self, kind: str, numbers: Sequence[int], parts_of: Callable[[int], list[Tensor]]
    ) -> list[Gathered] | None:
        """The positions of the first of these batches, read from files, part by part; None for data on the device.

        Reading the others is begun in a second thread, since they are wanted next.
        kind: training or validation, since both number their batches from 0
        numbers: the batch that is wanted now, then those that follow; parts_of: from a number to the trajectories [B_p]
            of each part
        """
        if not isinstance(self.data, StreamedData):
            return None
        gather = self.data.gather
        parts = {number: parts_of(number) for number in numbers}
        read = lambda number: lambda: [gather(items) for items in parts[number]]
        return self._ahead.get([((kind, number), read(number)) for number in numbers])

    def validation_batches(self, max_graphs: int | None = None) -> int:
        """How many batches `validation` has, those of all processes together."""
        return -(-min(len(self.data), max_graphs or len(self.data)) // self.batch_size)

    def validation(self, max_graphs: int | None = None) -> Iterator[tuple[Tensor, Noised]]:
        """(trajectories [B] int64, what is drawn for them) of each of this process's batches, in the data's order.

        The same at every call, and for each trajectory whatever the size of the batches: its noise is by counter. The
        diffusion steps are spread evenly over the whole set, so that the mean loss is a good estimate.
        """
        count = min(len(self.data), max_graphs or len(self.data))
        rng = random_streams.generator(self.seed, random_streams.VALIDATION)
        every_node = self.data.sizes_of(np.arange(count)).sum()
        place = torch.randperm(count, generator=rng) * 2 + 1
        if self.time_power is None:
            spread = place * self.num_timesteps // (2 * count)
        else:
            spread = random_streams.times(place / (2 * count), self.num_timesteps, self.time_power)
        firsts = range(self.rank * self.batch_size, count, self.world_size * self.batch_size)

        def parts_from(first: int) -> list[Tensor]:
            return [torch.arange(first, min(first + self.batch_size, count))]

        for number, first in enumerate(firsts):
            (items,) = parts_from(first)
            gathered = self._gathered("validation", firsts[number : number + 1 + _AHEAD], parts_from)
            structure = self.data.structure(items)
            about = (structure.batch, self.data.dim, self.num_noisy)
            if self.pairs is None:
                steps, sample = spread[items], torch.full_like(items, OF_LIKELIHOOD)
                noise = TrajectoryNoise(rng.initial_seed(), items, sample, *about, torch.float32).alone(0)
            else:
                steps, noise = self._last_steps(len(items)), self.pairs.noise(items, *about)
            weight = torch.full((len(items),), 1.0 / count)
            if self.by_nodes:
                weight = torch.from_numpy(self.data.sizes_of(items.numpy()) / every_node).float()
            windows = None if gathered is None else gathered[0]
            draw = Draw(items, steps, weight, noise, None, gathered=windows)
            yield items, self.on_device(draw.to(self.data.device), structure)

    def noised(self, draw: Draw) -> Noised:
        """The graphs of a draw and its noise, on the device of the data."""
        structure = self.data.structure(draw.items)
        return self.on_device(draw.to(self.data.device), structure)

    def on_device(self, draw: Draw, structure: Structure) -> Noised:
        """The same for a draw that is on the device already. Launches alone: a CUDA graph may capture it."""
        batch, steps, weight = self.data.drawn(draw.windows, draw.steps, draw.weight, structure, draw.turn)
        if self.windows is not None and self.windows.num_blocks:
            batch = self.windows.block(batch, self.windows.num_blocks)
        if draw.given is not None:
            batch = replace(batch, x=torch.cat([draw.given, batch.x[..., draw.given.shape[-1] :]], dim=-1))
        if draw.level is not None and draw.context is not None:
            batch = cast(ContextNoise, self.context).added(batch, draw.level, draw.context)
        about_scored = (structure.graph_of_scored, weight, structure.all_scored)
        return Noised(batch, structure.graph, steps, draw.noise, *about_scored, draw.is_free)


def _share(num_graphs: int, rank: int, world_size: int) -> tuple[int, int, bool]:
    """(first, end, counts): process `rank` computes the graphs first .. end - 1 of a global batch of `num_graphs`.

    The shares differ by one graph at most. Where there are fewer graphs than processes, some have none: these compute
    graph 0 with weight 0 (counts False), because every process must take part in the all-reduce.
    """
    first, last = num_graphs * rank // world_size, num_graphs * (rank + 1) // world_size
    return (first, last, True) if first < last else (0, 1, False)
