"""The denoising network in two parts: what a batch decides once, and what the noisy positions and the step change.

`EGTN.forward` is one after the other; a chain of diffusion steps prepares once and calls `denoise` for every step. All
that `denoise` reads is in its arguments, so a CUDA graph can hold it.
"""

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

from geotdm_fast import ops, reference
from geotdm_fast.conditioning import Frames
from geotdm_fast.reference import (
    LinearTemporalAttentionParams,
    TemporalAttentionParams,
    TemporalConvolutionParams,
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
    frames: which are noisy, None with `given`; num_frames: T
    """

    given: Tensor | None
    frames: Frames | None
    num_frames: int
    layers: tuple[Layer, ...]
    scale: float


def denoise(prepared: Prepared, x: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
    """Noisy positions x [N, D, T_noisy] and the first layer's result z [N, T, H] to the network's results.

    Returns (positions after the last layer - x) / scale, [N, T_noisy, D], and the features of all frames, [N, T, H].
    """
    given, frames, _, layers, scale = prepared
    start = y = x.transpose(1, 2)  # [N, T_noisy, D]
    if scale != 1:
        y = y * scale
    if frames is not None:
        y = frames.with_noisy(given, y, 1)  # [N, T, D]
    for spatial, temporal in layers:
        y, z = ops.run_egcl(y, z, spatial)
        y, z = run_temporal(y, z, temporal)
    if frames is not None:
        y = frames.noisy_of(y, 1)
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
