"""Rollouts: forecasts that go on beyond the model's window, each block given the last frames of the one before."""

import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

from geotdm_fast.data.trajectory import Batch
from geotdm_fast.diffusion.sampler import Sampler
from geotdm_fast.nn.egtn import EGTN
from geotdm_fast.nn.evaluating import evaluating
from geotdm_fast.nn.plain import bare
from geotdm_fast.reference.row_sums import mean_by_graph, take_rows
from geotdm_fast.samples.blocks import Block
from geotdm_fast.sampling.batches import Drawer, Inputs, check_counts, draw_whole
from geotdm_fast.sampling.rollout_blocks import Rollout
from geotdm_fast.task import Task


def roll_out(
    sampler: Sampler,
    batch: Batch,
    task: Task,
    rollout: Rollout,
    *,
    num_samples: int,
    seed: int,
    batch_size: int | None = None,
    progress: bool = True,
) -> Tensor:
    """Draw `num_samples` trajectories of `rollout.num_frames` frames behind the given ones of every graph of `batch`.

    batch: all graphs, with G frames or more; frames behind the given ones are not looked at
    Other arguments, randomness and errors as for `sample`; every block has noise of its own (`TrajectoryNoise`), block
    0 that of `sample`.
    returns: [K, N, D, num_frames] on the CPU, in the network's dtype and `batch.x`'s unit

    A trajectory that explodes, see `Rollout.bound`, is NaN from that block on, and a warning names the first. Raises
    ValueError where every trajectory explodes in the first block.
    """
    check_counts("rollout", num_samples=num_samples, batch_size=batch_size, seed=seed)
    drawer = RolloutDrawer(sampler, batch, task, seed, rollout)
    samples = draw_whole(drawer, batch.num_graphs, num_samples, batch_size, progress)
    at_once = sum(one.block == 0 for one in drawer.exploded)
    drawer.tell("rollout", samples)
    if at_once == batch.num_graphs * num_samples:
        raise ValueError(f"rollout: all {at_once} trajectories explode in block 1 of {rollout.num_blocks}")
    return samples


class Exploded(NamedTuple):
    """A trajectory that exploded, and in which block, from 0."""

    block: int
    graph: int
    sample: int

    def __str__(self) -> str:
        return f"sample {self.sample} of graph {self.graph} in block {self.block + 1}"


