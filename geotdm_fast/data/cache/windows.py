"""Windows of frames that lie in files, each read when asked for."""

import pathlib
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from geotdm_fast.data.cache.arrays import StoredRows
from geotdm_fast.data.periodic import Boxes
from geotdm_fast.data.trajectory import Trajectory
from geotdm_fast.data.windows import Windows, centred, places_of


class StoredWindows(Sequence[Trajectory]):
    """Windows of `span` frames out of an array of positions [T, N, D] float32 in a file; equal to `Windows` of it.

    An item is read from the file, and holds memory of its own. Beside it there are 8 bytes for each stretch of frames:
    where a window begins is computed.

    path: of the positions
    ends: [S] int64 - where each stretch of frames that no window may leave ends
    stride: frames between the starts of windows
    h: [N, F]; edge_index: [2, E]; edge_attr: [E, A] or None
    project: as of `Windows`
    origin: [D] float64 or None - what was subtracted from the positions
    boxes: of one trajectory, and its frames where they change; None: they have none
    conditions, condition_names: of all windows, as those of `Windows`
    """

    conditions: Tensor | None = None
    condition_names: tuple[str, ...] = ()

    def __init__(
        self,
        path: pathlib.Path,
        ends: np.ndarray,
        span: int,
        stride: int,
        h: Tensor,
        edge_index: Tensor,
        edge_attr: Tensor | None,
        project: bool | str = False,
        origin: Tensor | None = None,
        boxes: Boxes | None = None,
    ):
        self.frames = StoredRows(path)
        self.span, self.stride, self.project = span, stride, project
        self.h, self.edge_index, self.edge_attr = h[None], edge_index, None if edge_attr is None else edge_attr[None]
        self.origin = None if project or origin is None else origin[None]
        self.boxes = boxes
        self.scored = torch.arange(self.num_nodes, device="cpu")
        self._begins = np.concatenate([[0], ends[:-1]]).astype(np.int64)
        lengths = ends - self._begins
        self._ends = np.cumsum(np.maximum(0, (lengths - span) // stride + 1))  # windows up to the end of a stretch

    def __len__(self) -> int:
        return int(self._ends[-1])

    @property
    def num_nodes(self) -> int:
        return self.frames.shape[1]

    @property
    def dim(self) -> int:
        return self.frames.shape[2]

    def starts(self, windows: np.ndarray) -> np.ndarray:
        """The first frames [M] int64 of the windows of these numbers [M]."""
        stretch = np.searchsorted(self._ends, windows, side="right")
        before = np.concatenate([[0], self._ends[:-1]])[stretch]
        return self._begins[stretch] + (windows - before) * self.stride

    def in_memory(self) -> Windows:
        """The same windows of positions that are read as a whole."""
        whole = self.frames.rows(0, len(self.frames))
        x = torch.from_numpy(np.ascontiguousarray(whole.transpose(1, 2, 0)))[None]
        places = places_of(1, self.starts(np.arange(len(self))))
        about = (self.h, self.edge_index, self.edge_attr, self.project, self.origin)
        windows = Windows(x, places, self.span, *about, boxes=self.boxes)
        windows.conditions, windows.condition_names = self.conditions, self.condition_names
        return windows

    def __getitem__(self, index: int) -> Trajectory:  # type: ignore[override]  # no slices
        if not -len(self) <= index < len(self):
            raise IndexError(f"window {index} of {len(self)}")
        start = int(self.starts(np.array([index % len(self)]))[0])
        rows = self.frames.rows(start, self.span)
        x = torch.from_numpy(np.ascontiguousarray(rows.transpose(1, 2, 0)))
        x = centred(x, self.project)
        edge_attr = None if self.edge_attr is None else self.edge_attr[0]
        origin = None if self.origin is None else self.origin[0]
        window = Trajectory(x, self.h[0], self.edge_index, edge_attr, self.scored, origin)
        if self.boxes is not None:
            window.cell = self.boxes.window(0, start, self.span)
            window.pbc = self.boxes.pbc
        window.conditions, window.condition_names = self.conditions, self.condition_names
        return window
