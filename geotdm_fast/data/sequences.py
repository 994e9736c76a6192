"""Trajectories made when asked for, out of a few shared tensors."""

from collections.abc import Sequence

import torch
from torch import Tensor

from geotdm_fast.data.trajectory import Trajectory


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
    """Windows of `span` frames out of x [B, T, N, D], as views.

    places: the (trajectory, first frame) of every window
    h: [B, N, F] - node features of every trajectory; edge_attr: [B, E, A] or None
    """

    def __init__(
        self,
        x: Tensor,
        places: Sequence[tuple[int, int]],
        span: int,
        h: Tensor,
        edge_index: Tensor,
        edge_attr: Tensor | None,
        project: bool = False,
    ):
        self.x = x
        self.places = places
        self.span = span
        self.h = h
        self.edge_index = edge_index
        self.edge_attr = edge_attr
        self.project = project
        self.scored = torch.arange(x.shape[2])

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: int) -> Trajectory:
        trajectory, start = self.places[index]
        x = self.x[trajectory, start : start + self.span].permute(1, 2, 0)  # [N, D, span]
        x = centred(x) if self.project else x
        edge_attr = None if self.edge_attr is None else self.edge_attr[trajectory]
        return Trajectory(x, self.h[trajectory], self.edge_index, edge_attr, self.scored)


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
