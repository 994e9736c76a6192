"""`Graph`: the edges of a batch, and every table of them that an implementation reads, each made once."""

import contextlib
import copy
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple, cast

import torch
from torch import Tensor

from geotdm_fast.graphs.edges import EdgeTables, sorted_edges
from geotdm_fast.graphs.framewise import framewise, framewise_with_room
from geotdm_fast.graphs.groups import Groups
from geotdm_fast.graphs.images import EdgeImages
from geotdm_fast.graphs.packed import packed
from geotdm_fast.graphs.search import nearest_senders, radius_senders
from geotdm_fast.reference import Cell, CellSearch
from geotdm_fast.runtime.checks import check_tensor
from geotdm_fast.runtime.choices import check_choice
from geotdm_fast.runtime.copies import to_device
from geotdm_fast.runtime.tensor_cache import normal_tensors

if TYPE_CHECKING:
    from geotdm_fast.kernels.egcl_launch import TritonTables

# What reads tables: the C++ module, the Triton kernels, the readable operations.
KINDS = ("native", "triton", "reference")


class RowLayout(NamedTuple):
    """How tensors [N, T, ...] become the rows that edges connect.

    by_row: True where every frame has its own edges: then node i in frame t is row i T + t, of one frame, [N T, 1,
        ...]. False: a row is a node, [N, T, ...]
    spare: True where there is room for more edges than there are: a last row of zeros is added, to which the places
        without an edge point
    """

    by_row: bool
    spare: bool

    def rows(self, value: Tensor) -> Tensor:
        if self.by_row:
            value = value.reshape(-1, 1, *value.shape[2:])
        return torch.cat([value, value.new_zeros(1, *value.shape[1:])]) if self.spare else value

    def back(self, rows: Tensor, num_nodes: int, num_frames: int) -> Tensor:
        """The inverse of `rows`."""
        rows = rows[:-1] if self.spare else rows
        return rows.reshape(num_nodes, num_frames, *rows.shape[2:])


