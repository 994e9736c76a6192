"""The samples of a set of graphs, with the truth beside them."""

from dataclasses import dataclass, replace

import numpy as np
import torch

from geotdm_fast.conditioning import frames_known
from geotdm_fast.data.trajectory import Batch, TrajectoryDataset
from geotdm_fast.samples.conversions import Convertible
from geotdm_fast.task import Task


@dataclass(frozen=True, repr=False)
class Samples(Convertible):
    """Samples of a set of graphs, with the truth beside them. Graphs lie side by side as in `Batch`.

    samples: [K, N, D, T_noisy] float32 - what the model drew
    target: [N, D, T_noisy] float32 - the same frames of the data; [N, D, 0] where they are unknown; NaN in the last
        frames of a rollout that goes on where the data end
    x_given: [N, D, T_given] float32 - the frames that were given (T_given = 0: an unconditional model)
    cond_mask: [T] bool - True where a frame was given
    batch: [N] int64 - the graph of every node, ascending
    scored: [M] int64 - the nodes that count in the scores
    h: [N, F] or [N, F, T] float32 - node features
    edge_index: [2, E] int64
    atomic_numbers: [N] int64 for molecules, else [0]
    scale: positions times `scale` are in `unit`
    name, mode, checkpoint: the data set, 'cond' or 'uncond', and the file that the model came from
    origin: [num_graphs, D] float64 or None - what is missing from all positions of a graph, which are far from 0; in a
        file only where there is one
    experiment: which of the paper's experiments these data are the test data of, '' if none is known
    cell: [num_graphs, 1 or T, 3, 3] float32 or None - the vectors of the periodic boxes of the data, as rows, in the
        unit of the stored positions; T where a box changes from frame to frame. In a file only where there is one
    pbc: [num_graphs, 3] bool, with cell - the directions that are periodic
    frame_time: the time between two frames, in the unit of the data's times (ps in formats of simulation packages); in
        a file only where it is known
    conditions: [num_graphs, C] float32 or None - the numbers that the network was told of each graph; condition_names:
        [C] text, with conditions. In a file only where there are any
    method, num_steps: the method of the `Sampler` that drew them, and its calls of the network (of a rollout, in each
        block); None, and not in the file, where that is not known
    """

    samples: np.ndarray
    target: np.ndarray
    x_given: np.ndarray
    cond_mask: np.ndarray
    batch: np.ndarray
    scored: np.ndarray
    h: np.ndarray
    edge_index: np.ndarray
    atomic_numbers: np.ndarray
    scale: float
    unit: str
    name: str
    mode: str
    seed: int
    checkpoint: str
    origin: np.ndarray | None = None
    experiment: str = ""
    cell: np.ndarray | None = None
    pbc: np.ndarray | None = None
    frame_time: float | None = None
    conditions: np.ndarray | None = None
    condition_names: np.ndarray | None = None
    method: str | None = None
    num_steps: int | None = None

    def __repr__(self) -> str:
        from geotdm_fast.cards.samples import samples_card

        return samples_card(self).as_text()

    def _repr_html_(self) -> str:
        from geotdm_fast.cards.samples import samples_card, samples_picture

        return samples_card(self).as_html(samples_picture(self))

    @property
    def num_graphs(self) -> int:
        return int(self.batch[-1]) + 1

    @property
    def num_samples(self) -> int:
        return self.samples.shape[0]

    @property
    def is_molecule(self) -> bool:
        return len(self.atomic_numbers) > 0

    @property
    def has_target(self) -> bool:
        """Whether the frames that were drawn are known."""
        return self.target.shape[-1] == self.samples.shape[-1]

    @property
    def num_known(self) -> int:
        """How many of the drawn frames, from the first on, are known in the data."""
        if not self.has_target:
            return 0
        unknown = np.flatnonzero(np.isnan(self.target).any(axis=(0, 1)))
        return int(unknown[0]) if len(unknown) else self.target.shape[-1]

    def until_known(self) -> "Samples":
        """The same up to the last frame that is known in the data."""
        num_known = self.num_known
        if num_known in (0, self.samples.shape[-1]):
            return self
        drawn = np.flatnonzero(~self.cond_mask)
        last = int(drawn[num_known - 1]) + 1
        return replace(
            self,
            samples=self.samples[..., :num_known],
            target=self.target[..., :num_known],
            x_given=self.x_given[..., : int(self.cond_mask[:last].sum())],
            cond_mask=self.cond_mask[:last],
            h=self.h[..., :last] if self.h.ndim == 3 else self.h,
            cell=None if self.cell is None else self.cell[:, :last],
        )

    def check_target(self, where: str) -> None:
        """Raise ValueError where the frames that were drawn are unknown: what `where` does needs them."""
        if not self.has_target:
            raise ValueError(f"{where}: there is no truth in these samples of {self.name}, which end with given frames")

    def nodes(self, graph: int) -> slice:
        """The nodes of a graph."""
        return slice(*np.searchsorted(self.batch, [graph, graph + 1]).tolist())

    def truth(self, absolute: bool = True, *, graph: int | None = None) -> np.ndarray:
        """[N, D, T] float32 (unit) - given and target frames, each in its place; NaN where the target is unknown.

        absolute: with the origin, where there is one, in float64
        graph: the nodes of this graph alone; None: of all
        """
        nodes = slice(None) if graph is None else self.nodes(graph)
        target = self.target[nodes]
        unknown = np.full((*target.shape[:-1], self.samples.shape[-1]), np.nan, target.dtype)
        return self._merge(target if self.has_target else unknown, nodes, absolute)

    def forecasts(self, absolute: bool = True, *, graph: int | None = None, samples: range | None = None) -> np.ndarray:
        """[K, N, D, T] float32 (unit) - given and sampled frames, each in its place; absolute, graph: as of `truth`.

        samples: these alone, of consecutive numbers; None: all
        """
        nodes = slice(None) if graph is None else self.nodes(graph)
        drawn = self.samples if samples is None else self.samples[samples.start : samples.stop]
        return self._merge(drawn[:, nodes], nodes, absolute)

    def forecast_cell(self) -> np.ndarray | None:
        """[num_graphs, 1 or T, 3, 3] float32 (unit) - the boxes of `forecasts`: of a frame that was drawn the box that
        the network was told, see `known_cell`, since that of the data is not known then; None without boxes."""
        if self.cell is None or self.cell.shape[1] == 1:
            return self._in_unit(self.cell)
        given = np.flatnonzero(self.cond_mask).tolist()
        return self._in_unit(self.cell[:, frames_known(given, len(self.cond_mask))])

    def truth_cell(self) -> np.ndarray | None:
        """[num_graphs, 1 or T, 3, 3] float32 (unit) - the boxes of `truth`, those of the data; None without boxes."""
        return self._in_unit(self.cell)

    def _in_unit(self, cell: np.ndarray | None) -> np.ndarray | None:
        return None if cell is None else cell * np.float32(self.scale)

    def _merge(self, noisy: np.ndarray, nodes: slice, absolute: bool) -> np.ndarray:
        """Given frames and `noisy` ones of the same nodes."""
        whole = np.empty((*noisy.shape[:-1], len(self.cond_mask)), noisy.dtype)
        whole[..., self.cond_mask] = self.x_given[nodes]
        whole[..., ~self.cond_mask] = noisy
        if self.origin is None or not absolute:
            return whole * np.float32(self.scale)
        return (whole + self.origin[self.batch[nodes]][:, :, None]) * self.scale


