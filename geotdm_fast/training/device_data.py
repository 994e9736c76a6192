"""A data set in a few tensors on the device, and batches that are cut out of them there."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from geotdm_fast import ops
from geotdm_fast.data import Batch, Trajectory, TrajectoryDataset
from geotdm_fast.data.cache import StoredWindows
from geotdm_fast.data.conditions import ToldEach
from geotdm_fast.data.periodic import boxes_of
from geotdm_fast.data.trajectory import description
from geotdm_fast.data.windows import Joined, Windows
from geotdm_fast.graphs import Graph
from geotdm_fast.reference import BatchLayout, Cell, CutBatch, WindowTables
from geotdm_fast.reference.row_sums import mean_by_graph, remember_num_graphs
from geotdm_fast.runtime.checks import check_finite, check_index
from geotdm_fast.runtime.copies import to_device
from geotdm_fast.training.device_boxes import DeviceBoxes

# Columns of the table of windows.
_X, _FRAMES, _H, _EDGE_ATTR = range(4)


@dataclass(frozen=True, eq=False)
class Structure:
    """Everything of a batch that does not depend on which windows are in it: sizes, edges, and the graph of each part.

    All tensors are on the device. Batches of one size share a structure where all trajectories have the same graph.

    batch: [N] int64 - the graph of each node; node: [N] int64 - its number within that graph
    graph: the edges of the batch, edge_index [2, E]
    graph_of_edge: [E] int64 - the graph of each edge; edge: [E] int64 - its number within that graph
    scored: [M] int64 - the nodes that the loss counts; graph_of_scored: [M] int64 - the graph of each
    share_of_scored: [M] float32 - 1 / (number of scored nodes of that graph)
    num_graphs: B
    all_scored: whether `scored` is 0..N-1
    """

    batch: Tensor
    node: Tensor
    graph: Graph
    graph_of_edge: Tensor
    edge: Tensor
    scored: Tensor
    graph_of_scored: Tensor
    share_of_scored: Tensor
    num_graphs: int
    all_scored: bool

    @property
    def layout(self) -> BatchLayout:
        """Who belongs to whom."""
        return BatchLayout(
            self.batch, self.node, self.graph_of_edge, self.edge, self.graph_of_scored, self.share_of_scored
        )


class DeviceData:
    """All trajectories of a data set in a few tensors on `device`, from which `batch` cuts the windows of a batch.

    `batch` gives what `collate` gives for the same trajectories. Overlapping windows share their frames, and
    trajectories of one molecule share features and edges, so that memory is that of the data. The constructor checks
    all values once: positions must be finite, edges and scored nodes must lie within their graph. Windows in files are
    read into memory; `StreamedData` leaves them in the files.

    sizes: [trajectories] - nodes of each, on the host
    num_frames, dim: T and D of every trajectory
    Raises ValueError naming the data set for trajectories that differ in D, T, F or A, and for bad values.
    """

    def __init__(self, dataset: TrajectoryDataset, device: torch.device | str = "cpu"):
        self.name, self.device = dataset.name, torch.device(device)
        blocks = [own if isinstance(own, Windows) else own.in_memory() for own in blocks_of_items(dataset.items)]
        self.num_frames, self.dim = blocks[0].span, blocks[0].x.shape[2]
        self.project = blocks[0].project
        self._check_alike(blocks)
        graphs = Graphs()
        tables, first_x, first_h, first_attr = [], 0, 0, 0
        for block in blocks:
            places = np.asarray(block.places, dtype=np.int64).reshape(-1, 2)
            trajectory, start = places.T
            _, num_nodes, dim, frames = block.x.shape
            table = np.empty((len(places), 5), dtype=np.int64)
            table[:, _X] = first_x + trajectory * (num_nodes * dim * frames) + start
            table[:, _FRAMES] = frames
            table[:, _H] = first_h + trajectory * row_step(block.h)
            table[:, _EDGE_ATTR] = first_attr + (
                0 if block.edge_attr is None else trajectory * row_step(block.edge_attr)
            )
            table[:, -1] = graphs.number(num_nodes, block.edge_index, block.scored)
            tables.append(table)
            first_x += block.x.numel()
            first_h += len(rows_of_all(block.h))
            first_attr += 0 if block.edge_attr is None else len(rows_of_all(block.edge_attr))
        table = np.concatenate(tables)
        self._graph_of, self._graphs = table[:, -1], graphs
        self.sizes = graphs.num_nodes()[self._graph_of]
        first = torch.from_numpy(table[:, :-1].copy()).to(self.device)

        def joined(parts):
            return torch.cat(parts) if len(parts) > 1 else parts[0]

        x = joined([block.x.reshape(-1) for block in blocks]).float()
        check_finite("DeviceData", f"the positions of {self.name}", x)
        graphs.check(self.name)

        def rows_of(values):
            return joined([rows_of_all(value) for value in values]).float().to(self.device).contiguous()

        h, edge_attr = rows_of([block.h for block in blocks]), None
        if blocks[0].edge_attr is not None:
            edge_attr = rows_of([block.edge_attr for block in blocks])
        self._tables = WindowTables(first, x.to(self.device), h, edge_attr, self.dim, self.num_frames)
        self._boxes = DeviceBoxes.of(self.name, blocks, self.device)
        self._condition_names = blocks[0].condition_names
        self._conditions: Tensor | None = None  # [trajectories, C]
        if self._condition_names:
            rows = [cast(Tensor, block.conditions).expand(len(block), -1) for block in blocks]
            self._conditions = joined(rows).float().to(self.device).contiguous()
        self._structures: dict[int, Structure] = {}

    def __len__(self) -> int:
        return len(self._graph_of)

    def sizes_of(self, items: np.ndarray) -> np.ndarray:
        """The nodes of the trajectories `items` [B] int64: [B]."""
        return self.sizes[items]

    def _graph_numbers(self, items: np.ndarray) -> np.ndarray:
        """Which of the different graphs the trajectories `items` [B] have: [B]."""
        return self._graph_of[items]

    @property
    def same_graph(self) -> bool:
        """Whether all trajectories have the same nodes and edges: then batches of one size have one `Structure`."""
        return len(self._graphs) == 1

    @property
    def boxes(self) -> Cell | None:
        """All periodic boxes, [M, 1, 3, 3]; None where the data have none."""
        return None if self._boxes is None else self._boxes.every

    def structure(self, items: Tensor) -> Structure:
        """The `Structure` of the batch of the trajectories `items` [B] int64, which are on the host.

        Where `same_graph` holds, equal sizes give the same object. Nothing waits for the device.
        """
        if not self.same_graph:
            return self._graphs.structure(self._graph_numbers(items.numpy()), self.device)
        if len(items) not in self._structures:
            self._structures[len(items)] = self._graphs.structure(np.zeros(len(items), dtype=np.int64), self.device)
        return self._structures[len(items)]

    def batch(self, items: Tensor, structure: Structure, turn: Tensor | None = None) -> Batch:
        """The batch of the trajectories `items` [B] int64, which are on the device; equal to what `collate` gives.

        structure: of these trajectories, by `structure`
        turn: [B, D, D] float32 - positions and box of graph b are multiplied by turn[b]; None: they stay
        Nothing waits for the device: a CUDA graph may capture the call.
        """
        return self._batch(self._cut(items, structure), items, structure, turn)

    def drawn(
        self, windows: Any, steps: Tensor, weight: Tensor, structure: Structure, turn: Tensor | None = None
    ) -> tuple[Batch, Tensor, Tensor]:
        """The batch of `batch`, and what a loss needs of every node: diffusion steps [N] and weights [M].

        windows: [B] int64 - trajectories, on the device; of `StreamedData` what its `gather` returned
        steps: [B] int64 - diffusion step of each graph, which each of its nodes gets
        weight: [B] float32 - weight of each graph, which is divided evenly among its M_b scored nodes
        """
        cut = self._cut(windows, structure, steps, weight)
        return self._batch(cut, windows, structure, turn), cast(Tensor, cut.steps), cast(Tensor, cut.weight)

    # Of windows as `drawn` takes them:

    def _cut(self, windows: Any, structure: Structure, *steps_and_weight: Tensor) -> CutBatch:
        return ops.cut_windows(self._tables, structure.layout, windows, *steps_and_weight)

    def _boxes_of(self, windows: Any, turn: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
        return (None, None) if self._boxes is None else self._boxes.batch(windows, turn)

    def _conditions_of(self, windows: Any) -> Tensor | None:
        return None if self._conditions is None else self._conditions[windows]

    def _batch(self, cut: CutBatch, windows: Any, structure: Structure, turn: Tensor | None) -> Batch:
        x = cut.x
        if self.project:
            x = x - mean_by_graph(x.mean(dim=-1), structure.batch)[structure.batch].unsqueeze(-1)
        if turn is not None:
            x = turn[structure.batch] @ x
        cell, pbc = self._boxes_of(windows, turn)
        return Batch(
            x=x,
            h=cut.h,
            edge_index=structure.graph.edge_index,
            edge_attr=cut.edge_attr,
            scored=structure.scored,
            batch=structure.batch,
            num_graphs=structure.num_graphs,
            cell=cell,
            pbc=pbc,
            conditions=self._conditions_of(windows),
            condition_names=self._condition_names,
        )

    def _check_alike(self, blocks: Sequence[Windows | StoredWindows]) -> None:
        described = lambda block: description(block[0]) | {"project": block.project}
        expected = described(blocks[0])
        for i, block in enumerate(blocks):
            for name, came in described(block).items():
                if came != expected[name]:
                    raise ValueError(
                        f"DeviceData: {name} of {self.name} must be {expected[name]} in all trajectories, as in the "
                        f"first, got {came} in part {i}"
                    )


class Graphs:
    """The different graphs (nodes, edges, scored nodes) of a data set, each stored once and known by its number."""

    def __init__(self):
        self._known: list[tuple[int, Tensor, Tensor]] = []
        self._by_object: dict[tuple, int] = {}
        self._by_content: dict[tuple, int] = {}

    def __len__(self) -> int:
        return len(self._known)

    def number(self, num_nodes: int, edge_index: Tensor, scored: Tensor) -> int:
        """The number of this graph; a graph that is not there yet is added."""
        same_object = (num_nodes, id(edge_index), id(scored))
        if same_object not in self._by_object:
            content = (num_nodes, edge_index.numpy().tobytes(), scored.numpy().tobytes())
            number = self._by_content.setdefault(content, len(self._known))
            if number == len(self._known):
                self._known.append((num_nodes, edge_index, scored))
                # Only of a graph that is kept: the id of one that goes may be that of another later.
                self._by_object[same_object] = number
            return number
        return self._by_object[same_object]

    def num_nodes(self) -> np.ndarray:
        return np.array([num_nodes for num_nodes, _, _ in self._known])

    def check(self, name: str) -> None:
        """Raise ValueError unless edges and scored nodes are within their graphs, and each graph scores a node."""
        for num_nodes, edge_index, scored in self._known:
            check_index("DeviceData", f"edge_index of {name}", edge_index, num_nodes)
            check_index("DeviceData", f"scored of {name}", scored, num_nodes)
            if len(scored) == 0:
                raise ValueError(f"DeviceData: scored of {name} must hold a node of every graph, got none")

    def structure(self, graphs: np.ndarray, device: torch.device) -> Structure:
        """The `Structure` of a batch of the graphs with these numbers; made on the host, copied without waiting."""
        known = [self._known[number] for number in graphs]
        sizes = torch.tensor([num_nodes for num_nodes, _, _ in known])
        first_node = sizes.cumsum(0) - sizes
        batch, node = _numbered(sizes)
        graph_of_edge, edge = _numbered(torch.tensor([edge_index.shape[1] for _, edge_index, _ in known]))
        counts = torch.tensor([len(scored) for _, _, scored in known])
        graph_of_scored, _ = _numbered(counts)
        edge_index = torch.cat([edge_index for _, edge_index, _ in known], dim=1).long() + first_node[graph_of_edge]
        scored = torch.cat([scored for _, _, scored in known]) + first_node[graph_of_scored]
        there = lambda tensor: to_device(tensor, device)
        structure = Structure(
            batch=there(batch),
            node=there(node),
            graph=Graph.static(edge_index, len(batch)).to(device),
            graph_of_edge=there(graph_of_edge),
            edge=there(edge),
            scored=there(scored),
            graph_of_scored=there(graph_of_scored),
            share_of_scored=there((1.0 / counts[graph_of_scored].double()).float()),
            num_graphs=len(known),
            all_scored=torch.equal(scored, torch.arange(len(batch))),
        )
        remember_num_graphs(structure.batch, len(known))
        return structure


def _numbered(counts: Tensor) -> tuple[Tensor, Tensor]:
    """For groups of the sizes `counts` in a row: the group of every member, and its number within the group."""
    group = torch.repeat_interleave(counts)
    return group, torch.arange(len(group)) - (counts.cumsum(0) - counts)[group]


def blocks_of_items(items: Sequence[Trajectory]) -> list[Windows | StoredWindows]:
    """`items` as windows of shared tensors, or of files; a trajectory that shares nothing is a window of its own.

    Raises ValueError for windows of files that have numbers of their own as conditions: all would be read into memory.
    """
    if isinstance(items, (Windows, StoredWindows)):
        return [items]
    if isinstance(items, ToldEach) and items.in_files:
        raise ValueError(
            f"the conditions {', '.join(items.names)} of windows that lie in a cache must be one number for each file, "
            "as conditions of the data section gives them, got one for each window; without cache they may be"
        )
    if isinstance(items, Joined):
        return [block for part in items.parts for block in blocks_of_items(part)]
    blocks: list[Windows | StoredWindows] = []
    for item in items:
        edge_attr = None if item.edge_attr is None else item.edge_attr[None]
        block = Windows(
            item.x[None],
            [(0, 0)],
            item.num_frames,
            item.h[None],
            item.edge_index,
            edge_attr,
            boxes=boxes_of(item),
        )
        block.scored = item.scored
        block.conditions, block.condition_names = item.conditions, item.condition_names
        blocks.append(block)
    return blocks


def row_step(value: Tensor) -> int:
    """Rows of `rows_of_all(value)` from one trajectory to the next, for value [B, rows, ...]."""
    return 0 if value.stride(0) == 0 else value.shape[1]


def rows_of_all(value: Tensor) -> Tensor:
    """[B, rows, ...] to [B rows, ...]; [rows, ...] where all trajectories are one expanded in memory."""
    return value[0] if value.stride(0) == 0 else value.flatten(0, 1)
