"""Draw the trajectories of a block of graphs and samples, in batches that fit."""

import warnings
from collections.abc import Callable, Iterator
from typing import NamedTuple, cast

import torch
from torch import Tensor

from geotdm_fast.data.trajectory import Batch
from geotdm_fast.diffusion.noise import TrajectoryNoise
from geotdm_fast.diffusion.sampler import Sampler
from geotdm_fast.graphs import Graph
from geotdm_fast.graphs.padding import padded_rows
from geotdm_fast.graphs.spec import FIRST_CAPACITY
from geotdm_fast.nn.egtn import why_no_room
from geotdm_fast.nn.evaluating import evaluating
from geotdm_fast.runtime.buckets import Sizes
from geotdm_fast.runtime.checks import check_whole
from geotdm_fast.runtime.cuda_graphs import CaptureCache
from geotdm_fast.runtime.memory import FAILURES, first_line, is_out_of_memory
from geotdm_fast.runtime.shown import shown
from geotdm_fast.samples.blocks import Block
from geotdm_fast.sampling.batch_size import default_batch_size, default_shard_size, measured_batch_size, release_memory
from geotdm_fast.sampling.graphs import GraphPicker
from geotdm_fast.sampling.padding import Room, padded
from geotdm_fast.sampling.progress import TrajectoryBar
from geotdm_fast.task import Task

# Beyond it even the list of batches does not fit into memory.
MOST_COUNT = 10**9


def sample(
    sampler: Sampler,
    batch: Batch,
    task: Task,
    *,
    num_samples: int,
    seed: int,
    batch_size: int | None = None,
    progress: bool = True,
) -> Tensor:
    """Draw `num_samples` trajectories for every graph of `batch`.

    sampler: `Sampler` - the model, the method and its steps
    batch: all graphs; conditional models read the given frames from `batch.x`, unconditional ones only its shape
    task: which frames are given, see `Task`
    seed: 0 ... 2^64 - 1; the same seed gives the same samples, whatever their number and the batch_size
    batch_size: most trajectories in one call of the network; None: by the graphs' size on the CPU, on CUDA as many as
        fit, which is measured. Where memory runs out it is halved, with a warning.
    returns: [K, N, D, T_noisy] on the CPU, in the network's dtype - the frames that were not given, in `batch.x`'s unit

    Random: each (graph, sample) has noise of its own (`TrajectoryNoise`), and torch's generators are left alone. What
    is drawn differs by rounding alone between batch sizes and devices.
    Raises ValueError for counts and seeds out of range, TypeError for what is no whole number, MemoryError where one
    trajectory alone does not fit; warns when a sample is not finite.
    """
    check_counts("sample", num_samples=num_samples, batch_size=batch_size, seed=seed)
    samples = draw_whole(Drawer(sampler, batch, task, seed), batch.num_graphs, num_samples, batch_size, progress)
    broken = int((~torch.isfinite(samples)).flatten(1).any(1).sum())
    if broken:
        warnings.warn(f"sample: {broken} of {num_samples} samples hold values that are not finite", stacklevel=2)
    return samples


def draw_whole(drawer: "Drawer", num_graphs: int, num_samples: int, batch_size: int | None, progress: bool) -> Tensor:
    """All samples of all graphs, [K, N, D, frames], in batches of the size given or one that fits, with a bar."""
    whole = Block(range(num_graphs), range(num_samples))
    drawer.batch_size = batch_size or drawer.fitting_batch_size(whole)
    with TrajectoryBar(whole.size, show=progress) as bar:
        return drawer.draw(whole, bar)


def check_counts(where: str, *, seed: int, **counts: int | None) -> None:
    """TypeError for what is no whole number, ValueError for a count under one or over a thousand million, or a negative
    seed; a count of None is let through."""
    given = {name: value for name, value in counts.items() if value is not None}
    for name, value, least in [*((name, value, 1) for name, value in given.items()), ("seed", seed, 0)]:
        value = check_whole(where, name, value)
        if value < least:
            raise ValueError(f"{where}: {name} must be at least {least}, got {value}")
        if name != "seed" and value > MOST_COUNT:
            raise ValueError(f"{where}: {name} must be at most {MOST_COUNT}, got {shown(value)}")


