"""The denoising network in two parts: what a batch decides once, and what the noisy positions and the step change.

`EGTN.forward` is one after the other; a chain of diffusion steps prepares once and calls `denoise` for every step. All
that `denoise` reads is in its arguments, so a CUDA graph can hold it.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from geotdm_fast import ops, reference
from geotdm_fast.reference import (
    LinearTemporalAttentionParams,
    TemporalAttentionParams,
    TemporalConvolutionParams,
    linear,
)


class PreparedTemporal(NamedTuple):
    """A temporal layer: its parameters, whose type says which, and what else it needs.

    window: of attention; relative_time: of attention of linear cost
    """

    params: TemporalAttentionParams | TemporalConvolutionParams | LinearTemporalAttentionParams
    precision: str
    window: int | None = None
    relative_time: bool = True


class Layer(NamedTuple):
    """A spatial layer, and the temporal one behind it."""

    spatial: ops.PreparedEGCL
    temporal: PreparedTemporal


class Prepared(NamedTuple):
    """What `EGTN.prepare` found.

    given: [N, T, D] - scaled given frames in their places, anything elsewhere; None: all frames are noisy
    noisy: [T_noisy] int64 - where the noisy frames belong; features: [N, T or 1, H] - the first layer but for the step
    """

    given: Tensor | None
    noisy: Tensor | None
    features: Tensor
    layers: tuple[Layer, ...]
    scale: float


def denoise(prepared: Prepared, x: Tensor, step: Tensor) -> tuple[Tensor, Tensor]:
    """Noisy positions x [N, D, T_noisy] and the step's row [N or 1, H] of the first layer to the network's results.

    Returns (positions after the last layer - x) / scale, [N, T_noisy, D], and the features of all frames, [N, T, H].
    """
    given, noisy, features, layers, scale = prepared
    start = y = x.transpose(1, 2)  # [N, T_noisy, D]
    if scale != 1:
        y = y * scale
    if given is not None:
        y = given.index_copy(1, noisy, y)  # [N, T, D]
    z = rows_of(features + step[:, None], y)
    for spatial, temporal in layers:
        y, z = ops.run_egcl(y, z, spatial)
        y, z = run_temporal(y, z, temporal)
    if noisy is not None:
        y = y.index_select(1, noisy)
    output = y - start
    return output if scale == 1 else output / scale, z


def run_temporal(
    x: Tensor, h: Tensor, layer: PreparedTemporal, frames: Sequence[int] | None = None
) -> tuple[Tensor, Tensor]:
    """x [N, T, D], h [N, T, H] to the same shapes; frames: numbers when not 0..T-1.

    The layers of the ablations run the reference.
    """
    params, about = layer.params, {"frames": frames, "precision": layer.precision}
    if isinstance(params, TemporalConvolutionParams):
        return reference.temporal_convolution(x, h, params, **about)
    if isinstance(params, LinearTemporalAttentionParams):
        return reference.linear_temporal_attention(x, h, params, relative_time=layer.relative_time, **about)
    return ops.temporal_attention(x, h, params, window=layer.window, **about)


def rows_of(features: Tensor, y: Tensor) -> Tensor:
    """The first layer's result [N, T or 1, H] for positions y [N, T, D] as the layers take it: [N, T, H]."""
    features = features.to(y.dtype) if y.dtype == torch.bfloat16 else features
    return features.expand(-1, y.shape[1], -1)


def first_layer(inputs: Tensor, weight: Tensor, bias: Tensor | None, precision: str) -> Tensor:
    """A part of the first layer, [..., I] to [..., H]: float32 for bfloat16, since parts are summed, then rounded."""
    if inputs.dtype == torch.bfloat16:
        inputs, weight, bias = inputs.float(), weight.float(), None if bias is None else bias.float()
    return linear(inputs, weight, bias, precision)
