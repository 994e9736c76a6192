"""Periodic boxes: a lattice vector between two atoms is no distance between them."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from geotdm_fast.runtime.checks import check_tensor

# Edges count lattice vectors in int8, and a search looks at that many boxes on each side at most.
MOST_IMAGES = 64
# Of the volume that lattice vectors of these lengths would span at right angles.
_LEAST_VOLUME = 1e-6


class Cell(NamedTuple):
    """The periodic boxes of the graphs of a batch, in the unit of their positions.

    Lattice vectors are the rows of a matrix C: x + n C is the image n of x for whole numbers n. Of an edge with the
    image n the sender is at x_j + n C, so that r_ij = x_i - x_j - n C. Positions need not lie in the box.

    vectors: [G, 1 or T, 3, 3] float - C of every graph, and frame where it changes with them; it may want a gradient.
        The vector of a direction that is not periodic is any that makes the three span a volume
    pbc: [G, 3] bool - the directions that are periodic; along the others n is 0
    """

    vectors: Tensor
    pbc: Tensor

    @classmethod
    def of(
        cls,
        where: str,
        cell: "Tensor | Cell",
        pbc: Tensor | None = None,
        *,
        num_graphs: int | None = None,
        num_frames: int | None = None,
        dim: int = 3,
    ) -> "Cell":
        """What a caller gives as a box, checked. Waits for the device.

        cell: [3, 3], of all graphs and frames; [G, 3, 3]; [G, T, 3, 3]; or a `Cell`, which is taken as it is
        pbc: [3] or [G, 3] bool; None: all three directions. A vector of zeros stands for a direction that is not
        num_graphs, num_frames, dim: G, T and the number of coordinates that it must fit; None: any
        Raises TypeError / ValueError for other shapes and dtypes, vectors that are not finite, and vectors that span
        no volume (under a millionth of the product of their lengths).
        """
        if dim != 3:
            raise ValueError(f"{where}: a cell must come with positions in 3 dimensions, got {dim}")
        if isinstance(cell, Cell):
            if pbc is not None:
                raise ValueError(f"{where}: pbc must be None where cell is a Cell, which has its own, got {pbc}")
            made = cell
        else:
            made = cls._checked(where, cell, pbc)
        graphs, frames = made.vectors.shape[:2]
        if num_graphs not in (None, graphs) and graphs != 1:
            raise ValueError(f"{where}: cell must be of 1 or {num_graphs} graphs, got {graphs}")
        if num_frames not in (None, frames) and frames != 1:
            raise ValueError(f"{where}: cell must be of 1 or {num_frames} frames, got {frames}")
        return made

    @classmethod
    def _checked(cls, where: str, cell: Tensor, pbc: Tensor | None) -> "Cell":
        if not isinstance(cell, Tensor) or not 2 <= cell.dim() <= 4:
            came = list(cell.shape) if isinstance(cell, Tensor) else type(cell).__name__
            raise TypeError(f"{where}: cell must be a tensor [3, 3], [G, 3, 3] or [G, T, 3, 3], got {came}")
        check_tensor(where, "cell", cell, (*("G", "T")[: cell.dim() - 2], 3, 3), integer=False)
        vectors = cell[None] if cell.dim() == 2 else cell
        vectors = vectors[:, None] if vectors.dim() == 3 else vectors
        if pbc is None:
            pbc = torch.ones(3, dtype=torch.bool, device=cell.device)
        if not isinstance(pbc, Tensor) or pbc.dtype != torch.bool:
            raise TypeError(f"{where}: pbc must be a tensor of bool, got {getattr(pbc, 'dtype', type(pbc).__name__)}")
        check_tensor(where, "pbc", pbc, (3,) if pbc.dim() == 1 else (len(vectors), 3))
        pbc = pbc.expand(len(vectors), 3)
        vectors = _completed(where, vectors, pbc)
        _check_values(where, vectors)
        return cls(vectors, pbc)

    @property
    def num_graphs(self) -> int:
        return len(self.vectors)

    @property
    def device(self) -> torch.device:
        return self.vectors.device

    def to(self, device: torch.device | str) -> "Cell":
        return Cell(self.vectors.to(device), self.pbc.to(device))

    def scaled(self, factor: float) -> "Cell":
        """The boxes of positions that are multiplied by `factor`."""
        return self if factor == 1 else Cell(self.vectors * factor, self.pbc)

    def at_frames(self, frames: Sequence[int]) -> "Cell":
        """The boxes of these frames. Waits for nothing: a CUDA graph may capture it."""
        return self if self.vectors.shape[1] == 1 else self._replace(vectors=of_frames(self.vectors, frames))

    def of_nodes(self, batch: Tensor | None, num_nodes: int) -> Tensor:
        """[N] int64: which of the boxes is each node's. batch [N]: the graph of each node; None: all are one graph."""
        if batch is None or self.num_graphs == 1:
            return torch.zeros(num_nodes, dtype=torch.int64, device=self.device)
        return batch.long()

    def inverse(self) -> Tensor:
        """[G, 1 or T, 3, 3] float64: x times it are fractional coordinates. No gradient, and no wait."""
        a, b, c = self.vectors.detach().double().unbind(-2)
        faces = [torch.linalg.cross(b, c), torch.linalg.cross(c, a), torch.linalg.cross(a, b)]
        return torch.stack(faces, dim=-1) / (a * faces[0]).sum(-1)[..., None, None]

    def heights(self) -> Tensor:
        """[G, 1 or T, 3] float64: the distances between opposite faces."""
        return 1 / torch.linalg.vector_norm(self.inverse(), dim=-2)

    def images_within(self, where: str, cutoff: float | Tensor, name: str = "cutoff") -> tuple[int, int, int]:
        """How many boxes on each side a search has to look at along each vector, from positions within the box.

        cutoff: the same for all, or [G, 1 or T, 1] float64, of each box; name: what the message calls it
        Waits for the device. Raises ValueError where they are more than 64.
        """
        if self.vectors.numel() == 0:
            return (0, 0, 0)
        # A little more, so that rounding loses no pair of positions at opposite faces.
        needed = ((1 + 1e-9) * cutoff / self.heights() + 1e-9).floor() + 1
        needed = torch.where(self.pbc[:, None], needed, 0).flatten(0, 1).amax(0).tolist()
        if max(needed) > MOST_IMAGES:
            came = cutoff if isinstance(cutoff, float) else float(torch.as_tensor(cutoff).max())
            raise ValueError(
                f"{where}: {name} must need at most {MOST_IMAGES} images of the cell along each of its vectors, "
                f"got {came}, which needs {[int(n) for n in needed]}"
            )
        return (int(needed[0]), int(needed[1]), int(needed[2]))

    def shift(self, image: Tensor, graph: Tensor | None, frame: Tensor | None = None) -> Tensor:
        """n C of images n: [M, 3] in the dtype of the vectors, differentiable in them.

        image: [M, 3] int; graph, frame: [M] int64; graph None: of one box of all graphs and frames; frame None: of
        boxes that are the same in all frames
        """
        if graph is None:
            of = self.vectors[0]
        else:
            of = self.vectors[graph, 0 if frame is None or self.vectors.shape[1] == 1 else frame]
        number = image.to(of.dtype)
        # No product of matrices: autocast would take bfloat16 for it, and a GPU tf32. of: [1 or M, 3, 3]
        return number[:, :1] * of[:, 0] + number[:, 1:2] * of[:, 1] + number[:, 2:] * of[:, 2]


