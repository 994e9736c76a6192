"""One graph's trajectory, a data set of them, and the one function that batches them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import cast, overload

import torch
from torch import Tensor

from geotdm_fast.data.fields import Fields, further_names, join_field
from geotdm_fast.data.periodic import join_boxes
from geotdm_fast.reference import Cell


@dataclass(repr=False, eq=False)
class Trajectory(Fields):
    """A geometric trajectory of one graph; further fields can be set, see `Fields`.

    x: [N, D, T] float - positions, D = 2 or 3
    h: [N, F] or [N, F, T] float - invariant node features
    edge_index: [2, E] int64 - row 0 the receiver, row 1 the sender
    edge_attr: [E, A] float or None - edge features
    scored: [M] int64 - the nodes that count in the loss and the scores (pedestrians: the person asked about)
    origin: [D] float64 or None - what was subtracted from the stored positions, which are x + origin: far from 0
        float32 cannot tell neighbouring places apart
    has_target: whether the frames that are to be drawn are known; where not, they hold nothing that means anything
    cell: [3, 3] or [T, 3, 3] float - the vectors of the periodic box, as rows, in the unit of x; [T, 3, 3] where it
        changes from frame to frame; None: no box
    pbc: [3] bool - the directions that are periodic; None: all, where there is a cell
    conditions: [C] float32 - numbers that a network is told, such as the temperature, see
        `geotdm_fast.data.conditions`; None: no numbers; no other dtype is put upon them
    condition_names: their names, in alphabetical order
    """

    x: Tensor
    h: Tensor
    edge_index: Tensor
    edge_attr: Tensor | None
    scored: Tensor
    origin: Tensor | None = None
    has_target: bool = True
    cell: Tensor | None = None
    pbc: Tensor | None = None
    conditions: Tensor | None = None
    condition_names: tuple[str, ...] = ()

    @property
    def num_frames(self) -> int:
        return self.x.shape[-1]


@dataclass(repr=False, eq=False)
class Batch(Fields):
    """Graphs laid side by side as one graph with no edges between them. Fields as in `Trajectory`, and

    batch: [N] int64 - the graph of each node, ascending
    num_graphs: how many graphs there are
    origin: [num_graphs, D] float64 or None - 0 for graphs that have none; no dtype is put upon it
    has_target: the same for all graphs
    cell: [num_graphs, 1 or T, 3, 3] float - the boxes, T where that of a graph changes; None: no graph has one
    pbc: [num_graphs, 3] bool, with cell
    conditions: [num_graphs, C] float32 - of every graph, in the order of condition_names; None: no numbers
    """

    x: Tensor
    h: Tensor
    edge_index: Tensor
    edge_attr: Tensor | None
    scored: Tensor
    batch: Tensor
    num_graphs: int
    origin: Tensor | None = None
    has_target: bool = True
    cell: Tensor | None = None
    pbc: Tensor | None = None
    conditions: Tensor | None = None
    condition_names: tuple[str, ...] = ()

    def __repr__(self) -> str:
        from geotdm_fast.cards.batch import batch_card

        try:
            return batch_card(self).as_text()
        except Exception:  # tensors without numbers (meta), fields that are None: a debugger shows them, too
            return super().__repr__()

    def _repr_html_(self) -> str | None:
        from geotdm_fast.cards.batch import batch_card, batch_picture

        try:
            return batch_card(self).as_html(batch_picture(self))
        except Exception:  # as above; a notebook shows the text for None
            return None

    @property
    def ptr(self) -> Tensor:
        """[B + 1] int64 - the nodes of graph g are ptr[g] .. ptr[g + 1] - 1."""
        return torch.searchsorted(self.batch, torch.arange(self.num_graphs + 1, device=self.batch.device))

    def rows_of(self, name: str) -> list[int] | None:
        """How many rows each graph has in a further field, as it was batched; None for one that was set later."""
        return vars(self).get("_rows", {}).get(name)

    def remember_rows(self, name: str, rows: list[int]) -> None:
        """Tell `rows_of` how many rows each graph has in a further field."""
        self._rows = vars(self).get("_rows", {}) | {name: rows}

    def to_data_list(self) -> list[Trajectory]:
        """The graphs one by one, further fields included.

        Raises ValueError for a field set after batching that has rows for neither nodes, graphs nor edges.
        """
        from geotdm_fast.data.separate import separate

        return separate(self)

    def model_kwargs(self) -> dict:
        """The keyword arguments that `GeoTDM` hands to the network, without the conditioning.

        `cell`, a `geotdm_fast.reference.Cell`, is among them where there are boxes, and `conditions` where there are
        any.
        """
        own: dict = {"h": self.h, "edge_index": self.edge_index, "edge_attr": self.edge_attr, "batch": self.batch}
        if self.conditions is not None:
            own["conditions"] = self.conditions
        return own if self.cell is None else own | {"cell": Cell(self.cell, cast(Tensor, self.pbc))}


class TrajectoryDataset(torch.utils.data.Dataset):
    """A sequence of `Trajectory` with what a reader of its samples must know.

    name: what the data are, for tables and pictures
    unit: the unit of positions after multiplying by `scale`
    scale: stored positions times `scale` are in `unit`
    atomic_numbers: [N] int64 for the trajectories of one molecule, a list of these, one for each trajectory, for those
        of several, else None
    experiment: which of the paper's experiments (charged, md:ethanol, zara1, ...) these are the test data of, known by
        how they were made or by their digest; None where that is not known
    frame_time: the time between two frames, in the unit of the file's times (ps in formats of simulation packages, or
        steps); None where the file has no times
    h_is_made: whether h was made of the atoms, as of a file without an array h
    entry_sizes: how many trajectories each entry of the list of paths (or molecules) gave that a section was opened
        from, in the order of the list, a pattern being one entry; one number without a list; None: not from a section
    """

    entry_sizes: list[int] | None = None

    def __init__(
        self,
        items: Sequence[Trajectory],
        *,
        name: str,
        unit: str = "",
        scale: float = 1.0,
        atomic_numbers: Tensor | Sequence[Tensor] | None = None,
        experiment: str | None = None,
        frame_time: float | None = None,
        h_is_made: bool = False,
    ):
        if len(items) == 0:
            raise ValueError(f"dataset '{name}' must hold at least one trajectory, got none")
        self.items = items
        self.name = name
        self.unit = unit
        self.scale = scale
        self.atomic_numbers = atomic_numbers
        self.experiment = experiment
        self.frame_time = frame_time
        self.h_is_made = h_is_made

    def __len__(self) -> int:
        return len(self.items)

    def __repr__(self) -> str:
        return f"TrajectoryDataset('{self.name}', {len(self)} trajectories, the first {self.items[0]!r})"

    def __iter__(self) -> Iterator[Trajectory]:
        return (self[i] for i in range(len(self)))

    @overload
    def __getitem__(self, index: int) -> Trajectory: ...
    @overload
    def __getitem__(self, index: slice) -> "TrajectoryDataset": ...
    def __getitem__(self, index: int | slice) -> "Trajectory | TrajectoryDataset":
        """One `Trajectory`; of a slice a data set of these."""
        if isinstance(index, slice):
            return self.subset(range(len(self))[index])
        return self.items[index]

    def numbers_of(self, index: int) -> Tensor | None:
        """The atomic numbers [N] of trajectory `index`; None if the data are no molecules."""
        numbers = self.atomic_numbers
        return numbers if numbers is None or isinstance(numbers, Tensor) else numbers[index]

    def subset(self, indices: Sequence[int]) -> "TrajectoryDataset":
        """The trajectories at `indices`, with the same metadata."""
        numbers = self.atomic_numbers
        return TrajectoryDataset(
            [self.items[i] for i in indices],
            name=self.name,
            unit=self.unit,
            scale=self.scale,
            atomic_numbers=numbers if numbers is None or isinstance(numbers, Tensor) else [numbers[i] for i in indices],
            experiment=self.experiment,
            frame_time=self.frame_time,
            h_is_made=self.h_is_made,
        )

    def spread(self, count: int | None) -> "TrajectoryDataset":
        """`count` of the trajectories, evenly spaced; all of them for None or when there are no more."""
        return self if count is None or count >= len(self) else self.subset(evenly_spaced(len(self), count))


def evenly_spaced(number: int, count: int | None) -> list[int]:
    """`count` of `number` indices, evenly spaced; all of them for None or when there are no more."""
    count = number if count is None else min(count, number)
    return [i * number // count for i in range(count)]


def collate(trajectories: Sequence[Trajectory] | TrajectoryDataset) -> Batch:
    """Lay graphs side by side: node indices of graph g are shifted by the nodes before it.

    Further fields, which all graphs must have then, are joined as `Fields` says.
    Boxes are checked, which waits for the device of the graphs; those of all are expanded to T where one has T.
    Raises ValueError for an empty list and for graphs that differ in D, T, F, A, their fields or the names of their
    conditions, or of which some have a target or a box; for h and edge_attr that are not of all nodes and edges; on the
    CPU for an edge to a node that its graph lacks; ValueError / TypeError for boxes that are none, see `Cell.of`.
    """
    trajectories = list(trajectories)
    if len(trajectories) == 0:
        raise ValueError("collate: trajectories must hold at least one graph, got none")
    first = trajectories[0]
    for i, item in enumerate(trajectories):
        _check_alike(i, item, first)
    device = first.x.device
    sizes = torch.tensor([item.x.shape[0] for item in trajectories], device=device)
    offsets = (sizes.cumsum(0) - sizes).tolist()

    def shifted(name: str) -> Tensor:
        return torch.cat([getattr(t, name) + o for t, o in zip(trajectories, offsets, strict=True)], dim=-1)

    joined = lambda name: torch.cat([getattr(t, name) for t in trajectories])
    cell, pbc = join_boxes(trajectories)
    batch = Batch(
        x=joined("x"),
        h=joined("h"),
        edge_index=shifted("edge_index"),
        edge_attr=None if first.edge_attr is None else joined("edge_attr"),
        scored=shifted("scored"),
        batch=torch.repeat_interleave(torch.arange(len(trajectories), device=device), sizes),
        num_graphs=len(trajectories),
        origin=_origins(trajectories),
        has_target=first.has_target,
        cell=cell,
        pbc=pbc,
        conditions=_conditions(trajectories),
        condition_names=first.condition_names,
    )
    _check_edges(trajectories, batch)
    for name in further_names(first):
        batch[name], rows = join_field(name, [item[name] for item in trajectories], offsets)
        if rows is not None:
            batch.remember_rows(name, rows)
    return batch


def _check_edges(trajectories: Sequence[Trajectory], batch: Batch) -> None:
    """ValueError for an edge that would join another graph's node. Not on CUDA: it waits for the device."""
    edge_index = batch.edge_index
    if edge_index.device.type != "cpu":
        return
    counts = torch.tensor([item.edge_index.shape[1] for item in trajectories], device="cpu")
    sizes = torch.tensor([item.x.shape[0] for item in trajectories], device="cpu")
    ends = sizes.cumsum(0)
    low, high = (torch.repeat_interleave(bound, counts) for bound in (ends - sizes, ends))
    wrong = (edge_index < low) | (edge_index >= high)
    if wrong.any():
        end, edge = wrong.nonzero()[0].tolist()
        number = int(torch.searchsorted(counts.cumsum(0), edge, right=True))
        own = trajectories[number]
        came = int(own.edge_index[end, edge - int(counts[:number].sum())])
        raise ValueError(
            f"collate: edge_index of graph {number} must be in 0..{own.x.shape[0] - 1}, the graph's nodes, got {came}"
        )


