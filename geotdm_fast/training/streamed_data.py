"""A data set whose windows lie in files: each batch's are read on the host, and go to the device with its noise."""

import os
import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import NamedTuple, cast

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from geotdm_fast import ops
from geotdm_fast.data import Batch, TrajectoryDataset
from geotdm_fast.data.cache import StoredWindows
from geotdm_fast.data.windows import Windows
from geotdm_fast.reference import Cell, CutBatch, WindowTables
from geotdm_fast.runtime.checks import check_finite
from geotdm_fast.training.device_boxes import checked_vectors
from geotdm_fast.training.device_data import (
    DeviceData,
    Graphs,
    Structure,
    blocks_of_items,
    row_step,
    rows_of_all,
)

# Files that are open at a time, of many replicas; a system allows a thousand.
_OPEN_FILES = 64


class Gathered(NamedTuple):
    """The windows of a batch, cut on the host.

    x: [sum of N D T] float32 - positions, [N, D, T] of each graph, one after the other
    first: [B, 4] int64 - as `WindowTables.first`, with places in this x
    cell: [B, 1 or T, 3, 3] float32 and pbc: [B, 3] bool, or None
    conditions: [B, C] float32, or None
    """

    x: Tensor
    first: Tensor
    cell: Tensor | None
    pbc: Tensor | None
    conditions: Tensor | None

    def map(self, change: Callable[[Tensor], Tensor]) -> "Gathered":
        """The same with `change` of every tensor."""
        return tree_map_only(Tensor, change, self)


