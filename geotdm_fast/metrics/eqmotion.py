"""EqMotion (Xu et al. 2023, arXiv 2303.10876): the small network behind the classification and prediction scores.

One layer, 16 channels, velocities zero, with the parameter names of the public code. Parameters that zero velocities
leave without effect exist (state dicts load strictly) but are not computed with.
"""

import math

import torch
from torch import Tensor, nn

HIDDEN = 16
NUM_CATEGORIES = 2


class EqMotion(nn.Module):
    """Equivariant forecast of `frames_out` frames from `frames_in`, and invariant features of every node.

    Random initialisation, from the global generator.
    """

    def __init__(self, frames_in: int, frames_out: int):
        super().__init__()
        for name, value in (("frames_in", frames_in), ("frames_out", frames_out)):
            if value < 1:
                raise ValueError(f"EqMotion: {name} must be at least 1, got {value}")
        self.frames_in = frames_in
        self.frames_out = frames_out
        self.embedding = nn.Linear(frames_in, HIDDEN // 2)
        self.embedding2 = nn.Linear(frames_in, HIDDEN // 2)
        self.coord_trans = nn.Linear(frames_in, HIDDEN, bias=False)
        self.vel_trans = nn.Linear(frames_in, HIDDEN, bias=False)  # no effect: velocities are zero
        self.predict_head = nn.Linear(HIDDEN, frames_out, bias=False)
        self.edge_mlp = _mlp(4 * HIDDEN, HIDDEN, HIDDEN)
        self.coord_mlp = _mlp(2 * HIDDEN, HIDDEN, 2 * HIDDEN)
        self.node_mlp = _mlp(2 * HIDDEN, HIDDEN, HIDDEN)
        self.category_mlp = _mlp(4 * HIDDEN, HIDDEN, NUM_CATEGORIES)
        self.gcl_0 = FeatureLayer()
        self.register_buffer("dct_in", _dct(frames_in), persistent=False)
        self.register_buffer("dct_out", _dct(frames_out), persistent=False)

    def forward(self, nodes: Tensor, loc: Tensor) -> tuple[Tensor, Tensor]:
        """Forecast and node features.

        nodes: [B, N, frames_in] float - invariant features, one for each frame
        loc: [B, N, frames_in, D] float - positions
        returns: loc_out [B, N, frames_out, D], h_out [B, N, 16]
        Raises ValueError for wrong shapes.
        """
        if loc.dim() != 4 or loc.shape[2] != self.frames_in:
            raise ValueError(f"EqMotion: loc must be [B, N, {self.frames_in}, D], got {list(loc.shape)}")
        if nodes.shape != loc.shape[:3]:
            raise ValueError(f"EqMotion: nodes must be {list(loc.shape[:3])}, got {list(nodes.shape)}")
        centre = loc.mean((1, 2), keepdim=True)
        x = self.dct_in.to(loc.dtype) @ (loc - centre)  # [B, N, frames_in, D]
        x = _mix_centred(self.coord_trans, x)  # [B, N, 16, D]
        # The angle between a zero velocity and itself is a right angle in the public code.
        angle = torch.full_like(nodes[:1, :1], math.pi / 2)
        h = torch.cat([self.embedding(nodes), self.embedding2(angle).expand(*nodes.shape[:2], -1)], dim=-1)
        h, x = self.gcl_0(h, x, self.categories(h, x))
        x = _mix_centred(self.predict_head, x)
        return self.dct_out.to(loc.dtype).T @ x + centre, h

    def categories(self, h: Tensor, x: Tensor) -> Tensor:
        """Weights of the kinds of interaction that each pair may have, [B, N, N, 2], summing to one."""
        distance = torch.linalg.vector_norm(_differences(x), dim=-1)  # [B, N, N, 16]
        # The second half holds the distances of the velocities.
        distance = self.coord_mlp(torch.cat([distance, torch.zeros_like(distance)], dim=-1))
        message = self.edge_mlp(_pair(h, distance))
        h = self.node_mlp(torch.cat([h, _sum_over_others(message)], dim=-1))
        return self.category_mlp(_pair(h, distance)).softmax(-1)


class FeatureLayer(nn.Module):
    """One round of messages between nodes and of mixing of each node's own channels."""

    def __init__(self):
        super().__init__()
        self.coord_vel = nn.Linear(HIDDEN, HIDDEN, bias=False)  # no effect: velocities are zero
        small = nn.Linear(HIDDEN, HIDDEN, bias=False)
        nn.init.xavier_uniform_(small.weight, gain=0.001)
        self.coord_mlp = nn.Sequential(nn.Linear(HIDDEN, HIDDEN), nn.SiLU(), small)  # no effect: categories are used
        self.edge_mlp = _mlp(3 * HIDDEN, HIDDEN, HIDDEN)
        self.category_mlp = nn.ModuleList([_mlp(3 * HIDDEN, HIDDEN, HIDDEN) for _ in range(NUM_CATEGORIES)])
        self.factor_mlp = _mlp(HIDDEN, HIDDEN, HIDDEN)
        self.node_mlp = nn.Sequential(nn.Linear(2 * HIDDEN, HIDDEN), nn.SiLU(), nn.Linear(HIDDEN, HIDDEN))
        self.node_att_mlp = nn.Sequential(nn.Linear(HIDDEN, HIDDEN), nn.SiLU(), nn.Linear(HIDDEN, 1))  # never called
        self.layer_q = nn.Linear(HIDDEN, HIDDEN, bias=False)
        self.layer_k = nn.Linear(HIDDEN, HIDDEN, bias=False)
        self.mlp_q = nn.Sequential(nn.Linear(HIDDEN, HIDDEN), nn.SiLU())

    def forward(self, h: Tensor, x: Tensor, category: Tensor) -> tuple[Tensor, Tensor]:
        """h [B, N, 16], x [B, N, 16, D], category [B, N, N, 2] -> h, x."""
        difference = _differences(x)
        pair = _pair(h, torch.linalg.vector_norm(difference, dim=-1))  # [B, N, N, 48]
        factor = sum(category[..., i, None] * mlp(pair) for i, mlp in enumerate(self.category_mlp))
        x = x + self.mlp_q(h)[..., None] * (x - _centre(x))
        x = x + (self.factor_mlp(factor)[..., None] * difference).sum(2)
        x = self.rectify(x)
        message = _sum_over_others(self.edge_mlp(pair))
        return h + self.node_mlp(torch.cat([h, message], dim=-1)), x

    def rectify(self, x: Tensor) -> Tensor:
        """Equivariant ReLU: the part of each vector q that points against its direction k is removed."""
        centre = _centre(x)
        q, k = _mix(self.layer_q, x - centre), _mix(self.layer_k, x - centre)
        along = (q * k).sum(-1, keepdim=True)
        return q - along.clamp(max=0) / (k.square().sum(-1, keepdim=True) + 1e-4) * k + centre


def _mlp(width_in: int, width: int, width_out: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width_in, width), nn.SiLU(), nn.Linear(width, width_out), nn.SiLU())


def _mix(linear: nn.Linear, x: Tensor) -> Tensor:
    """Mix the channels of x [B, N, C, D]: a linear map that commutes with rotations."""
    return linear.weight @ x


def _mix_centred(linear: nn.Linear, x: Tensor) -> Tensor:
    """Mix the channels about their mean, which also moves with translations."""
    centre = _centre(x)
    return _mix(linear, x - centre) + centre


def _centre(x: Tensor) -> Tensor:
    return x.mean((1, 2), keepdim=True)


def _differences(x: Tensor) -> Tensor:
    return x[:, :, None] - x[:, None]  # [B, N, N, C, D]


def _pair(h: Tensor, edge: Tensor) -> Tensor:
    """[h_i, h_j, edge_ij] for every pair."""
    num_nodes = h.shape[1]
    receiver = h[:, :, None].expand(-1, -1, num_nodes, -1)
    sender = h[:, None].expand(-1, num_nodes, -1, -1)
    return torch.cat([receiver, sender, edge], dim=-1)


def _sum_over_others(message: Tensor) -> Tensor:
    return message.sum(2) - message.diagonal(dim1=1, dim2=2).transpose(1, 2)


def _dct(num_frames: int) -> Tensor:
    """The orthonormal discrete cosine transform, [frequency, frame]."""
    frame = torch.arange(num_frames, dtype=torch.float64)
    matrix = torch.cos(math.pi / num_frames * frame[:, None] * (frame + 0.5)) * math.sqrt(2 / num_frames)
    matrix[0] /= math.sqrt(2)
    return matrix