def of_frames(boxes: Tensor, frames: Sequence[int]) -> Tensor:
    """Those of boxes [G, T, 3, 3]. Numbers in an index would be copied to the device, which a capture forbids."""
    return torch.stack([boxes[:, t] for t in frames], dim=1)


def _completed(where: str, vectors: Tensor, pbc: Tensor) -> Tensor:
    """Vectors of zeros, along directions that are not periodic, become unit vectors across the others."""
    is_zero = (vectors.detach() == 0).all(-1)  # [G, F, 3]
    if not bool(is_zero.any()):
        return vectors
    wrong = (is_zero & pbc[:, None]).nonzero()
    if len(wrong):
        graph, frame, axis = wrong[0].tolist()
        raise ValueError(
            f"{where}: cell must have a vector for each periodic direction, got zeros for vector {axis} of graph "
            f"{graph}, frame {frame}; pbc says which directions are periodic"
        )
    # The right singular vectors of the vanishing singular values span what the other vectors leave free.
    complement = torch.linalg.svd(vectors.detach().double()).Vh
    place = (~is_zero).sum(-1, keepdim=True) + is_zero.cumsum(-1) - 1
    filled = complement.gather(-2, place.clamp(0, 2)[..., None].expand_as(complement))
    return torch.where(is_zero[..., None], filled.to(vectors.dtype), vectors)


def _check_values(where: str, vectors: Tensor) -> None:
    known = vectors.detach().double()
    finite = known.isfinite()
    if not bool(finite.all()):
        graph, frame, row, column = (~finite).nonzero()[0].tolist()
        raise ValueError(
            f"{where}: cell must be finite, got {known[graph, frame, row, column].item()} in vector {row} of graph "
            f"{graph}, frame {frame}"
        )
    volume, lengths = torch.linalg.det(known).abs(), torch.linalg.vector_norm(known, dim=-1)
    flat = (volume <= _LEAST_VOLUME * lengths.prod(-1)).nonzero()
    if len(flat):
        graph, frame = flat[0].tolist()
        raise ValueError(
            f"{where}: cell must span a volume, got {known[graph, frame].tolist()} of graph {graph}, frame {frame}"
        )