class StreamedData(DeviceData):
    """A `TrajectoryDataset` of which some windows are `StoredWindows`; batches equal those of `DeviceData` bit for bit.

    Features and edges are on the device, positions stay in the files. `gather` reads the positions of a batch into
    memory, in any thread; `drawn` takes what it returns where `DeviceData.drawn` takes the numbers of trajectories.

    Raises ValueError as `DeviceData` does; positions in files were looked at when they were written.
    """

    def __init__(self, dataset: TrajectoryDataset, device: torch.device | str = "cpu"):
        self.name, self.device = dataset.name, torch.device(device)
        blocks = blocks_of_items(dataset.items)
        self.num_frames, self.project = blocks[0].span, blocks[0].project
        self._check_alike(blocks)
        self.dim = _shape_of(blocks[0])[1]
        self.graphs, self._structures = Graphs(), {}
        self._blocks = blocks
        self._ends = np.cumsum([len(block) for block in blocks])
        # Of each block: nodes, the number of its graph, its first rows of h and edge_attr.
        table, first_h, first_attr = [], 0, 0
        for block in blocks:
            number = self.graphs.number(_shape_of(block)[0], block.edge_index, block.scored)
            table.append((_shape_of(block)[0], number, first_h, first_attr))
            first_h += len(rows_of_all(block.h))
            first_attr += 0 if block.edge_attr is None else len(rows_of_all(block.edge_attr))
            if isinstance(block, Windows):
                check_finite("DeviceData", f"the positions of {self.name}", block.x)
        self._table = np.array(table, dtype=np.int64)
        self.graphs.check(self.name)
        rows = lambda values: torch.cat([rows_of_all(value) for value in values]).float().to(self.device).contiguous()
        edge_attr = None if blocks[0].edge_attr is None else rows([cast(Tensor, block.edge_attr) for block in blocks])
        nothing = torch.zeros(0, device=self.device)
        self._tables = WindowTables(
            nothing.long(), nothing, rows([block.h for block in blocks]), edge_attr, self.dim, self.num_frames
        )
        self._vectors = [None if b.boxes is None else checked_vectors(self.name, b.boxes).cpu() for b in blocks]
        self._box_frames = max((1 if v is None or v.shape[1] == 1 else self.num_frames) for v in self._vectors)
        self._condition_names = blocks[0].condition_names
        told = [cast(Tensor, block.conditions) for block in blocks] if self._condition_names else None
        self._conditions_of_blocks = None if told is None else torch.stack(told).float().cpu()  # [blocks, C]
        self._open_files: OrderedDict[int, int] = OrderedDict()
        # Training and validation read ahead in a thread each: none may close a file that the other reads.
        self._reading = threading.Lock()

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __del__(self) -> None:
        for descriptor in getattr(self, "_open_files", {}).values():
            os.close(descriptor)

    @property
    def boxes(self) -> Cell | None:
        """All periodic boxes, [M, 1, 3, 3]; None where the data have none."""
        if self._vectors[0] is None:
            return None
        vectors = torch.cat([cast(Tensor, own).flatten(0, 1) for own in self._vectors]).to(self.device)
        pbc = torch.stack([block.boxes.pbc for block in self._blocks if block.boxes is not None]).any(0)
        return Cell(vectors[:, None], pbc.to(self.device).expand(len(vectors), 3))

    def sizes_of(self, items: np.ndarray) -> np.ndarray:
        """The nodes of the trajectories `items` [B] int64: [B]."""
        return self._table[self._block_of(items), 0]

    def _block_of(self, items: np.ndarray) -> np.ndarray:
        return np.searchsorted(self._ends, items, side="right")

    def graph_numbers(self, items: np.ndarray) -> np.ndarray:
        return self._table[self._block_of(items), 1]

    def gather(self, items: Tensor) -> Gathered:
        """The windows `items` [B] int64, read into memory that is pinned where they go to a GPU.

        The same for the same items, in whatever thread; of two at once one waits. Raises ValueError naming a file that
        was cut meanwhile.
        """
        with self._reading:
            gathered = self._gather(items.numpy())
        return gathered if self.device.type != "cuda" else gathered.map(Tensor.pin_memory)

    def _gather(self, numbers: np.ndarray) -> Gathered:
        block = self._block_of(numbers)
        within = numbers - np.concatenate([[0], self._ends[:-1]])[block]
        nodes = self._table[block, 0]
        sizes = nodes * (self.dim * self.num_frames)
        ends = np.cumsum(sizes)
        x = np.empty(int(ends[-1]), dtype=np.float32)
        first = np.empty((len(numbers), 4), dtype=np.int64)
        first[:, 0], first[:, 1] = ends - sizes, self.num_frames
        cell = None if self._vectors[0] is None else torch.empty(len(numbers), self._box_frames, 3, 3, device="cpu")
        pbc = None if cell is None else torch.empty(len(numbers), 3, dtype=torch.bool, device="cpu")
        for i, (b, end) in enumerate(zip(block.tolist(), ends.tolist(), strict=True)):
            own = self._blocks[b]
            out = x[end - int(sizes[i]) : end].reshape(int(nodes[i]), self.dim, self.num_frames)
            trajectory, start = self._read(b, own, int(within[i]), out)
            first[i, 2] = self._table[b, 2] + trajectory * row_step(own.h)
            first[i, 3] = self._table[b, 3] + (0 if own.edge_attr is None else trajectory * row_step(own.edge_attr))
            if cell is not None and pbc is not None:
                vectors = cast(Tensor, self._vectors[b])
                vectors = vectors[trajectory if len(vectors) > 1 else 0]
                cell[i] = vectors if len(vectors) == 1 else vectors[start : start + self.num_frames]
                pbc[i] = own.boxes.pbc
        told = self._conditions_of_blocks
        conditions = None if told is None else told[torch.from_numpy(block)]
        return Gathered(torch.from_numpy(x), torch.from_numpy(first), cell, pbc, conditions)

    def _read(self, number: int, block: Windows | StoredWindows, window: int, out: np.ndarray) -> tuple[int, int]:
        """Read a window into out [N, D, T]; the trajectory and the frame at which it begins."""
        if isinstance(block, Windows):
            trajectory, start = map(int, block.places[window])
            out[:] = block.x[trajectory, :, :, start : start + block.span].numpy()
            return trajectory, start
        start = int(block.starts(np.array([window]))[0])
        frames = np.empty((block.span, block.num_nodes, block.dim), dtype=np.float32)
        block.frames.read_into(self._descriptor(number, block.frames.open), start, frames)
        out[:] = frames.transpose(1, 2, 0)
        return 0, start

    def _descriptor(self, number: int, open_file: Callable[[], int]) -> int:
        """The open file of a block; of many blocks those that were used last stay open."""
        if number in self._open_files:
            self._open_files.move_to_end(number)
            return self._open_files[number]
        if len(self._open_files) >= _OPEN_FILES:
            os.close(self._open_files.popitem(last=False)[1])
        self._open_files[number] = open_file()
        return self._open_files[number]

    def batch(self, items: Tensor, structure: Structure, turn: Tensor | None = None) -> Batch:
        """The trajectories `items` [B] int64, read, on the device, as `collate` would lay them side by side."""
        gathered = self.gather(items).map(lambda tensor: tensor.to(self.device))
        return self._batch(self._cut(gathered, structure), gathered, structure, turn)

    def _cut(self, windows: Gathered, structure: Structure, *steps_and_weight: Tensor) -> CutBatch:
        tables = self._tables._replace(first=windows.first, x=windows.x)
        places = torch.arange(len(windows.first), device=self.device)
        return ops.cut_windows(tables, structure.layout, places, *steps_and_weight)

    def _boxes_of(self, windows: Gathered, turn: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
        cell = windows.cell
        return cell if cell is None or turn is None else cell @ turn[:, None].mT, windows.pbc

    def _conditions_of(self, windows: Gathered) -> Tensor | None:
        return windows.conditions


def data_for_training(dataset: TrajectoryDataset, device: torch.device | str) -> DeviceData:
    """The data set on the device, or `StreamedData` where windows of it lie in files."""
    stored = any(isinstance(block, StoredWindows) for block in blocks_of_items(dataset.items))
    return StreamedData(dataset, device) if stored else DeviceData(dataset, device)


def _shape_of(block: Windows | StoredWindows) -> tuple[int, int]:
    """N and D of a block."""
    if isinstance(block, StoredWindows):
        return block.num_nodes, block.dim
    return block.x.shape[1], block.x.shape[2]