def make_samples(
    samples: torch.Tensor,
    batch: Batch,
    dataset: TrajectoryDataset,
    task: Task,
    *,
    seed: int,
    checkpoint: str,
    method: str | None = None,
    num_steps: int | None = None,
    first_graph: int = 0,
) -> Samples:
    """Put what `sampling.sample` drew for `batch` together with the truth and the data set's metadata.

    seed, checkpoint, method, num_steps: see `Samples`
    first_graph: the place in `dataset` of the first graph of `batch`
    """
    if task.is_conditional:
        given = task.mask(batch.x.shape[-1]).flatten().bool().numpy()
    else:
        given = np.zeros(samples.shape[-1], bool)
    x = batch.x.cpu().numpy().astype(np.float32)[..., : len(given)]
    graphs = range(first_graph, first_graph + batch.num_graphs)
    numbers = [dataset.numbers_of(i) for i in graphs] if dataset.atomic_numbers is not None else []
    return Samples(
        samples=samples.cpu().numpy().astype(np.float32),
        target=x[..., ~given] if batch.has_target else x[..., :0],
        x_given=x[..., given],
        cond_mask=given,
        batch=batch.batch.cpu().numpy(),
        scored=batch.scored.cpu().numpy(),
        h=batch.h.cpu().numpy().astype(np.float32),
        edge_index=batch.edge_index.cpu().numpy(),
        atomic_numbers=np.concatenate([np.zeros(0, np.int64), *map(np.asarray, numbers)]),
        scale=float(dataset.scale),
        unit=dataset.unit,
        name=dataset.name,
        mode=task.mode,
        seed=int(seed),
        checkpoint=checkpoint,
        origin=None if batch.origin is None else batch.origin.cpu().numpy(),
        experiment=dataset.experiment or "",
        cell=None if batch.cell is None else batch.cell[:, : len(given)].cpu().numpy().astype(np.float32),
        pbc=None if batch.pbc is None else batch.pbc.cpu().numpy(),
        frame_time=dataset.frame_time,
        conditions=None if batch.conditions is None else batch.conditions.cpu().numpy().astype(np.float32),
        condition_names=None if batch.conditions is None else np.array(batch.condition_names),
        method=method,
        num_steps=num_steps,
    )