class Graph:
    """The edges of a batch. Ops and networks take a `Graph` wherever they take `edge_index`.

    Its makers are `static`, the same edges in every frame; `per_frame`, edges of each frame; `radius` and `nearest`,
    edges of each frame by its positions, in tables whose size does not depend on them.

    num_nodes: N
    num_frames: T where every frame has its own edges, which connect rows i T + t; None where all frames have the same
        edges, which connect nodes
    edge_index: [2, E] int64 - receivers and senders, in the order of the edge features. Where there is room for more
        edges than there are, both entries of an unused place are the number of rows
    num_edges: E, unused places included
    edge_attr: [E, A] - features that the maker gave the edges, or None
    images: `EdgeImages`, which image of a sender an edge means, where there are periodic boxes; else None
    capacity: how many edges of a receiver a search had room for; needed: [] int, on the device - how many there were at
        most. Both are None where there was room for all

    A table is made when it is first asked for, and kept. Whoever owns the batch makes the graph and passes it on, so
    that layers and steps share the tables. Neither the graph nor the tensors that it was made from may be changed.
    """

    def __init__(
        self,
        edge_index: Tensor,
        num_nodes: int,
        num_frames: int | None = None,
        *,
        tables: EdgeTables | None = None,
        edge_attr: Tensor | None = None,
        images: EdgeImages | None = None,
        capacity: int | None = None,
        needed: Tensor | None = None,
    ):
        """tables: of edges that are sorted already, with unused places; None: sorted when first asked for."""
        self.num_nodes, self.num_frames = num_nodes, num_frames
        self.edge_index, self.edge_attr, self.images = edge_index, edge_attr, images
        self.capacity, self.needed = capacity, needed
        self.has_room = tables is not None
        self._sorted: tuple[Tensor | None, EdgeTables] | None = None if tables is None else (None, tables)
        self._triton: TritonTables | None = None
        self._of_frames: dict[int, Graph] = {}
        self._at_frames: dict[tuple[int, ...], tuple[Graph, Tensor]] = {}
        self._scaled: dict[float, Graph] = {}
        self._shift: dict[int, Tensor] = {}

    @classmethod
    def static(cls, edge_index: Tensor, num_nodes: int, *, images: EdgeImages | None = None) -> "Graph":
        """The same edges in every frame.

        edge_index: [2, E] int64 or int32 - receivers, senders, in any order; self-loops, repeated edges and nodes
            without edges are allowed
        Raises TypeError/ValueError for another dtype or shape here, and for an index outside 0..num_nodes-1 when the
        tables of kernels are made: that reads the edges, once.
        """
        edge_index = _lasting(_checked("Graph.static", "edge_index", edge_index))
        return cls(edge_index, num_nodes, images=_checked_images("Graph.static", images, edge_index, num_nodes))

    @classmethod
    def per_frame(
        cls, edge_index_of_rows: Tensor, num_nodes: int, num_frames: int, *, images: EdgeImages | None = None
    ) -> "Graph":
        """Edges of every frame alone.

        edge_index_of_rows: [2, E] int64 or int32 - between rows i T + t, as `geotdm_fast.radius_graph` returns them for
            x [N, T, D]; both ends of an edge are of one frame
        Raises as `static` does, for rows outside 0..num_nodes num_frames-1.
        """
        edge_index = _lasting(_checked("Graph.per_frame", "edge_index_of_rows", edge_index_of_rows))
        images = _checked_images("Graph.per_frame", images, edge_index, num_nodes, num_frames)
        return cls(edge_index, num_nodes, num_frames, images=images)

    @classmethod
    def radius(
        cls,
        x: Tensor,
        cutoff: float,
        capacity: int,
        batch: Tensor | None = None,
        *,
        groups: Groups | None = None,
        cell: Tensor | Cell | CellSearch | None = None,
    ) -> "Graph":
        """The edges of `geotdm_fast.radius_graph(x, cutoff, batch, cell=cell)`, in room for `capacity` a receiver.

            (i, j) is an edge of frame t when |x_it - x_jt| <= cutoff, i != j, and both are of one graph

        x: [N, T, D] float - positions, in D = 2 or 3 dimensions (any D >= 1)
        batch: [N] int64 - the graph of each node, in any order; None: all are one graph
        groups: `Groups.of(batch, N, device)`, where they are known: then nothing waits for the device
        cell: periodic boxes, as for `radius_graph`; a `CellSearch`, made once, lets nothing wait for the device. Then
            the graph has `images`
        Where a receiver has more edges, some are missing: `overflowed()` tells, and `needed` on the device. No gradient
        passes from edges to x; egcl's own goes through distances. Deterministic. With `groups` a CUDA graph may
        capture it.
        Raises ValueError/TypeError for wrong shapes, dtypes, devices, cutoff, cell and capacity.
        """
        sender, needed, image, cell = radius_senders(x, cutoff, capacity, batch, groups, cell)
        return cls.of_table(
            sender, sender >= 0, *x.shape[:2], capacity=capacity, needed=needed, image=image, cell=cell, batch=batch
        )

    @classmethod
    def nearest(
        cls,
        x: Tensor,
        k: int,
        batch: Tensor | None = None,
        *,
        groups: Groups | None = None,
        cell: Tensor | Cell | CellSearch | None = None,
    ) -> "Graph":
        """The k nearest other nodes of the own graph send to a node, in every frame; all others where they are fewer.

        Arguments as for `radius`. Of two that are as near the lower number is taken, so the edges are those of a stable
        sort by distance; which need not be symmetric, as those of a radius are. There is always room. All pairs of a
        graph are looked at. With a cell the k nearest images are taken: one sender may come several times, and a node's
        own images come too.
        """
        sender, _, image, cell = nearest_senders(x, k, batch, groups, cell)
        return cls.of_table(sender, sender >= 0, *x.shape[:2], image=image, cell=cell, batch=batch)

    @classmethod
    def of_table(
        cls,
        sender: Tensor,
        is_edge: Tensor,
        num_nodes: int,
        num_frames: int,
        *,
        features: Callable[[Tensor], Tensor] | None = None,
        capacity: int | None = None,
        needed: Tensor | None = None,
        image: Tensor | None = None,
        cell: Cell | None = None,
        batch: Tensor | None = None,
    ) -> "Graph":
        """Edges of every frame, of a table with one row for each i T + t.

        sender: [N T, K] int - rows j T + t; is_edge: [N T, K] bool - where the table has an edge
        features: places of the table [N T K], row K + column, to features [N T K, A] of the edges there
        image, cell, batch: [N T, K, 3] int8, the boxes, and [N] the graph of each node - in periodic boxes
        """
        with _lasting_tensors():
            tables, edge_index, slot = packed(sender, is_edge)
            images = None
            if image is not None:
                number = image.reshape(-1, 3)[slot].where(edge_index[0, :, None] < num_nodes * num_frames, 0)
                images = EdgeImages(number, cast(Cell, cell), batch)
            made = cls(
                edge_index, num_nodes, num_frames, tables=tables, images=images, capacity=capacity, needed=needed
            )
            if features is not None:
                made.edge_attr = made.of_edges(features(slot))
        return made

    @property
    def num_rows(self) -> int:
        """N, or N T where every frame has its own edges."""
        return self.num_nodes * (self.num_frames or 1)

    @property
    def num_edges(self) -> int:
        return self.edge_index.shape[1]

    @property
    def device(self) -> torch.device:
        return self.edge_index.device

    @property
    def boxes_change(self) -> bool:
        """Whether all frames have the same edges while the periodic boxes change from frame to frame."""
        return self.num_frames is None and self.images is not None and self.images.num_frames != 1

    def check_fits(self, where: str, num_nodes: int, num_frames: int) -> None:
        """Raise ValueError unless this is a graph of so many nodes, and frames where they have edges or boxes of their
        own."""
        boxes = 1 if self.images is None else self.images.num_frames
        if boxes not in (1, num_frames):
            raise ValueError(f"{where}: the graph must have boxes of 1 or {num_frames} frames, got {boxes}")
        if self.num_nodes == num_nodes and self.num_frames in (None, num_frames):
            return
        frames = "" if self.num_frames is None else f" and {self.num_frames} frames"
        expected = f"{num_nodes} nodes and {num_frames} frames"
        raise ValueError(f"{where}: the graph must be of {expected}, got one of {self.num_nodes} nodes{frames}")

    def tables(self, kind: str) -> "tuple[Tensor, ...]":
        """The edges as an implementation reads them, for a graph of `num_rows` rows.

        kind: `native` gives `geotdm_fast.graphs.edges.EdgeTables`, `triton`
            `geotdm_fast.kernels.egcl_launch.TritonTables`, both sorted by receiver; `reference` gives (edge_index,)
        Raises ValueError for another kind, and for an index out of range.
        """
        check_choice("Graph.tables: kind", kind, KINDS)
        if kind == "reference":
            return (self.edge_index,)
        if kind == "native":
            return self._order_and_tables()[1]
        if self._triton is None:
            from geotdm_fast.kernels.egcl_launch import graph_tables

            with _lasting_tensors():
                self._triton = graph_tables(*self._order_and_tables()[1])
        return self._triton

    def layout(self, kind: str) -> RowLayout:
        """How tensors [N, T, ...] become the rows of `tables(kind)`."""
        return RowLayout(self.num_frames is not None, self.has_room and kind == "reference")

    def overflowed(self) -> bool:
        """Whether a search found more edges than it had room for, so that some are missing. Waits for the device."""
        return self.needed is not None and bool(self.needed > cast(int, self.capacity))

    def shift(self, num_frames: int) -> Tensor | None:
        """n C of every edge, in the order of edge_index: [E, 3], [E, T, 3] where the same edges are in boxes that
        change from frame to frame, or None without boxes. Differentiable in their vectors."""
        images = self.images
        if images is None:
            return None
        if images.last and num_frames in self._shift:
            return self._shift[num_frames]
        by_row = self.num_frames is not None
        with _lasting_tensors():
            receiver = self.edge_index[0].long().clamp(max=max(self.num_rows - 1, 0))
            shift = images.shift(receiver, self.num_nodes, self.num_frames or num_frames, by_row=by_row)
        if images.last:
            self._shift[num_frames] = shift
        return shift

    def scaled(self, factor: float) -> "Graph":
        """The graph of positions that are multiplied by `factor`: its tables, and the boxes in the other unit."""
        if factor == 1 or self.images is None:
            return self
        if not self.images.last:
            return self._with_images(self.images._replace(cell=self.images.cell.scaled(factor)))
        if factor not in self._scaled:
            with _lasting_tensors():
                scaled = self.images._replace(cell=self.images.cell.scaled(factor))
                self._scaled[factor] = self._with_images(scaled)
        return self._scaled[factor]

    def in_order(self, edge_attr: Tensor) -> Tensor:
        """Edge features [E, A] in the order of the tables of `native` and `triton`."""
        order, _ = self._order_and_tables()
        return edge_attr if order is None else edge_attr[order]

    def of_edges(self, edge_attr: Tensor) -> Tensor:
        """Edge features [E, A], 0 where there is room but no edge: what lies there may be NaN."""
        return edge_attr.where(self.num_rows > self.edge_index[0, :, None], 0) if self.has_room else edge_attr

    def of_frames(self, num_frames: int) -> "Graph":
        """The same edges as a graph in which every frame has its own: edge e of frame t is edge e T + t."""
        if self.num_frames is not None:
            raise ValueError(f"Graph.of_frames: the edges must be the same in all frames, got {self.num_frames} frames")
        if num_frames not in self._of_frames:
            with _lasting_tensors():
                images = self._images_of(lambda n: n[:, None].expand(-1, num_frames, -1).flatten(0, 1))
                made = Graph(framewise(self.edge_index, num_frames), self.num_nodes, num_frames, images=images)
                if self.has_room:
                    first = self._order_and_tables()[1].first
                    made.edge_index, *ordered = framewise_with_room(self.edge_index, first, self.num_nodes, num_frames)
                    made._sorted, made.has_room = cast("tuple[Tensor, EdgeTables]", tuple(ordered)), True
                self._of_frames[num_frames] = made
        return self._of_frames[num_frames]

    def at_frames(self, frames: Sequence[int]) -> "tuple[Graph, Tensor | None]":
        """The graph of some frames alone, in that order, and which edges these are: [E'], None for all of them."""
        if self.num_frames is None:
            images = self.images
            return self if images is None or not self.boxes_change else self._with_images(
                images.at_frames(frames)
            ), None
        if self.has_room:
            raise ValueError("Graph.at_frames: the edges of a search belong to its frames; search those frames alone")
        frames = tuple(frames)
        if frames not in self._at_frames or (self.images is not None and not self.images.last):
            with _lasting_tensors():
                place = torch.full((self.num_frames,), -1)
                place[list(frames)] = torch.arange(len(frames))
                place = place.to(self.device)
                node, frame = self.edge_index // self.num_frames, place[self.edge_index % self.num_frames]
                (kept,) = (frame[0] >= 0).nonzero(as_tuple=True)
                rows = (node * len(frames) + frame)[:, kept]
                images = self._images_of(lambda n: n[kept])
                images = None if images is None else images.at_frames(frames)
            self._at_frames[frames] = Graph(rows, self.num_nodes, len(frames), images=images), kept
        return self._at_frames[frames]

    def to(self, device: torch.device | str) -> "Graph":
        """The graph on `device`: sorted here first, so that on the way from the CPU nothing waits for the device."""
        device = torch.device(device)
        order, tables = self._order_and_tables()
        if device.type == self.device.type:
            return self
        there = lambda tensor: to_device(tensor, device)
        moved_or_none = lambda tensor: None if tensor is None else there(tensor)
        with _lasting_tensors():
            moved = Graph(
                there(self.edge_index),
                self.num_nodes,
                self.num_frames,
                edge_attr=moved_or_none(self.edge_attr),
                images=None if self.images is None else self.images.to(device),
                capacity=self.capacity,
                needed=moved_or_none(self.needed),
            )
            moved._sorted, moved.has_room = (moved_or_none(order), EdgeTables(*map(there, tables))), self.has_room
        return moved

    def _images_of(self, choose: Callable[[Tensor], Tensor]) -> EdgeImages | None:
        return None if self.images is None else self.images._replace(number=choose(self.images.number))

    def _with_images(self, images: EdgeImages) -> "Graph":
        """The graph with other boxes: what was made of its edges alone is shared."""
        other = copy.copy(self)
        other.images = images
        other._of_frames, other._at_frames, other._scaled, other._shift = {}, {}, {}, {}
        return other

    def _order_and_tables(self) -> tuple[Tensor | None, EdgeTables]:
        if self._sorted is None:
            with _lasting_tensors():
                self._sorted = sorted_edges(self.edge_index, self.num_rows)
        return self._sorted


