"""EqMotion (Xu et al. 2023, arXiv 2303.10876): the small network behind the classification and prediction scores.

The scores use one layer, 16 channels and no velocities; the constructor also takes the official arguments. Parameters
that are without effect there, or everywhere, exist all the same (state dicts load strictly).
"""

import math
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

NUM_CATEGORIES = 2
# Of the scores.
HIDDEN = 16
_EPS = 1e-6  # against division by the length of a velocity


@dataclass(frozen=True)
class Sizes:
    """frames_in, frames_out; nodes: features of a node; hidden: width of features; channels: vectors of a node;
    layers; residual: whether features are added to those of the layer before."""

    frames_in: int
    frames_out: int
    nodes: int
    hidden: int = HIDDEN
    channels: int = HIDDEN
    layers: int = 1
    residual: bool = True


class EqMotion(nn.Module):
    """Equivariant forecast of `frames_out` frames from `frames_in`, and invariant features of every node.

    `EqMotion(frames_in, frames_out)` is the network of the scores. The official arguments make any other:

    in_node_nf, hidden_nf: features of a node, before and inside (hidden_nf even)
    in_channel, out_channel: frames given and predicted; hid_channel: vectors of a node inside
    n_layers, recurrent: layers, and whether each adds its features to those before (official defaults: 4, False)
    device, act_fn: where the parameters are, and the activation (SiLU)
    in_edge_nf, coords_weight, norm_diff, tanh: without effect, as in the official code

    Random initialisation, from the global generator. Raises ValueError for sizes below 1, TypeError for missing ones.
    """

    dct_in: Tensor
    dct_out: Tensor

    def __init__(
        self,
        frames_in: int | None = None,
        frames_out: int | None = None,
        hidden_nf: int | None = None,
        in_channel: int | None = None,
        hid_channel: int | None = None,
        out_channel: int | None = None,
        device: torch.device | str | int | None = None,
        act_fn: nn.Module | None = None,
        n_layers: int = 4,
        coords_weight: float = 1.0,
        recurrent: bool = False,
        norm_diff: bool = False,
        tanh: bool = False,
        *,
        in_node_nf: int | None = None,
        in_edge_nf: int | None = None,
    ):
        super().__init__()
        official = (hidden_nf, in_channel, hid_channel, out_channel)
        if all(size is None for size in (*official, in_node_nf, in_edge_nf)):
            sizes = Sizes(frames_in, frames_out, frames_in)  # type: ignore[arg-type]  # `_check` refuses None
        else:
            # By position the official in_node_nf and in_edge_nf come first.
            nodes = frames_in if in_node_nf is None else in_node_nf
            given = cast(
                "tuple[int, int, int, int, int]", (in_channel, out_channel, nodes, hidden_nf, hid_channel)
            )  # or None
            sizes = Sizes(*given, n_layers, recurrent)
        _check(sizes)
        act = nn.SiLU() if act_fn is None else act_fn
        hidden, channels = sizes.hidden, sizes.channels
        self.frames_in = sizes.frames_in
        self.frames_out = sizes.frames_out
        self.n_layers = sizes.layers
        self._nodes = sizes.nodes
        self.embedding = nn.Linear(sizes.nodes, hidden // 2)
        self.embedding2 = nn.Linear(sizes.nodes, hidden // 2)
        self.coord_trans = nn.Linear(sizes.frames_in, channels, bias=False)
        self.vel_trans = nn.Linear(sizes.frames_in, channels, bias=False)
        self.predict_head = nn.Linear(channels, sizes.frames_out, bias=False)
        self.edge_mlp = _mlp(2 * hidden + 2 * channels, hidden, hidden, act)
        self.coord_mlp = _mlp(2 * channels, hidden, 2 * channels, act)
        self.node_mlp = _mlp(2 * hidden, hidden, hidden, act)
        self.category_mlp = _mlp(2 * hidden + 2 * channels, hidden, NUM_CATEGORIES, act)
        for i in range(sizes.layers):
            self.add_module(f"gcl_{i}", FeatureLayer(sizes, act))
        self.register_buffer("dct_in", _dct(sizes.frames_in), persistent=False)
        self.register_buffer("dct_out", _dct(sizes.frames_out), persistent=False)
        if device is not None:
            self.to(device)

    def forward(
        self, nodes: Tensor, loc: Tensor, vel: Tensor | None = None, edge_attr: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Forecast and node features.

        nodes: [B, N, F] float - invariant features; of the network of the scores, one for each frame
        loc: [B, N, frames_in, D] float - positions
        vel: [B, N, frames_in, D] float - velocities; None: zero. Their angles are features: F must be frames_in
        edge_attr: unused, as in the official code
        returns: loc_out [B, N, frames_out, D], h_out [B, N, H]
        Raises ValueError for wrong shapes.
        """
        if loc.dim() != 4 or loc.shape[2] != self.frames_in:
            raise ValueError(f"EqMotion: loc must be [B, N, {self.frames_in}, D], got {list(loc.shape)}")
        if nodes.shape != (*loc.shape[:2], self._nodes):
            expected = [*loc.shape[:2], self._nodes]
            raise ValueError(f"EqMotion: nodes must be {expected}, got {list(nodes.shape)}")
        if vel is not None and vel.shape != loc.shape:
            raise ValueError(f"EqMotion: vel must be {list(loc.shape)} like loc, got {list(vel.shape)}")
        if vel is not None and self._nodes != self.frames_in:
            raise ValueError(f"EqMotion: vel needs in_node_nf = in_channel = {self.frames_in}, got {self._nodes}")
        centre = loc.mean((1, 2), keepdim=True)
        x = self.dct_in.to(loc.dtype) @ (loc - centre)  # [B, N, frames_in, D]
        x = _mix_centred(self.coord_trans, x)  # [B, N, C, D]
        if vel is None:
            # The angle between a zero velocity and itself is a right angle in the official code.
            angle, v = torch.full_like(nodes[:1, :1], math.pi / 2), None
        else:
            angle, v = _turns(vel), _mix(self.vel_trans, self.dct_in.to(loc.dtype) @ vel)
        h = torch.cat([self.embedding(nodes), self.embedding2(angle).expand(*nodes.shape[:2], -1)], dim=-1)
        category = self.categories(h, x, v)
        for i in range(self.n_layers):
            h, x = self.get_submodule(f"gcl_{i}")(h, x, category, v)
        x = _mix_centred(self.predict_head, x)
        return self.dct_out.to(loc.dtype).T @ x + centre, h

    def categories(self, h: Tensor, x: Tensor, v: Tensor | None = None) -> Tensor:
        """Weights of the kinds of interaction that each pair may have, [B, N, N, 2], summing to one."""
        distance = torch.linalg.vector_norm(_differences(x), dim=-1)  # [B, N, N, C]
        of_velocities = torch.zeros_like(distance)
        if v is not None:
            of_velocities = torch.linalg.vector_norm(_differences(v), dim=-1)
        distance = self.coord_mlp(torch.cat([distance, of_velocities], dim=-1))
        message = self.edge_mlp(_pair(h, distance))
        h = self.node_mlp(torch.cat([h, _sum_over_others(message)], dim=-1))
        return self.category_mlp(_pair(h, distance)).softmax(-1)


class FeatureLayer(nn.Module):
    """One round of messages between nodes and of mixing of each node's own channels."""

    def __init__(self, sizes: Sizes, act: nn.Module):
        super().__init__()
        hidden, channels = sizes.hidden, sizes.channels
        self.residual = sizes.residual
        self.coord_vel = nn.Linear(channels, channels, bias=False)
        small = nn.Linear(hidden, channels, bias=False)
        nn.init.xavier_uniform_(small.weight, gain=0.001)
        self.coord_mlp = nn.Sequential(nn.Linear(hidden, hidden), act, small)  # no effect: categories are used
        self.edge_mlp = _mlp(2 * hidden + channels, hidden, hidden, act)
        self.category_mlp = nn.ModuleList(
            [_mlp(2 * hidden + channels, hidden, channels, act) for _ in range(NUM_CATEGORIES)]
        )
        self.factor_mlp = _mlp(channels, channels, channels, act)
        self.node_mlp = nn.Sequential(nn.Linear(2 * hidden, hidden), act, nn.Linear(hidden, hidden))
        self.node_att_mlp = nn.Sequential(nn.Linear(channels, channels), act, nn.Linear(channels, 1))  # never called
        self.layer_q = nn.Linear(channels, channels, bias=False)
        self.layer_k = nn.Linear(channels, channels, bias=False)
        self.mlp_q = nn.Sequential(nn.Linear(hidden, channels), act)

    def forward(self, h: Tensor, x: Tensor, category: Tensor, v: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """h [B, N, H], x [B, N, C, D], category [B, N, N, 2], v [B, N, C, D] or None (zero) -> h, x."""
        difference = _differences(x)
        pair = _pair(h, torch.linalg.vector_norm(difference, dim=-1))  # [B, N, N, 2 H + C]
        factor = sum(category[..., i, None] * mlp(pair) for i, mlp in enumerate(self.category_mlp))
        x = x + self.mlp_q(h)[..., None] * (x - _centre(x))
        x = x + (self.factor_mlp(factor)[..., None] * difference).sum(2)
        if v is not None:
            x = x + _mix(self.coord_vel, v)
        x = self.rectify(x)
        message = _sum_over_others(self.edge_mlp(pair))
        out = self.node_mlp(torch.cat([h, message], dim=-1))
        return (h + out if self.residual else out), x

    def rectify(self, x: Tensor) -> Tensor:
        """Equivariant ReLU: the part of each vector q that points against its direction k is removed."""
        centre = _centre(x)
        q, k = _mix(self.layer_q, x - centre), _mix(self.layer_k, x - centre)
        along = (q * k).sum(-1, keepdim=True)
        return q - along.clamp(max=0) / (k.square().sum(-1, keepdim=True) + 1e-4) * k + centre


def _check(sizes: Sizes) -> None:
    """TypeError for a size that is missing, ValueError for one below 1."""
    official = {"nodes": "in_node_nf", "hidden": "hidden_nf", "channels": "hid_channel", "layers": "n_layers"}
    for name in ("frames_in", "frames_out", "nodes", "hidden", "channels", "layers"):
        value = getattr(sizes, name)
        said = official.get(name, name)
        if value is None:
            frames = "frames_in and frames_out, or in_channel, out_channel, in_node_nf, hidden_nf and hid_channel"
            raise TypeError(f"EqMotion: the constructor needs {frames}; {said} is missing")
        if value < 1:
            raise ValueError(f"EqMotion: {said} must be at least 1, got {value}")
    if sizes.hidden % 2:
        raise ValueError(f"EqMotion: hidden_nf must be even, got {sizes.hidden}")


def _mlp(width_in: int, width: int, width_out: int, act: nn.Module) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width_in, width), act, nn.Linear(width, width_out), act)


def _turns(vel: Tensor) -> Tensor:
    """[B, N, T] the angle between each frame's velocity and the one before; the first frame's with itself."""
    before = torch.cat([vel[:, :, :1], vel[:, :, :-1]], dim=2)
    lengths = [torch.linalg.vector_norm(vector, dim=-1) + _EPS for vector in (before, vel)]
    return ((before * vel).sum(-1) / (lengths[0] * lengths[1])).clamp(-1, 1).acos()


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
