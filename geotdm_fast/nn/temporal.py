"""The temporal layer of the paper: attention over the frames of every node."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from geotdm_fast import ops
from geotdm_fast.nn.layers import TemporalLayer, check_silu
from geotdm_fast.nn.mlp import MLP
from geotdm_fast.reference import TemporalAttentionParams
from geotdm_fast.reference.temporal_attention import attend, embedded_lags
from geotdm_fast.runtime.checks import check_window


class PreparedAttention(NamedTuple):
    """`ETLayer` as a call reads it."""

    params: TemporalAttentionParams
    precision: str
    window: int | None

    def run(self, x: Tensor, h: Tensor, frames: Sequence[int] | None = None) -> tuple[Tensor, Tensor]:
        """x [N, T, D], h [N, T, H] to the same shapes; frames: numbers when not 0..T-1."""
        return ops.temporal_attention(x, h, self.params, window=self.window, frames=frames, precision=self.precision)


class ETLayer(TemporalLayer):
    """Equivariant temporal attention; formula in `geotdm_fast.reference.temporal_attention`.

    node_dim and hidden_dim must be equal; act_fn: nn.SiLU(); time_emb_dim: width of the sinusoid of t - s
    relative_time: False takes psi for zero: the order of the frames no longer matters, and there is no `time_emb`
    window: a frame sees only those at most so many frames away; None: all
    """

    no_time_weight: Tensor
    no_time_bias: Tensor

    def __init__(
        self,
        node_dim: int,
        hidden_dim: int,
        act_fn: nn.Module,
        time_emb_dim: int,
        *,
        relative_time: bool = True,
        window: int | None = None,
    ):
        super().__init__(hidden_dim)
        check_window("ETLayer", window)
        check_silu("ETLayer", act_fn)
        if node_dim != hidden_dim:
            raise ValueError(f"ETLayer: hidden_dim must equal node_dim {node_dim}, got {hidden_dim}")
        self.q_mlp = MLP(node_dim, hidden_dim, hidden_dim, act_fn)
        self.k_mlp = MLP(node_dim, hidden_dim, hidden_dim, act_fn)
        self.v_mlp = MLP(node_dim, hidden_dim, node_dim, act_fn)
        self.x_mlp = MLP(node_dim, hidden_dim, 1, act_fn)
        if relative_time:
            self.time_emb = nn.Linear(time_emb_dim, hidden_dim)
        else:
            self.register_buffer("no_time_weight", torch.zeros(hidden_dim, time_emb_dim), persistent=False)
            self.register_buffer("no_time_bias", torch.zeros(hidden_dim), persistent=False)
        self.time_emb_dim = time_emb_dim
        self.window = window

    def called_rows(self, x: Tensor, h: Tensor, frames: Sequence[int] | None = None) -> tuple[Tensor, Tensor]:
        """`rows` by calls of the MLPs as they are: with hooks, or parts of somebody else."""
        frames = list(range(x.shape[1])) if frames is None else list(frames)
        v = self.v_mlp(h)
        embedded = embedded_lags(frames, self.time_emb_dim, h)
        psi = self.time_emb(embedded) if hasattr(self, "time_emb") else h.new_zeros(len(embedded), self.hidden_dim)
        projections = (self.q_mlp(h), self.k_mlp(h), v, self.x_mlp(v))
        return attend(x, h, projections, psi, frames, self.window, self.precision)

    @property
    def prepared(self) -> PreparedAttention:
        """The parameters as they are now, and what is computed with them."""
        mlps = (*self.q_mlp.tensors, *self.k_mlp.tensors, *self.v_mlp.tensors, *self.x_mlp.tensors)
        return PreparedAttention(TemporalAttentionParams(*mlps, *self._time()), self.precision, self.window)

    def _time(self) -> tuple[Tensor, Tensor]:
        """Weight and bias of psi, zero without relative time."""
        if hasattr(self, "time_emb"):
            return self.time_emb.weight, self.time_emb.bias
        return self.no_time_weight, self.no_time_bias
