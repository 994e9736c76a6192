"""The training objective."""

import dataclasses
from collections.abc import Mapping
from typing import cast
from weakref import WeakKeyDictionary

from torch import Tensor

from geotdm_fast.ays.data import check_atoms
from geotdm_fast.conditioning import Frames, frames_of
from geotdm_fast.data import Batch
from geotdm_fast.families import is_ays
from geotdm_fast.graphs import Graph, GraphRule, GraphSpec
from geotdm_fast.graphs.padding import RuleTables, with_tables
from geotdm_fast.nn import EGTN
from geotdm_fast.nn.given_graph import graph_of_frame, num_edge_features
from geotdm_fast.nn.plain import bare
from geotdm_fast.reference import Cell
from geotdm_fast.task import Task
from geotdm_fast.training.batches import Noised
from geotdm_fast.training.conditions import check_told
from geotdm_fast.training.history_windows import HistoryWindows


class Objective:
    """The mean over graphs of the mean over a graph's scored nodes of the diffusion loss.

    For a model of Align Your Structures graphs count by their nodes (`BatchSource.by_nodes`): where all nodes are
    scored, as there, it is the mean over the nodes of a global batch.

    boxes: all periodic boxes that batches may have, or None: read once, so that later nothing waits for the device
    """

    def __init__(self, diffusion, task: Task, boxes: Cell | None = None):
        self.diffusion = diffusion
        self.task = task
        self._boxes = boxes
        # The same where nothing is given, see `Noised.is_free`.
        self._free_task = dataclasses.replace(task, given=()) if task.is_conditional else task
        # Whether graphs by distance take the room that they need, which waits for the device.
        self.grows = True
        self._spec = cast(EGTN, bare(diffusion.denoise_network)).graph_spec
        self._rules: WeakKeyDictionary[Graph, GraphRule] = WeakKeyDictionary()
        self._first: Graph | None = None  # whose rule counts for those of all padded batches
        # Masks of given frames by their identity, with their frames: a captured loss reads the memory of these tensors.
        self._read: dict[int, tuple[Tensor, Frames]] = {}

    def split(self, noised: Noised) -> tuple[Tensor, dict]:
        """x_start [N, D, T_noisy] and model_kwargs, as `Task.split`, with the graph as it is, or its rule."""
        return self.split_batch(noised.batch, noised.graph, self._free_task if noised.is_free else self.task)

    def split_batch(self, batch: Batch, graph: Graph, task: Task | None = None) -> tuple[Tensor, dict]:
        """The same of a batch whose own edges are `graph`; task: another than the objective's.

        The mask of given frames is kept until `forget`, whatever caches drop it.
        """
        x_start, model_kwargs = (task or self.task).split(batch)
        mask = model_kwargs.get("cond_mask")
        if mask is not None:
            self._read[id(mask)] = mask, frames_of(mask)
        if self._spec is None:
            return x_start, model_kwargs | {"graph": graph}
        return x_start, model_kwargs | {"graph": self._graph_by_distance(batch, graph, model_kwargs)}

    def _graph_by_distance(self, batch: Batch, graph: Graph, model_kwargs: dict) -> Graph | GraphRule:
        spec, cell = cast(GraphSpec, self._spec), model_kwargs.get("cell")
        rule = self._rules.get(graph)
        if rule is None:
            rule = spec.rule(batch.edge_index, batch.edge_attr, batch.batch, cell)
            rule = self._rules[graph] = rule if self._boxes is None else rule.for_boxes(self._boxes)
        rule = rule.growing(self.grows).with_cell(cell)
        if spec.bonds:
            rule = rule.with_bond_attr(spec.bond_attr(batch.edge_attr, batch.edge_index))
        if spec.of == "current":
            return rule
        mask = model_kwargs.get("cond_mask")
        return graph_of_frame(rule, batch.x, None if mask is None else frames_of(mask))

    def forget(self) -> None:
        """Let the masks of given frames go that losses have read: there is no capture any more that reads them."""
        self._read.clear()

    @property
    def has_rule(self) -> bool:
        """Whether the network has a graph by distance."""
        return self._spec is not None

    def look_into(self, noised: Noised) -> None:
        """Make the rule of a graph by distance that those of padded batches are made of. Waits for the device."""
        self._first = noised.graph
        self.split(noised)

    def rule_on_host(self, edge_index: Tensor, batch: Tensor) -> GraphRule | None:
        """The rule of a batch on the host, without boxes and features of bonds; None without a graph by distance.

        edge_index: [2, E] in the order that features of edges will have: bonds are known by their number in it
        batch: [N]
        """
        return None if self._spec is None else self._spec.rule(edge_index, None, batch)

    def take(self, graph: Graph, tables: RuleTables | None) -> None:
        """Let the edges by distance of a batch whose own edges are `graph` follow `tables`. Waits for nothing."""
        if tables is not None and self._first is not None:
            self._rules[graph] = with_tables(self._rules[self._first], tables)

    @property
    def is_by_distance(self) -> bool:
        """Whether the network has a graph by distance, whose edges may want more room."""
        return self._spec is not None and self._spec.radius is not None

    def overflowed(self) -> bool:
        """Whether edges were missing since the last `enlarge`, for want of room. Waits for the device."""
        return any(rule.overflowed() for rule in self._rules.values())

    def enlarge(self) -> None:
        """Make the room that was wanting."""
        for rule in self._rules.values():
            if rule.overflowed():
                rule.enlarge()

    def loss(self, noised: Noised) -> Tensor:
        """[] float - these graphs' part of the global batch's mean loss: all parts add up to it.

        In a `trusted` block nothing waits for the device but at the first call: a CUDA graph may capture it.
        """
        x_start, model_kwargs = self.split(noised)
        terms = self.diffusion.training_losses(
            x_start=x_start, t=noised.steps, model_kwargs=model_kwargs, noise=noised.noise.to(x_start.dtype)
        )
        loss = terms["loss"] if noised.all_scored else terms["loss"][noised.batch.scored]
        # Sums of fixed order (no atomics), so that every run gives the same bits.
        return (loss * noised.weight).sum()


def check_fits(config: Mapping, dataset, where: str) -> int:
    """Raise ValueError unless the network's sizes are those of the data; return the number of noisy frames.

    where: train or val; windows of train are longer where `train.block_history` says so
    """
    if is_ays(config):
        check_atoms(config["denoise_model"]["ft_dim"], dataset, f"data.{where} ({dataset.name})")
        return Task.of_config(config).num_noisy(dataset[0].num_frames)
    item, network = dataset[0], config["denoise_model"]
    task, num_frames = Task.of_config(config), item.num_frames
    if where == "train":
        num_frames = HistoryWindows.of(config, num_frames, dataset.name).num_frames
    noisy = task.num_noisy(num_frames)
    edge_dim = num_edge_features(item.edge_attr, GraphSpec.parse(network.get("graph")))
    for key, came, told in (("node_dim", item.h.shape[1], task.num_told), ("edge_dim", edge_dim, 0)):
        if network[key] != came + told:
            more = f" and train.context_noise_told, which is {told} more" if told else ""
            raise ValueError(
                f"denoise_model.{key} must be {came + told} for data.{where} ({dataset.name}){more}, got {network[key]}"
            )
    check_told(config, dataset, f"data.{where} ({dataset.name})")
    learned = network["learn_ref_frame"] and config["diffusion"]["prior"] in (None, "learned")
    if task.is_conditional and learned and network["num_w"] != noisy:
        raise ValueError(f"denoise_model.num_w must be {noisy}, the frames to predict, got {network['num_w']}")
    return noisy