class RolloutDrawer(Drawer):
    """Draws blocks of rolled-out trajectories; a drawn batch goes through all blocks of the rollout.

    exploded: the trajectories that did so in what was drawn since `tell`
    """

    def __init__(self, sampler: Sampler, batch: Batch, task: Task, seed: int, rollout: Rollout):
        self.rollout = rollout
        self.exploded: list[Exploded] = []
        super().__init__(sampler, batch, task, seed)
        self._batch = rollout.first_batch(batch)  # of the size that a call of the network has
        self._reach = rollout.bound * _largest_displacement(self._batch, rollout.num_given)

    @property
    def num_steps(self) -> int:
        return self.rollout.num_blocks * self._sampler.num_steps

    def record(self, graphs: range) -> Batch:
        return self.rollout.record(self.pick(graphs))

    def tell(self, where: str, drawn: Tensor) -> None:
        """Warn of the trajectories that exploded, and forget them."""
        if not self.exploded:
            return
        first, bound = min(self.exploded), self.rollout.bound
        why = "positions are not finite"
        if 0 < self._reach < float("inf"):
            why += (
                f", or move farther than {self._reach:.3g} within a block ({bound:g} times the given frames' largest)"
            )
        warnings.warn(
            f"{where}: {len(self.exploded)} trajectories explode, the first, {first} of {self.rollout.num_blocks}: "
            f"{why}; they are NaN from that block on",
            stacklevel=3,
        )
        self.exploded = []

    def default_shard_size(self) -> int:
        # On CUDA a shard bounds the batch, and a large one is fast: what it costs grows from sixteen blocks on.
        longer = self.rollout.num_blocks if self.device.type != "cuda" else -(-self.rollout.num_blocks // 16)
        return max(1, super().default_shard_size() // longer)

    def _trial(self) -> "RolloutDrawer":
        """For a measurement of memory: two blocks have all that more have."""
        most = min(self.rollout.num_frames, self.rollout.num_drawn + 1)
        return RolloutDrawer(self._sampler, self._whole, self._task, self._seed, replace(self.rollout, num_frames=most))

    def _split(self, graphs: Tensor) -> tuple[Tensor, dict]:
        diffusion = self._sampler.diffusion
        batch = self.rollout.first_batch(self.pick(graphs))
        return self._task.split(batch.to(self.device, diffusion.dtype))

    def _draw_batch(self, sampler: Sampler, block: Block, step: Callable[[], None]) -> Tensor:
        graph, sample = self._numbers(block)
        rollout, kept = self.rollout, []
        with evaluating(sampler.diffusion.denoise_network):
            inputs = self._inputs(block)
            of_node = cast(Tensor, inputs.model_kwargs["batch"])
            given = cast(Tensor, inputs.model_kwargs["x_given"])[..., : rollout.num_given]
            state = _State.of(given, of_node, len(graph))
            for number in range(rollout.num_blocks):
                if number and not state.all_exploded:
                    inputs = self._following(block, inputs, number, state)
                if state.all_exploded:
                    break
                drawn = self._drawn(sampler, inputs, graph, sample, step, number)
                kept.append(state.take(drawn, rollout, self._reach, number).cpu())
        missing = rollout.num_frames - sum(part.shape[-1] for part in kept)
        whole = torch.cat([*kept, kept[0].new_full((*kept[0].shape[:-1], missing), float("nan"))], dim=-1)
        for place, number in enumerate(state.exploded_in.tolist()):
            if number >= 0:
                self.exploded.append(Exploded(number, int(graph[place]), int(sample[place])))
        return whole.unflatten(0, (len(block.samples), -1))

    def _following(self, block: Block, before: Inputs, number: int, state: "_State") -> Inputs:
        """The inputs of a later block, whose prior is finite: what it is not of explodes in this block."""
        inputs = self._inputs_of(block, before, number, state.given)
        if inputs.x_ref is None:
            return inputs
        broken = ~_all_by_trajectory(inputs.x_ref.isfinite().flatten(1).all(1), state)
        if not bool(broken.any()):
            return inputs
        state.explode(broken, number)
        return self._inputs_of(block, before, number, state.given)

    def _inputs_of(self, block: Block, before: Inputs, number: int, given: Tensor) -> Inputs:
        """The inputs of a later block: other given frames, and what depends on them or on the frames' numbers."""
        rollout, diffusion = self.rollout, self._sampler.diffusion
        model_kwargs = before.model_kwargs | {"x_given": rollout.with_room(given)}
        if rollout.changes_over_time(self._batch):
            made = () if rollout.features is None else ("h",)
            model_kwargs |= self._own_fields(block, number, made)
        if rollout.features is not None:
            h = rollout.features(given, rollout.window).to(model_kwargs["h"])
            num_nodes, num_features, *frames = model_kwargs["h"].shape
            expected = [num_nodes, num_features - self._task.num_told, *frames]
            if list(h.shape) != expected:
                raise ValueError(f"rollout: features must make h {expected} of the given frames, got {list(h.shape)}")
            model_kwargs["h"] = self._task.with_level(h)
        spec = cast(EGTN, bare(diffusion.denoise_network)).graph_spec
        if spec is not None and spec.of == "given":
            model_kwargs.pop("graph", None)
            model_kwargs = self._with_graph(model_kwargs)
        return before._replace(model_kwargs=model_kwargs, x_ref=diffusion.get_ref_frame(model_kwargs))

    def _own_fields(self, block: Block, number: int, made: tuple[str, ...]) -> dict[str, Any]:
        """What the data say of the frames of a block; not what is made of the given ones."""
        graphs = torch.arange(block.graphs.start, block.graphs.stop).repeat(len(block.samples))
        whole = self.pick(graphs)
        batch = self.rollout.fields_of(whole, number)
        batch.x = batch.x[..., :1]  # not read
        told = batch.to(self.device, self._sampler.diffusion.dtype).model_kwargs()
        told["h"] = self._task.with_level(told["h"])
        return {name: value for name, value in told.items() if name not in ("edge_index", "batch", *made)}


class _State:
    """The trajectories of a batch between two blocks of a rollout.

    given: [N, D, G] - the given frames of the next block, moved to where the first block was
    offset: [n, D] float64 - how far each trajectory was moved by; exploded_in: [n] int64 - the block, -1 for none
    """

    def __init__(self, given: Tensor, of_node: Tensor, home: Tensor, offset: Tensor, exploded_in: Tensor):
        self.given, self.of_node, self.home = given, of_node, home
        self.offset, self.exploded_in, self.all_exploded = offset, exploded_in, False
        self._first = given

    @classmethod
    def of(cls, given: Tensor, of_node: Tensor, num_trajectories: int) -> "_State":
        home = mean_by_graph(given[..., -1].double(), of_node)
        exploded_in = torch.full((num_trajectories,), -1, device=given.device)
        return cls(given, of_node, home, torch.zeros_like(home), exploded_in)

    def take(self, drawn: Tensor, rollout: Rollout, reach: float, number: int) -> Tensor:
        """What block `number` drew [N, D, T - G]: the frames to keep, in their true places; `given` moves on.

        reach: how far a node may be from its last given place; 0 for any finite distance
        Reads one number back from the device.
        """
        far = (drawn.double() - self.given[..., -1:].double()).norm(dim=1)  # [N, T - G]
        is_good = far.isfinite() & ((far <= reach) if reach > 0 else True)
        self.explode(~_all_by_trajectory(is_good.all(dim=1), self), number)
        is_broken = take_rows(self.exploded_in >= 0, self.of_node)[:, None, None]
        kept = drawn[..., : rollout.kept(number)]
        if number and rollout.recentres:
            kept = (kept.double() + take_rows(self.offset, self.of_node)[:, :, None]).to(drawn.dtype)
        kept = kept.masked_fill(is_broken, float("nan"))
        given = torch.cat([self.given, drawn], dim=-1)[..., rollout.step : rollout.step + rollout.num_given]
        if rollout.recentres:
            shift = mean_by_graph(given[..., -1].double(), self.of_node) - self.home
            self.offset = self.offset + shift
            given = (given.double() - take_rows(shift, self.of_node)[:, :, None]).to(drawn.dtype)
        self.given = torch.where(is_broken, self._first, given)
        return kept

    def explode(self, broken: Tensor, number: int) -> None:
        """Trajectories [n] bool explode in a block. They go on from where they began: the network sees no explosion."""
        self.exploded_in = torch.where(broken & (self.exploded_in < 0), number, self.exploded_in)
        is_broken = self.exploded_in >= 0
        self.given = torch.where(take_rows(is_broken, self.of_node)[:, None, None], self._first, self.given)
        self.all_exploded = bool(is_broken.all())


def _all_by_trajectory(of_nodes: Tensor, state: _State) -> Tensor:
    """[n] bool: of which trajectories a bool [N] is true for every node."""
    every = torch.ones(len(state.offset), dtype=torch.int32, device=of_nodes.device)
    return every.scatter_reduce(0, state.of_node, of_nodes.int(), "amin") > 0


def _largest_displacement(batch: Batch, num_given: int) -> float:
    """The largest displacement of a node from the first given frame; of one that does not move, from its centre."""
    given = batch.x[..., :num_given].double()
    largest = float((given - given[..., :1]).norm(dim=1).max())
    if largest > 0:
        return largest
    centre = take_rows(mean_by_graph(given[..., 0], batch.batch), batch.batch)
    return float((given[..., 0] - centre).norm(dim=1).max())
