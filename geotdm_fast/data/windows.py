"""Trajectories made when asked for, out of a few shared tensors."""

import bisect
import itertools
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from geotdm_fast.data.periodic import Boxes
from geotdm_fast.data.trajectory import Trajectory


def complete_edges(num_nodes: int, self_loops: bool = False) -> Tensor:
    """All ordered pairs of nodes, receiver first, in row-major order: [2, E] int64."""
    pairs = torch.ones(num_nodes, num_nodes, dtype=torch.bool, device="cpu")
    if not self_loops:
        pairs.fill_diagonal_(False)
    return pairs.nonzero().T.contiguous()


def frames_last(x: np.ndarray) -> Tensor:
    """`x [B, T, N, D]` as a contiguous float32 tensor [B, N, D, T]."""
    return torch.from_numpy(np.ascontiguousarray(x.transpose(0, 2, 3, 1), dtype=np.float32))


def centred(x: Tensor, project: bool | str = True) -> Tensor:
    """`x [N, D, T]` minus its mean over nodes and frames, as the unconditional model wants it.

    project: `frames` subtracts the mean over nodes of each frame; False nothing
    """
    if not project:
        return x
    return x - x.mean(dim=(0,) if project == "frames" else (0, 2), keepdim=True)


def places_of(num_trajectories: int, starts: np.ndarray) -> np.ndarray:
    """Windows that begin at `starts` [M] in each trajectory, as places of `Windows`: [num_trajectories M, 2] int32."""
    places = np.empty((num_trajectories, len(starts), 2), dtype=np.int32)
    places[..., 0] = np.arange(num_trajectories)[:, None]
    places[..., 1] = starts
    return places.reshape(-1, 2)


class Windows(Sequence[Trajectory]):
    """Windows of `span` frames out of x [B, N, D, T], as views.

    places: [M, 2] - the (trajectory, first frame) of every window
    h: [B, N, F] - node features of every trajectory; edge_attr: [B, E, A] or None
    project: subtract the mean over nodes and frames of each window, or with `frames` that of each frame, which leaves
        no origin
    origin: [B, D] float64 or None - what was subtracted from the positions of every trajectory
    v: [B, N, D, T] - velocities, which become the windows' field `v`; None: they have none
    boxes: of the trajectories and frames of x; None: they have none
    conditions: [C] float32 and condition_names, of all windows, see `Trajectory`; to be set, None at first
    """

    conditions: Tensor | None = None
    condition_names: tuple[str, ...] = ()

    def __init__(
        self,
        x: Tensor,
        places: Sequence[tuple[int, int]] | np.ndarray,
        span: int,
        h: Tensor,
        edge_index: Tensor,
        edge_attr: Tensor | None,
        project: bool | str = False,
        origin: Tensor | None = None,
        v: Tensor | None = None,
        boxes: Boxes | None = None,
    ):
        self.x = x
        self.v = v
        self.places = places
        self.span = span
        self.h = h
        self.edge_index = edge_index
        self.edge_attr = edge_attr
        self.project = project
        self.origin = None if project else origin
        self.boxes = boxes
        self.scored = torch.arange(x.shape[1], device=x.device)

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: int) -> Trajectory:  # type: ignore[override]  # no slices
        trajectory, start = map(int, self.places[index])
        x = self.x[trajectory, :, :, start : start + self.span]
        x = centred(x, self.project)
        edge_attr = None if self.edge_attr is None else self.edge_attr[trajectory]
        origin = None if self.origin is None else self.origin[trajectory]
        window = Trajectory(x, self.h[trajectory], self.edge_index, edge_attr, self.scored, origin)
        window.conditions, window.condition_names = self.conditions, self.condition_names
        if self.boxes is not None:
            window.cell = self.boxes.window(trajectory, start, self.span)
            window.pbc = self.boxes.pbc
        if self.v is not None:
            window.v = self.v[trajectory, :, :, start : start + self.span]
        return window


class Joined(Sequence[Trajectory]):
    """The trajectories of several sequences, one after the other."""

    def __init__(self, parts: Sequence[Sequence[Trajectory]]):
        self.parts = parts
        self._ends = list(itertools.accumulate(map(len, parts)))

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitem__(self, index: int) -> Trajectory:  # type: ignore[override]  # no slices
        part, within = self.place(index)
        return self.parts[part][within]

    def place(self, index: int) -> tuple[int, int]:
        """The part that holds trajectory `index`, and its number there."""
        if not 0 <= index < len(self):
            raise IndexError(f"trajectory {index} of {len(self)}")
        part = bisect.bisect_right(self._ends, index)
        return part, index - (self._ends[part - 1] if part else 0)