def _conditions(trajectories: Sequence[Trajectory]) -> Tensor | None:
    if trajectories[0].conditions is None:
        return None
    return torch.stack([cast(Tensor, item.conditions) for item in trajectories])


def _origins(trajectories: Sequence[Trajectory]) -> Tensor | None:
    if all(item.origin is None for item in trajectories):
        return None
    none = torch.zeros(trajectories[0].x.shape[1], dtype=torch.float64, device="cpu")
    return torch.stack([none if item.origin is None else item.origin for item in trajectories])


def description(item: Trajectory) -> dict[str, object]:
    """What trajectories must have in common to be batched together, by name."""
    return {
        "D": item.x.shape[1],
        "T": item.x.shape[2],
        "the shape of a node's h": list(item.h.shape[1:]),
        "the shape of an edge's edge_attr": None if item.edge_attr is None else list(item.edge_attr.shape[1:]),
        "has_target": item.has_target,
        "whether there is a box": item.cell is not None,
        "the conditions": ", ".join(item.condition_names) or "none",
    }


def _check_alike(index: int, item: Trajectory, first: Trajectory) -> None:
    if item.has_target != first.has_target:
        raise ValueError(f"collate: has_target of graph {index} must be {first.has_target} like graph 0")
    if set(further_names(item)) != set(further_names(first)):
        came, expected = (", ".join(further_names(one)) or "none" for one in (item, first))
        raise ValueError(f"collate: further fields of graph {index} must be {expected} like graph 0, got {came}")
    expected_names = first.condition_names
    sizes = [None if one.conditions is None else len(one.conditions) for one in (item, first)]
    if item.condition_names != expected_names or sizes[0] != sizes[1]:
        named, came = (", ".join(names) or "none" for names in (expected_names, item.condition_names))
        raise ValueError(f"collate: conditions of graph {index} must be {named} like graph 0, got {came}")
    for name, value, number in (
        ("h", item.h, item.x.shape[0]),
        ("edge_attr", item.edge_attr, item.edge_index.shape[1]),
    ):
        if value is not None and value.shape[0] != number:
            expected_rows = [number, *value.shape[1:]]
            raise ValueError(f"collate: {name} of graph {index} must be {expected_rows}, got {list(value.shape)}")
    for name in ("x", "h", "edge_attr"):
        a, b = getattr(item, name), getattr(first, name)
        came = None if a is None else list(a.shape[1:])
        expected = None if b is None else list(b.shape[1:])
        if came != expected:
            raise ValueError(f"collate: {name} of graph {index} must be [*, {expected}] like graph 0, got [*, {came}]")
