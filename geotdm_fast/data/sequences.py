"""Trajectories made when asked for, out of a few shared tensors."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from geotdm_fast.data.trajectory import Trajectory


@dataclass(frozen=True)
class Graph:
    """What the trajectories of one system share: h [N, F], edge_index [2, E], edge_attr [E, A] or None."""

    h: Tensor
    edge_index: Tensor
    edge_attr: Tensor | None


def complete_edges(num_nodes: int, self_loops: bool = False) -> Tensor:
    """All ordered pairs of nodes, receiver first, in row-major order: [2, E] int64."""
    pairs = torch.ones(num_nodes, num_nodes, dtype=torch.bool)
    if not self_loops:
        pairs.fill_diagonal_(False)
    return pairs.nonzero().T.contiguous()


def centred(x: Tensor) -> Tensor:
    """`x [N, D, T]` minus its mean over nodes and frames, as the unconditional model wants it."""
    return x - x.mean(dim=(0, 2), keepdim=True)


class Windows(Sequence):
    """Windows of `span` frames that start at `starts`, as views of one `x [frames, N, D]`."""

    def __init__(self, x: Tensor, starts: Sequence[int], span: int, graph: Graph, project: bool = False):
        self.x = x
        self.starts = starts
        self.span = span
        self.graph = graph
        self.project = project
        self.scored = torch.arange(x.shape[1])

    def __len__(self) -> int:
        return len(self.starts)

    def __getitem__(self, index: int) -> Trajectory:
        start = self.starts[index]
        x = self.x[start : start + self.span].permute(1, 2, 0)  # [N, D, span]
        x = centred(x) if self.project else x
        return Trajectory(x, self.graph.h, self.graph.edge_index, self.graph.edge_attr, self.scored)


class Systems(Sequence):
    """Many systems of N nodes on one graph: x [B, N, D, T], h [B, N, F], edge_attr [B, E, A] or None."""

    def __init__(self, x: Tensor, h: Tensor, edge_index: Tensor, edge_attr: Tensor | None, project: bool = False):
        self.x = x
        self.h = h
        self.edge_index = edge_index
        self.edge_attr = edge_attr
        self.project = project
        self.scored = torch.arange(x.shape[1])

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: int) -> Trajectory:
        x = centred(self.x[index]) if self.project else self.x[index]
        edge_attr = None if self.edge_attr is None else self.edge_attr[index]
        return Trajectory(x, self.h[index], self.edge_index, edge_attr, self.scored)