def as_graph(edges: "Tensor | Graph", num_nodes: int) -> Graph:
    """`graph` itself if it is a `Graph`; of edge_index [2, E] a new one whose edges are the same in every frame.

    A new graph keeps its tables as long as the caller holds it.
    """
    return edges if isinstance(edges, Graph) else Graph.static(edges, num_nodes)


def _checked(where: str, name: str, edge_index: Tensor) -> Tensor:
    check_tensor(where, name, edge_index, (2, "E"), integer=True)
    return edge_index


def _checked_images(
    where: str, images: EdgeImages | None, edge_index: Tensor, num_nodes: int, num_frames: int | None = None
) -> EdgeImages | None:
    if images is None:
        return None
    images = images.checked(where, edge_index.shape[1], num_nodes, num_frames)
    return images._replace(number=_lasting(images.number))


def _lasting_tensors() -> contextlib.AbstractContextManager:
    """A block whose tensors a later training may use, even if it runs within `torch.inference_mode`."""
    return contextlib.nullcontext() if torch.compiler.is_compiling() else normal_tensors()


def _lasting(tensor: Tensor) -> Tensor:
    """`tensor`, or a copy of it where it is an inference tensor, which no backward may keep."""
    if torch.compiler.is_compiling() or not tensor.is_inference():
        return tensor
    with normal_tensors():
        return tensor.clone()
