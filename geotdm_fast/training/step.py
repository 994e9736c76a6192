"""One training step: loss, backward, all-reduce, clipping, optimiser, average; on CUDA a graph that is replayed."""

from collections.abc import Callable, Mapping, Sequence
from typing import cast

import torch
from torch import Tensor

from geotdm_fast.nn.egtn import why_no_room
from geotdm_fast.runtime.checks import trusted
from geotdm_fast.runtime.copies import to_device
from geotdm_fast.runtime.cuda_graphs import CaptureCache, Recorder
from geotdm_fast.runtime.memory import FAILURES, first_line
from geotdm_fast.runtime.processes import Processes
from geotdm_fast.training.batches import BatchSource, Draw
from geotdm_fast.training.block_history import BlockHistory
from geotdm_fast.training.device_data import Structure
from geotdm_fast.training.ema import WeightAverage
from geotdm_fast.training.flat_weights import FlatWeights
from geotdm_fast.training.objective import Objective
from geotdm_fast.training.optimizer import Optimizer
from geotdm_fast.training.padding import PaddedStructure, Padding

# Graphs that are kept of what is not padded. Data of one graph need 9 at most: a full batch and a smaller last one have
# parts of two sizes each, on either side of a coin; the update has one graph.
_KEPT = 16

# A function of what is captured, its inputs and its structure.
_Call = tuple[Callable, tuple | Tensor, Structure | PaddedStructure | None]


