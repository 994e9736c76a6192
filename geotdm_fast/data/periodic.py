"""Periodic boxes that go with trajectories, from where they are given to a batch."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple, cast

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from geotdm_fast.data.checks import check_array
from geotdm_fast.reference import Cell

if TYPE_CHECKING:
    from geotdm_fast.data.trajectory import Trajectory


class Boxes(NamedTuple):
    """The boxes of many trajectories, in the unit of their positions; lattice vectors are rows, see `Cell`.

    vectors: [B, 1 or frames, 3, 3] float64, float32 in windows - 1 frame: the same in all
    pbc: [3] bool - the periodic directions
    """

    vectors: Tensor
    pbc: Tensor

    @classmethod
    def of(cls, vectors: np.ndarray, pbc: np.ndarray) -> "Boxes":
        """Of numpy's [B, 1 or frames, 3, 3] and [3]; frames that all have the same box become one."""
        if (vectors == vectors[:, :1]).all():
            vectors = vectors[:, :1]
        vectors = np.ascontiguousarray(vectors, dtype=np.float64)
        return cls(torch.from_numpy(vectors), torch.from_numpy(pbc.copy()))

    def scaled(self, factor: float) -> "Boxes":
        """The boxes of positions that are multiplied by `factor`."""
        return self if factor == 1 else self._replace(vectors=self.vectors * factor)

    def chosen(self, trajectories: Sequence[int], frames: Sequence[int] | np.ndarray) -> "Boxes":
        """The boxes of these trajectories and frames, in float32 as positions are."""
        vectors = self.vectors
        if len(vectors) > 1:
            vectors = vectors[torch.as_tensor(np.asarray(trajectories))]
        else:
            vectors = vectors.expand(len(trajectories), -1, -1, -1)
        if vectors.shape[1] > 1:
            vectors = vectors[:, torch.as_tensor(np.asarray(frames))]
        return Boxes(vectors.float(), self.pbc)

    def window(self, trajectory: int, start: int, span: int) -> Tensor:
        """The box of a window: [3, 3], or [span, 3, 3] where it changes; a view."""
        vectors = self.vectors[trajectory]
        return vectors[0] if len(vectors) == 1 else vectors[start : start + span]

    def cut(self, own: slice, begin: int, end: int) -> "Boxes":
        """The boxes of the trajectories `own` and of frames begin ... end - 1."""
        vectors = self.vectors[own]
        return self._replace(vectors=vectors if vectors.shape[1] == 1 else vectors[:, begin:end])


def check_boxes(
    where: str,
    cell: ArrayLike | Tensor | None,
    pbc: ArrayLike | Tensor | None,
    shape: Sequence[int],
    *,
    hint: str = "",
) -> tuple[np.ndarray, np.ndarray] | None:
    """The boxes that come with positions: [1 or B, 1 or frames, 3, 3] float64 that span a volume, and [3] bool.

    cell: [3, 3], [frames, 3, 3], or of many trajectories also [B, 1 or frames, 3, 3]; None: no box
    pbc: [3] bool; None: the directions whose vector is not 0. None comes back where no direction is periodic
    shape: of the positions, [frames, N, D] or [B, frames, N, D]
    hint: the key that passes over the box, for messages
    Raises ValueError / TypeError as `Cell.of` does, and for pbc without a cell.
    """
    if cell is None:
        if pbc is not None:
            raise ValueError(f"{where}: pbc must come with cell, the vectors of the box, got pbc alone")
        return None
    try:
        return _checked(where, cell, pbc, shape)
    except (TypeError, ValueError) as error:
        raise type(error)(f"{error}{hint}") from None


