"""The temporal layer by name: attention, or those of the ablations, convolution and attention of linear cost.

The last two run the reference.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from geotdm_fast import reference
from geotdm_fast.nn.layers import TemporalLayer
from geotdm_fast.nn.mlp import MLP
from geotdm_fast.nn.temporal import ETLayer
from geotdm_fast.reference import LinearTemporalAttentionParams, TemporalConvolutionParams
from geotdm_fast.runtime.choices import check_choice


class PreparedConvolution(NamedTuple):
    """`ConvolutionLayer` as a call reads it."""

    params: TemporalConvolutionParams
    precision: str

    def run(self, x: Tensor, h: Tensor, frames: Sequence[int] | None = None) -> tuple[Tensor, Tensor]:
        """x [N, T, D], h [N, T, H] to the same shapes; frames: numbers when not 0..T-1."""
        return reference.temporal_convolution(x, h, self.params, frames=frames, precision=self.precision)


class ConvolutionLayer(TemporalLayer):
    """Equivariant temporal convolution; formula in `geotdm_fast.reference.temporal_convolution`.

    hidden_dim: H; act_fn: nn.SiLU(); window: w, the kernel has 2 w + 1 taps
    """

    def __init__(self, hidden_dim: int, act_fn: nn.Module, window: int):
        super().__init__(hidden_dim)
        num_taps = 2 * window + 1
        self.v_mlp = MLP(hidden_dim, hidden_dim, hidden_dim, act_fn)
        self.x_mlp = MLP(hidden_dim, hidden_dim, num_taps, act_fn)
        bound = 1 / math.sqrt(hidden_dim * num_taps)  # as nn.Conv1d
        self.kernel = nn.Parameter(torch.empty(num_taps, hidden_dim, hidden_dim).uniform_(-bound, bound))

    @property
    def prepared(self) -> PreparedConvolution:
        """The parameters as they are now, and what is computed with them."""
        params = TemporalConvolutionParams(*self.v_mlp.tensors, *self.x_mlp.tensors, self.kernel)
        return PreparedConvolution(params, self.precision)


class PreparedLinearAttention(NamedTuple):
    """`LinearAttentionLayer` as a call reads it."""

    params: LinearTemporalAttentionParams
    precision: str
    relative_time: bool

    def run(self, x: Tensor, h: Tensor, frames: Sequence[int] | None = None) -> tuple[Tensor, Tensor]:
        """x [N, T, D], h [N, T, H] to the same shapes; frames: numbers when not 0..T-1."""
        return reference.linear_temporal_attention(
            x, h, self.params, relative_time=self.relative_time, frames=frames, precision=self.precision
        )


class LinearAttentionLayer(TemporalLayer):
    """Temporal attention of linear cost; formula in `geotdm_fast.reference.linear_temporal_attention`.

    hidden_dim: H; act_fn: nn.SiLU(); relative_time: whether near frames weigh more
    """

    def __init__(self, hidden_dim: int, act_fn: nn.Module, relative_time: bool):
        super().__init__(hidden_dim)
        self.q_mlp = MLP(hidden_dim, hidden_dim, hidden_dim, act_fn)
        self.k_mlp = MLP(hidden_dim, hidden_dim, hidden_dim, act_fn)
        self.v_mlp = MLP(hidden_dim, hidden_dim, hidden_dim, act_fn)
        self.x_mlp = MLP(hidden_dim, hidden_dim, 1, act_fn)
        self.relative_time = relative_time

    @property
    def prepared(self) -> PreparedLinearAttention:
        """The parameters as they are now, and what is computed with them."""
        mlps = (*self.q_mlp.tensors, *self.k_mlp.tensors, *self.v_mlp.tensors, *self.x_mlp.tensors)
        return PreparedLinearAttention(LinearTemporalAttentionParams(*mlps), self.precision, self.relative_time)


# Half the width of a convolution's kernel where none is given: five frames.
CONVOLUTION_WINDOW = 2


class TemporalOptions(NamedTuple):
    """What `EGTN` says of its temporal layers; the fields are its arguments."""

    hidden_dim: int
    act_fn: nn.Module
    time_emb_dim: int
    relative_time: bool
    window: int | None


def _attention(o: TemporalOptions) -> ETLayer:
    width = o.hidden_dim
    return ETLayer(width, width, o.act_fn, o.time_emb_dim, relative_time=o.relative_time, window=o.window)


def _convolution(o: TemporalOptions) -> ConvolutionLayer:
    if not o.relative_time:
        raise ValueError("EGTN: relative_time=False does not go with temporal='convolution', whose taps are lags")
    return ConvolutionLayer(o.hidden_dim, o.act_fn, CONVOLUTION_WINDOW if o.window is None else o.window)


def _linear_attention(o: TemporalOptions) -> LinearAttentionLayer:
    if o.window is not None:
        raise ValueError(f"EGTN: window does not go with temporal='linear_attention', got {o.window}")
    return LinearAttentionLayer(o.hidden_dim, o.act_fn, o.relative_time)


TEMPORAL: dict[str, Callable[[TemporalOptions], TemporalLayer]] = {
    "attention": _attention,
    "convolution": _convolution,
    "linear_attention": _linear_attention,
}
"""Layers over time by name, as `EGTN(temporal=...)` and the key `temporal` of a configuration have it."""


def temporal_layer(temporal: str, options: TemporalOptions) -> TemporalLayer:
    """The temporal layer called `temporal`. Raises ValueError where name and options do not go together."""
    check_choice("EGTN: temporal", temporal, TEMPORAL)
    return TEMPORAL[temporal](options)