class TrainingStep:
    """Moves `weights` by one step (`Optimizer`) on the mean loss of a global batch; nothing waits for the device.

    The gradient is the sum over the parts of the batch (one after another) and over the processes. A step on CUDA is
    one captured graph for each size of batch; with several parts or processes two: one for the gradient of a part, one
    for what follows the all-reduce. Where a coin says whether frames are given (`BatchSource.free_share`), there is one
    for either side of it. Where the graphs of the data differ, batches are padded to a few sizes (`Padding`), and the
    `cuda_graph_sizes` graphs that were used last are kept, with a coin at least two. Graphs share the memory that they
    work in: those of padded batches, and all others. On other devices, and where a capture fails, the same Python runs
    eagerly, and nothing is padded.

    train: the section of the configuration; source: the batches; average: moved too, or None
    say: told in a line how many sizes there are where batches are padded, and why a step on CUDA is not captured
    history: draws the given frames of every step before it, or None
    record: makes the graph (`Captured`); by default a CUDA graph, and none on other devices

    sums: [2] float64, on the device - this process's share of the loss and of the gradient norm, summed over the steps
        since the log was written; NaN once one of them was. Reading them waits for the device
    """

    def __init__(
        self,
        train: Mapping,
        objective: Objective,
        weights: FlatWeights,
        average: WeightAverage | None,
        source: BatchSource,
        ours: Processes,
        *,
        history: BlockHistory | None = None,
        say: Callable[[str], None] = print,
        record: Recorder | None = None,
    ):
        self.objective, self.weights, self.average, self.source, self.ours = objective, weights, average, source, ours
        self.clip = train["clip"] or float("inf")
        device = weights.flat.device
        self.optimizer = Optimizer(train["optimizer"], weights, train["weight_decay"])
        self.sums = torch.zeros(2, dtype=torch.float64, device=device)

        self._in_parts = train["accumulate"] > 1 or ours.world_size > 1
        self._record, self._say = record, say
        # Of what is not padded. They run one after the other and return nothing, so they can work in the same memory.
        self._captures = CaptureCache(_KEPT, record, shares_memory=True)
        self._padding: Padding | None = None
        self._said_more = False  # that more captures are needed than are kept
        self.captures = (device.type == "cuda" or record is not None) and train["cuda_graph"]
        self._may_capture, self._overflowed = False, False
        self._history = history
        objective.grows = not self.captures
        if history is not None:
            history.capture(on=self.captures, record=record)
        if self.captures and not source.data.same_graph:
            self._pad(train["cuda_graph_sizes"])
        # The same on all processes, which may give up one by one later.
        self._may_capture = self.captures

    @property
    def may_overflow(self) -> bool:
        """Whether edges of a graph by distance may be missing for want of room on some process, see `Rewind`.

        The same on all processes.
        """
        return self._may_capture and self.objective.is_by_distance

    def overflowed(self) -> bool:
        """Whether edges were missing here since the last `enlarge`, for want of room. Waits for the device."""
        return self._overflowed or self.objective.overflowed()

    def enlarge(self) -> None:
        """Make room for edges that were missing; what was captured is of another size."""
        self.objective.enlarge()
        self._overflowed = False
        self._forget()
        self.mark_changed()

    @property
    def num_padded(self) -> int:
        """How many captures of padded batches there are now; 0 where batches are not padded."""
        return 0 if self._padding is None else len(self._padded)

    @property
    def state(self) -> list[Tensor]:
        """Every tensor that a step changes."""
        average = [] if self.average is None else [self.average.tensor]
        return [self.weights.flat, cast(Tensor, self.weights.flat.grad), *self.optimizer.state, *average, self.sums]

    def mark_changed(self) -> None:
        """Let what others keep about the weights lapse: a step does not tell them."""
        self.weights.mark_changed()
        if self.average is not None:
            self.average.weights.mark_changed()

    def named_state(self) -> dict[str, Tensor]:
        """Views of what a resume needs: `weights.`, `average.`, `adam.exp_avg.` and so on of all names, `adam.step`."""
        moments = self.optimizer.moments
        parts = {"weights.": self.weights.flat, "adam.exp_avg.": moments["exp_avg"]}
        parts["adam.exp_avg_sq."] = moments["exp_avg_sq"]
        if self.average is not None:
            parts["average."] = self.average.tensor
        named = {
            prefix + name: view for prefix, flat in parts.items() for name, view in self.weights.named(flat).items()
        }
        return named | {"adam.step": moments["step"]}

    def __call__(self, parts: Sequence[Draw], rate: float, number: int) -> None:
        """The `number`-th step (from 1) of learning rate `rate`, on this process's parts of its global batch."""
        share = 0.0 if self.average is None else self.average.share(number)
        coefficients = to_device(torch.tensor([rate, share]), self.weights.flat.device)
        if not self._in_parts:
            (draw,) = parts
            draw, structure = self._there(draw, number)
            self._run(self._whole, (draw, coefficients), structure)
            return
        for draw in parts:
            self._run(self._gradient, *self._there(draw, number))
        self.ours.add_up(cast(Tensor, self.weights.flat.grad))
        self._run(self._update, coefficients, None)

    def _there(self, draw: Draw, number: int) -> tuple[Draw, Structure | PaddedStructure]:
        """The draw on the device, with its given frames where `history` makes them, and the structure of its batch.

        number: of the training step, from 1, of which the random numbers of `history` are a function
        """
        device = self.weights.flat.device
        known: Structure | PaddedStructure
        if self._padding is None:
            known = self._structure(draw)
        else:
            draw, padded = self._padding(draw)
            known = padded.to(device)
        draw = draw.to(device)
        if self._history is None:
            return draw, known
        self.weights.mark_changed()
        structure = self._plain(known)
        return draw._replace(given=self._history.given(draw, structure, number - 1)), known

    def _structure(self, draw: Draw) -> Structure:
        return self.source.data.structure(draw.items)

    def _plain(self, structure: Structure | PaddedStructure) -> Structure:
        """The `Structure` that `BatchSource.on_device` reads, made from a padded one where that came.

        It launches kernels and waits for nothing, so that a CUDA graph may capture it.
        """
        if isinstance(structure, Structure):
            return structure
        plain = structure.structure()
        self.objective.take(plain.graph, structure.rule)
        return plain

    def _run(self, function: Callable, inputs: tuple | Tensor, structure: Structure | PaddedStructure | None) -> None:
        if not (self.captures and self._replay((function, inputs, structure))):
            function(inputs, structure)

    def _replay(self, call: _Call) -> bool:
        """Replay the CUDA graph of a call, captured first, if there is none yet.

        All structures of one size share a graph where they are padded: the structure is one of its inputs.
        False, with nothing run, where it cannot be captured.
        """
        is_padded = isinstance(call[2], PaddedStructure)
        captures = self._padded if is_padded else self._captures
        try:
            captured = captures.borrow(_called, call, state=self.state)
        except FAILURES as error:
            self._give_up(first_line(error))
            return False
        captured.replay()
        captures.give_back(captured)
        if is_padded:
            self._say_more()
        return True

    def _say_more(self) -> None:
        """Say once that padded batches need more captures than are kept."""
        most = self._padded.capacity
        chains = 0 if self._history is None else self._history.made
        if max(self._padded.made, chains) > most and not self._said_more:
            self._said_more = True
            self._say(
                f"train: batches need more than {most} CUDA graphs: they are made again and again, in "
                "the time of a few steps each; a larger train.cuda_graph_sizes keeps more"
            )

    def _give_up(self, why: str) -> None:
        self.captures = False
        # From here on the room grows, and no longer tells.
        self._overflowed = self.may_overflow and self.overflowed()
        self.objective.grows = True
        self._forget()
        self._padding = None
        if self._history is not None:
            self._history.capture(on=False, record=None)
        self._say(f"train: the step runs without a CUDA graph: {why}")

    def _pad(self, most: int) -> None:
        """Batches of different graphs are padded from now on, to about as many sizes as have `most` CUDA graphs.

        Not where the network may not see that.
        """
        why_not = why_no_room(self.objective.diffusion.denoise_network)
        if why_not is not None:
            self._give_up(f"the graphs of data.train differ, and {why_not}")
            return
        coin = 0 < self.source.free_share < 1
        most = max(most, 2) if coin else most  # a size has two
        self._padding = padding = Padding(self.source, self.objective, most // 2 if coin else most)
        self._padded = CaptureCache(most, self._record, shares_memory=True)
        if self._history is not None:
            self._history.capture(on=True, record=self._record, sizes=most)
        both = ", each with and without given frames" if coin else ""
        self._say(
            f"train: the graphs of data.train differ: the first {padding.looked_at} batches are padded to "
            f"{padding.number} sizes of nodes and edges{both}; at most {most} CUDA graphs are kept"
        )

    def _forget(self) -> None:
        """Let all captures go."""
        self._captures.clear()
        if self._padding is not None:
            self._padded.clear()
        if self._history is not None:
            self._history.forget()
        self.objective.forget()

    # --- what is captured -----------------------------------------------------------------------------------------

    def _whole(self, inputs: tuple[Draw, Tensor], structure: Structure | PaddedStructure) -> None:
        draw, coefficients = inputs
        self._gradient(draw, structure)
        self._update(coefficients, None)

    def _gradient(self, draw: Draw, structure: Structure | PaddedStructure) -> None:
        """Add a part's gradient and loss."""
        with trusted():
            loss = self.objective.loss(self.source.on_device(draw, self._plain(structure)))
        self.weights.backward(loss)
        self.sums[0].add_(loss.detach())

    def _update(self, coefficients: Tensor, structure: None) -> None:
        """Clip and use the gradient, and leave zeros. coefficients: [2] - learning rate, share of the average."""
        norm = self.optimizer.update(coefficients, self.clip, self.average)
        # Every process has the same norm; their shares of it add up to it.
        self.sums[1].add_(norm, alpha=1 / self.ours.world_size)


def _called(call: _Call) -> None:
    """What a captured graph runs. `CaptureCache` copies all tensors in `call` before each replay.

    Those of a `PaddedStructure` are among them. A `Structure` stays the same object.
    """
    function, inputs, structure = call
    function(inputs, structure)