class Drawer:
    """Draws blocks of the trajectories of `batch`; arguments as of `sample`.

    batch_size: most trajectories at once; to be set before `draw`, which halves it when memory runs out
    """

    batch_size = 1

    def __init__(self, sampler: Sampler, batch: Batch, task: Task, seed: int):
        task.check_mode("sample", sampler.diffusion.task_mode)
        self.device = torch.device(sampler.diffusion.device)
        self.pick = GraphPicker(batch)
        self._sampler, self._whole, self._batch, self._task, self._seed = sampler, batch, batch, task, seed
        self._prepared: Inputs | None = None
        self._room = FIRST_CAPACITY  # of graphs by the given frames, where steps are captured
        self._padding: Room | None = None

    @property
    def num_steps(self) -> int:
        """Calls of the network for a batch."""
        return self._sampler.num_steps

    def record(self, graphs: range) -> Batch:
        """The data of these graphs, with all the frames that a trajectory has."""
        return self.pick(graphs)

    def tell(self, where: str, drawn: Tensor) -> None:
        """Warn where what was drawn is not finite."""
        if not bool(drawn.isfinite().all()):
            warnings.warn(f"{where} holds values that are not finite", stacklevel=4)

    def fitting_batch_size(self, block: Block) -> int:
        """A batch size for `block`: on CUDA measured, with steps of the largest graph; on the CPU by the graphs' size.

        On the CPU it depends on the request alone, so that the same request is rounded alike everywhere.
        """
        if self.device.type != "cuda":
            return min(block.size, default_batch_size(self._batch, self.device))
        largest = int(torch.bincount(self._batch.batch, minlength=self._batch.num_graphs).argmax())

        trial = self._trial()

        def draw(size: int) -> None:
            sampler = _anew(self._sampler, min(2, self._sampler.num_steps))
            trial._draw_batch(sampler, Block(range(largest, largest + 1), range(size)), lambda: None)
            trial._prepared = None

        return measured_batch_size(draw, block.size, self.device)

    def default_shard_size(self) -> int:
        """Trajectories of a shard, by the graphs' size: a kill costs a minute or so."""
        return default_shard_size(self._batch, self.device)

    def _trial(self) -> "Drawer":
        """What draws a batch whose memory is measured."""
        return self

    def draw(self, block: Block, bar: TrajectoryBar) -> Tensor:
        """[K, N, D, T_noisy] on the CPU, of the block's samples and of its graphs' nodes."""
        nodes = self.pick.nodes(block.graphs)
        samples: Tensor | None = None
        for part, drawn in self._parts(block, bar):
            if samples is None:
                samples = drawn.new_empty(len(block.samples), nodes.stop - nodes.start, *drawn.shape[2:])
            own = self.pick.nodes(part.graphs)
            first = part.samples.start - block.samples.start
            place = slice(own.start - nodes.start, own.stop - nodes.start)
            samples[first : first + len(part.samples), place] = drawn
        return cast(Tensor, samples)  # a block has a part

    def _parts(self, block: Block, bar: TrajectoryBar) -> Iterator[tuple[Block, Tensor]]:
        """The block in batches, each with its [k, n, D, T_noisy]."""
        waiting = block.split(self.batch_size)[::-1]
        self._padding = self._padding_of(waiting)
        while waiting:
            part, full = waiting.pop(), None
            try:
                with bar.batch(part.size, self.num_steps) as step:
                    drawn = self._draw_batch(self._sampler, part, step)
            except FAILURES as error:
                if not is_out_of_memory(error):
                    raise
                full = first_line(error)
            # Outside of the handler, whose traceback keeps the tensors alive.
            if full is None:
                yield part, drawn
            else:
                waiting = self._shrink([*waiting, part], full)

    def _shrink(self, waiting: list[Block], message: str) -> list[Block]:
        """Half of the batch size that did not fit, with the memory of what was kept for it released.

        waiting: the batches that are left, of which the last did not fit; returns them in smaller ones
        """
        size = waiting[-1].size
        if size == 1:
            raise MemoryError(f"sample: one trajectory alone does not fit into the memory of {self.device}: {message}")
        self.batch_size = -(-size // 2)
        self._prepared = None
        # What the sampler keeps for shapes that it has seen goes with it.
        self._sampler = _anew(self._sampler, self._sampler.num_steps)
        release_memory(self.device)
        warnings.warn(
            f"sample: {size} trajectories at once do not fit into the memory of {self.device}; going on with "
            f"{self.batch_size}",
            stacklevel=2,
        )
        waiting = [part for block in waiting for part in block.split(self.batch_size)[::-1]]
        self._padding = self._padding_of(waiting)
        return waiting

    def _draw_batch(self, sampler: Sampler, block: Block, step: Callable[[], None]) -> Tensor:
        graph, sample = self._numbers(block)
        with evaluating(sampler.diffusion.denoise_network):
            inputs = self._inputs(block)
            drawn = self._drawn(sampler, inputs, graph, sample, step)
        return drawn.cpu().unflatten(0, (len(block.samples), -1))

    def _drawn(
        self,
        sampler: Sampler,
        inputs: "Inputs",
        graph: Tensor,
        sample: Tensor,
        step: Callable[[], None],
        rollout_block: int = 0,
    ) -> Tensor:
        """[N, D, T_noisy]: what the sampler draws of trajectories graph, sample [n], padded where that is wanted."""
        num_nodes, dim, num_frames = inputs.shape
        kwargs, x_ref = inputs.model_kwargs, inputs.x_ref
        if self._padding is not None:
            kwargs, total = padded(kwargs, len(graph), self._padding)
            graph, sample = padded_rows(graph, total), padded_rows(sample, total)
            x_ref = None if x_ref is None else padded_rows(x_ref, len(kwargs["batch"]))
        batch = kwargs["batch"]
        about = (graph, sample, batch, dim, num_frames, inputs.dtype, rollout_block)
        noise = TrajectoryNoise(self._seed, *about)
        drawn = sampler.draw((len(batch), dim, num_frames), kwargs, noise, progress=step, x_ref=x_ref)
        return drawn[:num_nodes]

    def _padding_of(self, batches: list[Block]) -> Room | None:
        """What these batches are padded to, so that they have no more sizes than captures are kept; None: they are not.

        That is where steps are not captured, where the network is given no graph that could be padded, as by a subclass
        of `GeoTDM`, and where the sizes are few as they are: of one graph, of alike ones.
        """
        diffusion = self._sampler.diffusion
        if not (self._is_captured and diffusion.reads_graph) or why_no_room(diffusion.denoise_network) is not None:
            return None
        most = cast(CaptureCache, diffusion.captures).capacity
        sizes = [tuple(len(b.samples) * count for count in self.pick.sizes(b.graphs)) for b in batches]
        if len(set(sizes)) <= most:
            return None
        return Room(Sizes.at_most(most, sizes), *self.pick.largest)

    @staticmethod
    def _numbers(block: Block) -> tuple[Tensor, Tensor]:
        """graph, sample [n] int64 of the trajectories of a batch, in their order."""
        graph = torch.arange(block.graphs.start, block.graphs.stop).repeat(len(block.samples))
        return graph, torch.arange(block.samples.start, block.samples.stop).repeat_interleave(len(block.graphs))

    def _inputs(self, block: Block) -> "Inputs":
        """The block's graphs once for every sample, sample by sample, on the device; their prior is computed once.

        Kept for the next batch, which shares them and their sorted edges if it draws as many samples of the same
        graphs.
        """
        key = (block.graphs, len(block.samples))
        if self._prepared is None or self._prepared.key != key:
            self._prepared = None
            graphs = torch.arange(block.graphs.start, block.graphs.stop)
            x_start, model_kwargs = self._split(graphs.repeat(len(block.samples)))
            model_kwargs = self._with_graph(model_kwargs)
            x_ref = None
            if self._sampler.diffusion.mode == "cond":
                alone = model_kwargs if len(block.samples) == 1 else self._split(graphs)[1]
                x_ref = cast(Tensor, self._sampler.diffusion.get_ref_frame(alone)).repeat(len(block.samples), 1, 1)
            self._prepared = Inputs(key, tuple(x_start.shape), x_start.dtype, model_kwargs, x_ref)
        return self._prepared

    @property
    def _is_captured(self) -> bool:
        captures = self._sampler.diffusion.captures
        return captures is not None and (self.device.type == "cuda" or captures.record is not None)

    def _with_graph(self, model_kwargs: dict) -> dict:
        """`model_kwargs` with the graph of a batch. Where steps are captured, one by the given frames has as much room
        as the ones before: a capture serves all of one size."""
        model_kwargs = self._sampler.diffusion.with_graph(model_kwargs, self._room if self._is_captured else None)
        graph = model_kwargs.get("graph")
        if self._is_captured and isinstance(graph, Graph) and graph.capacity is not None:
            self._room = max(self._room, graph.capacity)
        return model_kwargs

    def _split(self, graphs: Tensor) -> tuple[Tensor, dict]:
        """The graphs of these numbers, as the network takes them."""
        diffusion = self._sampler.diffusion
        return self._task.split(self.pick(graphs).to(self.device, diffusion.dtype))


class Inputs(NamedTuple):
    """What the batches of the same graphs, and of as many samples, have in common.

    shape: of the positions to draw, [N, D, T_noisy]; x_ref: [N, D, 1 or T_noisy], None in mode `uncond`."""

    key: tuple[range, int]
    shape: tuple[int, ...]
    dtype: torch.dtype
    model_kwargs: dict
    x_ref: Tensor | None


def _anew(sampler: Sampler, num_steps: int) -> Sampler:
    """The same sampler with nothing kept in it, and so many steps."""
    return Sampler(sampler.diffusion, sampler.method, num_steps, sampler.spacing, sampler.eta)