def _checked(
    where: str, cell: ArrayLike | Tensor, pbc: ArrayLike | Tensor | None, shape: Sequence[int]
) -> tuple[np.ndarray, np.ndarray] | None:
    many = "" if len(shape) == 3 else " or B, frames, 3, 3"
    vectors = check_array(where, "cell", cell, f"3, 3 or frames, 3, 3{many}", np.float64)
    vectors = vectors.reshape(*[1] * (4 - vectors.ndim), *vectors.shape)
    if pbc is None:
        pbc = (vectors != 0).any(axis=(0, 1, 3))
    pbc = check_array(where, "pbc", pbc, "3")
    if pbc.dtype != bool and not np.isin(pbc, (0, 1)).all():
        raise ValueError(f"{where}: pbc must be three flags, got {pbc.tolist()}")
    pbc = pbc.astype(bool)
    if not pbc.any():
        return None
    graphs = shape[0] if len(shape) == 4 else 1
    made = Cell.of(
        where,
        torch.from_numpy(vectors),
        torch.from_numpy(pbc),
        num_graphs=graphs,
        num_frames=shape[-3],
        dim=shape[-1],
    )
    return made.vectors.numpy(), pbc


def check_cells(where: str, cell: np.ndarray, pbc: np.ndarray, dim: int) -> None:
    """Raise ValueError / TypeError unless cell [G, 1 or T, 3, 3] and pbc [G, 3] are boxes, see `Cell.of`."""
    for name, value, kind, words in (("cell", cell, "f", "floating point"), ("pbc", pbc, "b", "bool")):
        if value.dtype.kind != kind:
            raise ValueError(f"{where}: {name} must be {words}, got {value.dtype}")
    Cell.of(where, torch.from_numpy(cell), torch.from_numpy(pbc), dim=dim)


def boxes_of(item: "Trajectory") -> Boxes | None:
    """The box of one trajectory, unchecked; None where it has none."""
    if item.cell is None:
        return None
    pbc = torch.ones(3, dtype=torch.bool, device=item.cell.device) if item.pbc is None else item.pbc
    return Boxes(item.cell.reshape(1, -1, 3, 3), pbc)


def join_boxes(items: Sequence["Trajectory"]) -> tuple[Tensor | None, Tensor | None]:
    """The boxes of a batch, [G, 1 or T, 3, 3] in the dtype of the positions, and [G, 3] bool; None without any.

    Where the box of a graph changes with the frames, those of all are expanded to T.
    Raises ValueError / TypeError naming the graph that has a box where graph 0 has none, or the other way round, one of
    another shape, and vectors that are not finite or span no volume.
    """
    for i, item in enumerate(items):
        if (item.cell is None) != (items[0].cell is None):
            have = "a box" if item.cell is None else "no box"
            raise ValueError(f"collate: cell of graph {i} must be {have} like graph 0, got {_shape(item.cell)}")
        if item.cell is None and item.pbc is not None:
            raise ValueError(f"collate: pbc of graph {i} must come with a cell, got pbc alone")
        expected = ([3, 3], [item.num_frames, 3, 3])
        if item.cell is not None and _shape(item.cell) not in expected:
            raise ValueError(
                f"collate: cell of graph {i} must be {expected[0]} or {expected[1]}, got {_shape(item.cell)}"
            )
        if item.pbc is not None and _shape(item.pbc) != [3]:
            raise ValueError(f"collate: pbc of graph {i} must be [3], got {_shape(item.pbc)}")
    first = items[0].x
    if items[0].cell is None:
        return None, None
    cells = [cast(Tensor, item.cell).to(first.dtype) for item in items]
    frames = max(1 if cell.dim() == 2 else len(cell) for cell in cells)
    vectors = torch.stack([(cell[None] if cell.dim() == 2 else cell).expand(frames, 3, 3) for cell in cells])
    every = torch.ones(3, dtype=torch.bool, device=first.device)
    pbc = torch.stack([every if item.pbc is None else item.pbc for item in items])
    made = Cell.of("collate", vectors, pbc, dim=first.shape[1])
    return made.vectors, made.pbc


def _shape(value: object) -> object:
    return list(value.shape) if isinstance(value, Tensor) else value
