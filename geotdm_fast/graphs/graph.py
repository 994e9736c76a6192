"""One prepared graph of a batch: the edges in the tables that kernels read, each made once and held here."""

import contextlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from geotdm_fast.graphs.edges import EdgeTables, sorted_edges
from geotdm_fast.runtime.checks import check_tensor
from geotdm_fast.runtime.choices import check_choice
from geotdm_fast.runtime.copies import to_device
from geotdm_fast.runtime.tensor_cache import normal_tensors

if TYPE_CHECKING:
    from geotdm_fast.kernels.egcl_launch import Graph as TritonTables

# What reads tables: the C++ module, the Triton kernels, the readable operations.
KINDS = ("native", "triton", "reference")


class Graph:
    """The edges of a batch, made by `static` or `per_frame`, and given wherever an op or a network takes `edge_index`.

    num_nodes: N; num_frames: T where every frame has its own edges, between rows i T + t; None where they are the same
        in all frames, between nodes
    num_edges: E
    edge_index: [2, E] int64 - receivers and senders, in the order of edge features

    What is made of the edges is made when it is first asked for, and held. Whoever owns the batch makes the graph and
    passes it down, so that layers, steps of a chain and steps of training share one. Not for changes: neither the graph
    nor the edges that it was made from.
    """

    def __init__(self, edge_index: Tensor, num_nodes: int, num_frames: int | None = None):
        self.num_nodes, self.num_frames = num_nodes, num_frames
        self.edge_index = edge_index
        self._sorted: tuple[Tensor | None, EdgeTables] | None = None
        self._triton: TritonTables | None = None
        self._of_frames: dict[int, Graph] = {}
        self._at_frames: dict[tuple[int, ...], tuple[Graph, Tensor]] = {}

    @classmethod
    def static(cls, edge_index: Tensor, num_nodes: int) -> "Graph":
        """The same edges in every frame.

        edge_index: [2, E] int64 or int32 - receivers, senders, in any order; self-loops, repeated edges and nodes
            without edges are allowed
        Raises TypeError/ValueError for another dtype or shape here, and for an index outside 0..num_nodes-1 when the
        tables of kernels are made: that reads the edges, once.
        """
        return cls(_lasting(_checked("Graph.static", "edge_index", edge_index)), num_nodes)

    @classmethod
    def per_frame(cls, edge_index_of_rows: Tensor, num_nodes: int, num_frames: int) -> "Graph":
        """Edges of every frame alone.

        edge_index_of_rows: [2, E] int64 or int32 - between rows i T + t, as `geotdm_fast.radius_graph` returns them for
            x [N, T, D]; both ends of an edge are of one frame
        Raises as `static` does, for rows outside 0..num_nodes num_frames-1.
        """
        edge_index = _checked("Graph.per_frame", "edge_index_of_rows", edge_index_of_rows)
        return cls(_lasting(edge_index), num_nodes, num_frames)

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

    def check_fits(self, where: str, num_nodes: int, num_frames: int) -> None:
        """Raise ValueError unless this is a graph of so many nodes, and frames where they have edges of their own."""
        if self.num_nodes == num_nodes and self.num_frames in (None, num_frames):
            return
        frames = "" if self.num_frames is None else f" and {self.num_frames} frames"
        expected = f"{num_nodes} nodes and {num_frames} frames"
        raise ValueError(f"{where}: the graph must be of {expected}, got one of {self.num_nodes} nodes{frames}")

    def tables(self, kind: str) -> "tuple[Tensor, ...]":
        """What an implementation reads, of `num_rows` rows.

        `native`: `geotdm_fast.graphs.edges.EdgeTables`; `triton`: `geotdm_fast.kernels.egcl_launch.Graph`, both of
        edges sorted by receiver; `reference`: edge_index alone
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

    def rows(self, value: Tensor) -> Tensor:
        """[N, T, ...] in the rows of the tables: as it is, or [N T, 1, ...] where every frame has its own edges."""
        return value if self.num_frames is None else value.reshape(-1, 1, *value.shape[2:])

    def of_rows(self, value: Tensor, num_frames: int) -> Tensor:
        """The inverse of `rows`."""
        return value if self.num_frames is None else value.reshape(-1, num_frames, *value.shape[2:])

    def in_order(self, edge_attr: Tensor) -> Tensor:
        """Edge features [E, A] in the order of the tables of `native` and `triton`."""
        order, _ = self._order_and_tables()
        return edge_attr if order is None else edge_attr[order]

    def of_frames(self, num_frames: int) -> "Graph":
        """The same edges as a graph of every frame: edge e of frame t is e T + t."""
        if self.num_frames is not None:
            raise ValueError(f"Graph.of_frames: the edges must be the same in all frames, got {self.num_frames} frames")
        if num_frames not in self._of_frames:
            with _lasting_tensors():
                frame = torch.arange(num_frames, device=self.device)
                rows = (self.edge_index.long()[:, :, None] * num_frames + frame).flatten(1)
            self._of_frames[num_frames] = Graph(rows, self.num_nodes, num_frames)
        return self._of_frames[num_frames]

    def at_frames(self, frames: Sequence[int]) -> "tuple[Graph, Tensor | None]":
        """The graph of some frames alone, in that order, and which edges these are: [E'], None for all of them."""
        if self.num_frames is None:
            return self, None
        frames = tuple(frames)
        if frames not in self._at_frames:
            with _lasting_tensors():
                place = torch.full((self.num_frames,), -1)
                place[list(frames)] = torch.arange(len(frames))
                place = place.to(self.device)
                node, frame = self.edge_index // self.num_frames, place[self.edge_index % self.num_frames]
                (kept,) = (frame[0] >= 0).nonzero(as_tuple=True)
                rows = (node * len(frames) + frame)[:, kept]
            self._at_frames[frames] = Graph(rows, self.num_nodes, len(frames)), kept
        return self._at_frames[frames]

    def to(self, device: torch.device | str) -> "Graph":
        """The graph on `device`: sorted here first, so that on the way from the CPU nothing waits for the device."""
        device = torch.device(device)
        order, tables = self._order_and_tables()
        if device.type == self.device.type:
            return self
        with _lasting_tensors():
            there = lambda tensor: to_device(tensor, device)
            moved = Graph(there(self.edge_index), self.num_nodes, self.num_frames)
            moved._sorted = None if order is None else there(order), EdgeTables(*map(there, tables))
        return moved

    def _order_and_tables(self) -> tuple[Tensor | None, EdgeTables]:
        if self._sorted is None:
            with _lasting_tensors():
                self._sorted = sorted_edges(self.edge_index, self.num_rows)
        return self._sorted


def as_graph(edges: "Tensor | Graph", num_nodes: int) -> Graph:
    """A graph as it is; of edge_index [2, E] a new one, the same in every frame, which lasts as long as it is held."""
    return edges if isinstance(edges, Graph) else Graph.static(edges, num_nodes)


def _checked(where: str, name: str, edge_index: Tensor) -> Tensor:
    check_tensor(where, name, edge_index, (2, "E"), integer=True)
    return edge_index


def _lasting_tensors() -> contextlib.AbstractContextManager:
    """What is made in the block serves a later training too, also where it is made in `torch.inference_mode`."""
    return contextlib.nullcontext() if torch.compiler.is_compiling() else normal_tensors()


def _lasting(tensor: Tensor) -> Tensor:
    """`tensor`, or a copy that a later training may keep for its backward."""
    if torch.compiler.is_compiling() or not tensor.is_inference():
        return tensor
    with normal_tensors():
        return tensor.clone()
