"""Periodic boxes as a neighbour search takes them: what is read from the device once, and which pairs are near."""

from typing import NamedTuple

import torch
from torch import Tensor

from geotdm_fast.reference.cell import Cell, of_frames
from geotdm_fast.runtime.checks import check_same_device

# An edge counts boxes in int8: those between two positions as they came, and those that the cutoff spans.
_MOST_COUNTED, MOST_BOXES_AWAY = 127, 60


class CellSearch(NamedTuple):
    """Periodic boxes and how many of their images a search looks at: made once, and good for any number of searches.

    cell: the boxes
    vectors, inverse: [G, 1 or T, 3, 3] float64 - theirs, and `Cell.inverse()`; no gradient
    images: how many boxes on each side are looked at along each vector, 0 where no box is periodic
    sought: what that is enough for: ("cutoff", its value) or ("k", how many nearest ones)

    The same in every implementation, edge by edge, in float64 whatever the dtype of the positions, each operation
    rounded (no fused multiply-add), sums in the order of vectors and coordinates:

        s = x_1 I_1 + x_2 I_2 + x_3 I_3            I: the rows of the inverse
        w = floor(s) in periodic directions, else 0
        x^ = x - (w_1 C_1 + w_2 C_2 + w_3 C_3)
        d = (x^_i - x^_j) - (m_1 C_1 + m_2 C_2 + m_3 C_3),   m = -images .. images
        near: (d_1^2 + d_2^2) + d_3^2 <= cutoff^2

    The image of an edge belongs to the positions as they came: n = m + w_i - w_j. A position that is not finite, or
    more than `most_boxes_away` boxes away from the one at the origin, is near to nothing: n has to fit int8.
    """

    cell: Cell
    vectors: Tensor
    inverse: Tensor
    images: tuple[int, int, int]
    sought: tuple[str, float]

    @classmethod
    def within(
        cls,
        where: str,
        cell: "Tensor | Cell | CellSearch",
        cutoff: float,
        pbc: Tensor | None = None,
        batch: Tensor | None = None,
    ) -> "CellSearch":
        """For neighbours within `cutoff`. Waits for the device, unless `cell` is a `CellSearch`.

        cell, pbc: as `Cell.of` takes them; batch: [N] int64 - the graph of each node, None: all are one
        Raises TypeError / ValueError as `Cell.of` and `Cell.images_within` do, for a graph without a box, and for a
        `CellSearch` of another cutoff.
        """
        if isinstance(cell, CellSearch):
            return cell._of(where, pbc, ("cutoff", float(cutoff)))
        cell = _boxes_of_graphs(where, cell, pbc, batch)
        return cls._made(cell, cell.images_within(where, float(cutoff)), ("cutoff", float(cutoff)))

    @classmethod
    def nearest(
        cls,
        where: str,
        cell: "Tensor | Cell | CellSearch",
        k: int,
        num_nodes: int,
        pbc: Tensor | None = None,
        batch: Tensor | None = None,
    ) -> "CellSearch":
        """For the `k` nearest images, wherever the `num_nodes` nodes are. Otherwise as `within`."""
        if isinstance(cell, CellSearch):
            return cell._of(where, pbc, ("k", k))
        cell = _boxes_of_graphs(where, cell, pbc, batch)
        reach = _reach_of_nearest(cell, k, _nodes_of_boxes(cell, num_nodes, batch))
        return cls._made(cell, cell.images_within(where, reach, f"the reach of k={k}"), ("k", k))

    def looking_into(self, where: str, boxes: Cell, num_nodes: int) -> "CellSearch":
        """The same search, which looks at as many images as any of `boxes` needs, so that it is good for them too.

        boxes: of any number; num_nodes: the fewest that a box has, which matter to a search of the nearest. Waits for
        the device. Raises ValueError as `Cell.images_within` does.
        """
        name, value = self.sought
        about = "" if name == "cutoff" else f"the reach of k={value:.0f}"
        if name != "cutoff":
            nodes = torch.full((boxes.num_graphs,), num_nodes, device=boxes.device)
            value = _reach_of_nearest(boxes, int(value), nodes)
        needed = boxes.images_within(where, value, about)
        (a, b, c), (p, q, r) = self.images, needed
        return self._replace(images=(max(a, p), max(b, q), max(c, r)))

    def with_cell(self, cell: Cell) -> "CellSearch":
        """The same search in other boxes, which must need no more images. Waits for nothing."""
        return self._replace(cell=cell, vectors=cell.vectors.detach().double(), inverse=cell.inverse())

    @classmethod
    def _made(cls, cell: Cell, images: tuple[int, int, int], sought: tuple[str, float]) -> "CellSearch":
        vectors, inverse = cell.vectors.detach().double().contiguous(), cell.inverse().contiguous()
        return cls(cell, vectors, inverse, images, sought)

    def _of(self, where: str, pbc: Tensor | None, sought: tuple[str, float]) -> "CellSearch":
        if pbc is not None:
            raise ValueError(f"{where}: pbc must be None where cell is a CellSearch, which has its own, got {pbc}")
        if sought != self.sought:
            name, value = sought
            raise ValueError(f"{where}: cell must be a CellSearch for {name}={value}, got one for {self.sought}")
        return self

    @property
    def most_boxes_away(self) -> int:
        """How far a position may be from the box at the origin: 60 boxes, fewer where a cutoff spans over 7."""
        return min(MOST_BOXES_AWAY, (_MOST_COUNTED - max(self.images)) // 2)

    def check_fits(self, where: str, x: Tensor) -> None:
        """Raise ValueError unless positions x [N, T, D] can be in the boxes; reads no values."""
        if x.shape[-1] != 3:
            raise ValueError(f"{where}: a cell must come with positions in 3 dimensions, got {x.shape[-1]}")
        check_same_device(where, x=x, cell=self.vectors)
        num_frames = self.vectors.shape[1]
        if num_frames not in (1, x.shape[1]):
            raise ValueError(f"{where}: cell must be of 1 or {x.shape[1]} frames, got {num_frames}")

    def at_frames(self, frames: list[int]) -> "CellSearch":
        """The boxes of these frames. Waits for nothing."""
        if self.vectors.shape[1] == 1:
            return self
        cell, vectors = self.cell.at_frames(frames), of_frames(self.vectors, frames)
        return self._replace(cell=cell, vectors=vectors, inverse=of_frames(self.inverse, frames))

    def to(self, device: torch.device | str) -> "CellSearch":
        return self._replace(
            cell=self.cell.to(device), vectors=self.vectors.to(device), inverse=self.inverse.to(device)
        )

    def numbers(self) -> Tensor:
        """m of every image that is looked at: [K, 3] int8, in lexicographic order."""
        each = [torch.arange(-m, m + 1, dtype=torch.int8, device=self.vectors.device) for m in self.images]
        return torch.cartesian_prod(*each)

    def shifts(self, numbers: Tensor) -> Tensor:
        """m C of images [K, 3] in every box: [G, 1 or T, K, 3] float64, NaN along directions that are not periodic."""
        shift = combined(numbers.double(), self.vectors[:, :, None])
        exists = (self.cell.pbc[:, None] | (numbers == 0)).all(-1)  # [G, K]
        return shift.where(exists[:, None, :, None], torch.nan)

    def wrapped(self, x: Tensor, box: Tensor) -> tuple[Tensor, Tensor]:
        """x^ and w of positions x [N, T, 3] in the boxes of these numbers [N]: float64 and int8.

        NaN and 0 where a position is not finite, or too far away.
        """
        x = x.detach().double()
        w = combined(x, self.inverse[box]).floor().where(self.cell.pbc[box][:, None], 0)
        usable = (x.isfinite() & (w.abs() <= self.most_boxes_away)).all(-1, keepdim=True)
        w = w.where(usable, 0)
        return (x - combined(w, self.vectors[box])).where(usable, torch.nan), w.to(torch.int8)


def squared(cutoff: float) -> float:
    """cutoff^2, rounded."""
    return float(cutoff) * float(cutoff)


def combined(numbers: Tensor, vectors: Tensor) -> Tensor:
    """numbers [..., 3] times the rows of vectors [..., 3, 3], added in their order, each operation rounded."""
    terms = [numbers[..., k, None] * vectors[..., k, :] for k in range(3)]
    return terms[0] + terms[1] + terms[2]


def check_near_enough(where: str, x: Tensor, boxes: CellSearch, batch: Tensor | None) -> None:
    """Raise ValueError for the first position of x [N, T, 3] that is too many boxes away. Waits for the device."""
    x = x.detach().double()
    box = boxes.cell.of_nodes(batch, len(x))
    w = combined(x, boxes.inverse[box]).floor().where(boxes.cell.pbc[box][:, None], 0)
    far = (w.abs() > boxes.most_boxes_away).nonzero()
    if len(far):
        node, frame, axis = far[0].tolist()
        raise ValueError(
            f"{where}: x must be at most {boxes.most_boxes_away} boxes away from the one at the origin, got node "
            f"{node}, frame {frame}, which is {w[node, frame, axis]:.0f} boxes away along vector {axis}; move the "
            "positions of a graph by whole vectors of its cell"
        )


def _boxes_of_graphs(where: str, cell: Tensor | Cell, pbc: Tensor | None, batch: Tensor | None) -> Cell:
    """The boxes, one for all graphs or one for each."""
    cell = Cell.of(where, cell, pbc)
    last = 0 if batch is None or batch.numel() == 0 else int(batch.max())
    if cell.num_graphs > 1 and batch is None:
        raise ValueError(f"{where}: cell must be of 1 graph where there is no batch, got {cell.num_graphs}")
    if cell.num_graphs != 1 and last >= cell.num_graphs:
        raise ValueError(f"{where}: cell must have a box for graph {last} of batch, got {cell.num_graphs} boxes")
    return cell


def _nodes_of_boxes(cell: Cell, num_nodes: int, batch: Tensor | None) -> Tensor:
    """[G] int64: how many nodes are in each box, at least; of graphs that share one, in the smallest."""
    if batch is None:
        return torch.full((cell.num_graphs,), num_nodes, device=cell.device)
    nodes = torch.bincount(batch.long(), minlength=cell.num_graphs)
    if cell.num_graphs > 1 or len(batch) == 0:
        return nodes[: cell.num_graphs]
    return nodes[nodes > 0].amin()[None]


def _reach_of_nearest(cell: Cell, k: int, num_nodes: Tensor) -> Tensor:
    """[G, 1 or T, 1] float64: within so far of any position of a box that holds `num_nodes` [G] are k images and more.

    A node's own images are at the lattice's vectors. An image of each other node is within the covering radius, at most
    half the diagonal of the box that Gram and Schmidt make of the vectors (Babai, 1986), and others are at the
    lattice's vectors from it.
    """
    vectors = cell.vectors.detach().double()
    reach = vectors.new_zeros(*vectors.shape[:2], 1)
    for pattern in cell.pbc.unique(dim=0):
        rank = int(pattern.sum())
        if rank == 0:
            continue
        graphs = (cell.pbc == pattern).all(-1)
        own = vectors[graphs][:, :, pattern]  # [G', F, rank, 3]
        most = 1
        while (2 * most + 1) ** rank <= k:
            most += 1
        steps = torch.arange(-most, most + 1, dtype=torch.float64, device=own.device)
        numbers = torch.cartesian_prod(*[steps] * rank).view(-1, rank)
        lengths = torch.linalg.vector_norm(numbers @ own, dim=-1).sort().values  # [G', F, L], 0 first
        found = lengths[..., k, None]
        if rank == 3:
            others = (num_nodes[graphs] - 1).clamp(min=0)
            covering = torch.linalg.qr(own.mT).R.diagonal(dim1=-2, dim2=-1).square().sum(-1, keepdim=True).sqrt() / 2
            each = (k - 1) // others.clamp(min=1) + 1  # images of each other node
            of_others = covering + lengths.gather(-1, (each - 1)[:, None, None].expand_as(covering))
            found = torch.where((others > 0)[:, None, None], found.minimum(of_others), found)
        reach[graphs] = found
    return reach
