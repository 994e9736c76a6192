"""The spatial layer as users of PyTorch Geometric write it: one `MessagePassing`. torch_geometric must be installed."""

import torch
from torch import Tensor
from torch_geometric.nn import MessagePassing

from bench.peers.baselines import EfficientEGTN, PlainMLP


class MessagePassingSpatial(MessagePassing):
    """`PlainSpatial` with rows [N, T, ...]: messages and shifts of an edge in one tensor, which is summed."""

    def __init__(self, hidden_dim: int, edge_dim: int, pre_norm: bool):
        super().__init__(aggr="sum", flow="target_to_source", node_dim=0)  # edge_index[0] receives
        self.edge_mlp = PlainMLP(2 * hidden_dim + 1 + edge_dim, hidden_dim, hidden_dim, last_act=True)
        self.coord_mlp = PlainMLP(hidden_dim, hidden_dim, 1)
        self.node_mlp = PlainMLP(2 * hidden_dim, hidden_dim, hidden_dim)
        self.pre_norm = pre_norm

    def forward(self, x: Tensor, h: Tensor, edge_index: Tensor, edge_attr: Tensor | None) -> tuple[Tensor, Tensor]:
        """x [N, D, T], h [N, H, T], edge_attr [E, A, T] or None."""
        x, h = x.transpose(1, 2), h.transpose(1, 2)
        edge_attr = h.new_empty(edge_index.shape[1], h.shape[1], 0) if edge_attr is None else edge_attr.transpose(1, 2)
        sums = self.propagate(edge_index, x=x, h=h, edge_attr=edge_attr, size=(len(x), len(x)))
        m_sum, shift_sum, degree = sums.split([h.shape[2], x.shape[2], 1], dim=2)
        h_out = self.node_mlp(torch.cat([h, m_sum], dim=2))
        return (x + shift_sum / degree.clamp(min=1)).transpose(1, 2), h_out.transpose(1, 2)

    def message(self, x_i: Tensor, x_j: Tensor, h_i: Tensor, h_j: Tensor, edge_attr: Tensor) -> Tensor:
        """[E, T, H + D + 1]: the message, the shift of the receiver, and a 1, whose sum is the degree."""
        r = x_i - x_j  # [E, T, D]
        square = (r * r).sum(2, keepdim=True)
        distance = torch.linalg.vector_norm(r, dim=2, keepdim=True) if self.pre_norm else square
        m = self.edge_mlp(torch.cat([h_i, h_j, distance, edge_attr], dim=2))  # [E, T, H]
        g = self.coord_mlp(m)
        if not self.pre_norm:
            g = g / ((square + 1e-8).sqrt() + 1)
        return torch.cat([m, g * r, torch.ones_like(square)], dim=2)


class MessagePassingEGTN(EfficientEGTN):
    """`EfficientEGTN` around that spatial layer."""

    spatial = MessagePassingSpatial
