"""The motions of a batch that the results of an equivariant model follow."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from geotdm_fast.data.trajectory import Batch

MOTIONS = ("rotation", "reflection", "translation", "nodes", "graphs", "frames")


@dataclass(frozen=True)
class Motion:
    """x to x Q^T + shift; node k of the moved batch is node order[k] of the other, edge k is edge edge_order[k].

    frame_shift: how many places later every frame comes; the last ones come first
    """

    q: Tensor
    shift: Tensor
    order: Tensor
    edge_order: Tensor
    batch: Tensor
    frame_shift: int = 0

    def turned(self, x: Tensor) -> Tensor:
        """Vectors [N, D, T], as noise: turned, renumbered and later, not shifted in space."""
        return self.renumbered(torch.einsum("de,net->ndt", self.q.to(x), x))

    def renumbered(self, h: Tensor) -> Tensor:
        """Features [N, F, T], which no turn changes: of the nodes and frames in their new order."""
        return h[self.order].roll(self.frame_shift, dims=-1)

    def moved(self, x: Tensor) -> Tensor:
        return self.turned(x) + self.shift.to(x)[:, None]

    def __call__(self, batch: Batch) -> Batch:
        place = torch.empty_like(self.order)
        place[self.order] = torch.arange(len(self.order))
        first = torch.searchsorted(self.batch, torch.arange(batch.num_graphs))
        graphs = batch.batch[self.order[first]]  # which graph of the other batch each one is
        return replace(
            batch,
            x=self.moved(batch.x),
            h=self.renumbered(batch.h) if batch.h.dim() == 3 else batch.h[self.order],
            edge_index=place[batch.edge_index[:, self.edge_order]],
            edge_attr=None if batch.edge_attr is None else batch.edge_attr[self.edge_order],
            scored=place[batch.scored].sort().values,
            batch=self.batch,
            conditions=None if batch.conditions is None else batch.conditions[graphs],
        )


def motion(name: str, batch: Batch) -> Motion:
    """A motion of `MOTIONS` for a batch: always the same one."""
    dim, generator = batch.x.shape[1], torch.Generator().manual_seed(21)
    q, shift = torch.eye(dim, dtype=torch.float64), torch.zeros(dim, dtype=torch.float64)
    order, edge_order = torch.arange(len(batch.x)), torch.arange(batch.edge_index.shape[1])
    owner = batch.batch
    if name in ("rotation", "reflection"):
        q, _ = torch.linalg.qr(torch.randn(dim, dim, generator=generator, dtype=torch.float64))
        if (torch.linalg.det(q) < 0) == (name == "rotation"):
            q = torch.cat([-q[:1], q[1:]])
    elif name == "translation":
        # Ten times as far as the data are wide: what a float loses there it loses for a good reason.
        shift = 10 * batch.x.std() * torch.tensor([1.0, -0.7, 0.4], dtype=torch.float64)[:dim]
    elif name in ("nodes", "graphs"):
        graphs = [(owner == graph).nonzero()[:, 0] for graph in range(batch.num_graphs)]
        if name == "graphs":
            graphs = graphs[1:] + graphs[:1]
            owner = torch.repeat_interleave(torch.arange(len(graphs)), torch.tensor([len(g) for g in graphs]))
        else:
            graphs = [nodes[torch.randperm(len(nodes), generator=generator)] for nodes in graphs]
        order = torch.cat(graphs)
        edge_order = torch.randperm(len(edge_order), generator=generator)
    return Motion(q, shift, order, edge_order, owner, frame_shift=int(name == "frames"))
