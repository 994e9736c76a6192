"""Attention over frames with several heads and rotary positions, and updates of the positions by gated vectors."""

from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from geotdm_fast.ays.vectors import GVP
from geotdm_fast.nn.layers import TemporalLayer, check_silu
from geotdm_fast.nn.mlp import MLP, weight_and_bias
from geotdm_fast.reference.gv_ff import gated_perceptron
from geotdm_fast.reference.linear import mlp

# W1, b1, W2, b2: `MLP.tensors`.
_MLPWeights: TypeAlias = tuple[Tensor, Tensor, Tensor, Tensor]


class RotaryEmbedding(nn.Module):
    """Turns pairs of numbers by angles that grow with the frame: the pair (2m, 2m+1) by t 10000^(-2m/d).

    dim: d, even; freqs [d / 2]: a constant, which officially is a parameter that is not learned
    """

    def __init__(self, dim: int):
        super().__init__()
        self.freqs = nn.Parameter(10000.0 ** (-torch.arange(0, dim, 2).float() / dim), requires_grad=False)

    def forward(self, q: Tensor, frames: Tensor) -> Tensor:
        """q [..., T, d] of frames [T]."""
        return _rotated(q, frames, self.freqs)


class PreparedHeads(NamedTuple):
    """`ETAttention` as a call reads it.

    q, k, v, x: weights and biases of the MLPs; freqs: of `RotaryEmbedding`; h_out: weight and bias; v_out: of the `GVP`
    """

    q: _MLPWeights
    k: _MLPWeights
    v: _MLPWeights
    x: _MLPWeights
    freqs: Tensor
    h_out: tuple[Tensor, ...]
    v_out: tuple[Tensor, ...]
    n_heads: int

    def run(self, x: Tensor, h: Tensor, frames: Sequence[int] | None = None) -> tuple[Tensor, Tensor]:
        """x [N, T, 3], h [N, T, H] to the same shapes; frames: numbers when not 0..T-1."""
        flat = mlp(h, *self.v)
        projections = _Projections(mlp(h, *self.q), mlp(h, *self.k), flat, mlp(flat, *self.x))
        rotated = lambda q, times: _rotated(q, times, self.freqs)
        h_out = lambda value: linear(value, *self.h_out)
        v_out = lambda h, u: gated_perceptron(h, u, self.v_out, True, "fp32")
        return _attend(x, h, projections, rotated, h_out, v_out, self.n_heads, frames)


class _Projections(NamedTuple):
    """[N, T, n d] of queries, keys and values, and the gates [N, T, n]."""

    q: Tensor
    k: Tensor
    v: Tensor
    gate: Tensor


class ETAttention(TemporalLayer):
    """Equivariant temporal attention of n heads, d wide; it takes the place of `ETLayer` with `use_mha`.

        alpha = softmax_s(q_t . k_s / sqrt(d)),    h_t' = h_t + h_out(sum_s alpha v_s)
        u_t = sum_s alpha g_s (x_t - x_s), n vectors,    g = x_mlp(v), a number for each head
        U = W_h u_t,    p = silu(W [h_t', |U|] + b),    x_t' = x_t + sigmoid(G p + d) (W_u U)

    q and k of frame t are turned by `RotaryEmbedding`.
    node_dim: H; kq_dim: d of q and k, even; v_dim: that of v; n_heads: n; act_fn: nn.SiLU()
    Memory grows with n T^2 for each node. Arguments and state-dict keys are the official ones.
    """

    def __init__(self, node_dim: int, kq_dim: int, v_dim: int, n_heads: int, act_fn: nn.Module):
        super().__init__(node_dim)
        check_silu("ETAttention", act_fn)
        if kq_dim % 2:
            raise ValueError(f"ETAttention: kq_dim must be even, got {kq_dim}")
        self.n_heads = n_heads
        self.q_mlp = MLP(node_dim, node_dim, n_heads * kq_dim, act_fn)
        self.k_mlp = MLP(node_dim, node_dim, n_heads * kq_dim, act_fn)
        self.v_mlp = MLP(node_dim, node_dim, n_heads * v_dim, act_fn)
        self.x_mlp = MLP(n_heads * v_dim, node_dim, n_heads, act_fn)
        self.rotary_emb = RotaryEmbedding(kq_dim)
        self.h_out = nn.Linear(n_heads * v_dim, node_dim)
        self.v_out = GVP(
            dim_vectors_in=n_heads,
            dim_vectors_out=1,
            dim_feats_in=node_dim,
            dim_feats_out=node_dim,
            feats_activation=nn.SiLU(),
        )

    @property
    def prepared(self) -> PreparedHeads:
        """The parameters as they are now, and what is computed with them."""
        mlps = (self.q_mlp.tensors, self.k_mlp.tensors, self.v_mlp.tensors, self.x_mlp.tensors)
        h_out = weight_and_bias(self.h_out)
        return PreparedHeads(*mlps, self.rotary_emb.freqs, h_out, self.v_out.tensors, self.n_heads)

    def called_rows(self, x: Tensor, h: Tensor, frames: Sequence[int] | None = None) -> tuple[Tensor, Tensor]:
        """`rows` by calls of the parts as they are: with hooks, or of somebody else."""
        flat = self.v_mlp(h)
        projections = _Projections(self.q_mlp(h), self.k_mlp(h), flat, self.x_mlp(flat))
        return _attend(x, h, projections, self.rotary_emb, self.h_out, self.v_out, self.n_heads, frames)


def _attend(
    x: Tensor,
    h: Tensor,
    projections: _Projections,
    rotated: Callable[[Tensor, Tensor], Tensor],
    h_out: Callable[[Tensor], Tensor],
    v_out: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]],
    n_heads: int,
    frames: Sequence[int] | None,
) -> tuple[Tensor, Tensor]:
    """x [N, T, 3], h [N, T, H] to the same shapes; frames: numbers when not 0..T-1."""
    times = torch.arange(h.shape[1], device=h.device) if frames is None else torch.tensor(frames, device=h.device)
    heads = lambda z: z.unflatten(-1, (n_heads, -1)).transpose(1, 2)  # [N, n, T, d]
    gate = projections.gate.transpose(1, 2)  # [N, n, T]
    q, k = (rotated(heads(z), times) for z in (projections.q, projections.k))
    alpha = torch.softmax(q @ k.transpose(-2, -1) / q.shape[-1] ** 0.5, dim=-1)  # [N, n, T, T]
    h = h + h_out((alpha @ heads(projections.v)).transpose(1, 2).flatten(2))
    weight = alpha * gate[:, :, None]
    # sum_s w_ts (x_t - x_s): of differences, which do not depend on where the molecule is.
    x_0 = x - x.mean(dim=1, keepdim=True)
    u = weight.sum(-1, keepdim=True) * x_0[:, None] - weight @ x_0[:, None]  # [N, n, T, 3]
    _, move = v_out(h, u.transpose(1, 2))
    return x + move.squeeze(-2), h


def _rotated(q: Tensor, frames: Tensor, freqs: Tensor) -> Tensor:
    """q [..., T, d] of frames [T]."""
    angle = frames[:, None].to(freqs.dtype) * freqs  # [T, d / 2]
    cos, sin = angle.cos().to(q.dtype), angle.sin().to(q.dtype)
    even, odd = q[..., 0::2], q[..., 1::2]
    return torch.stack([even * cos - odd * sin, odd * cos + even * sin], dim=-1).flatten(-2)
