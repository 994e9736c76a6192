"""Equivariant convolution over the frames of every node: the temporal layer of an ablation."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from geotdm_fast.reference.linear import matmul, mlp
from geotdm_fast.reference.temporal_attention import frame_index


class TemporalConvolutionParams(NamedTuple):
    """Weights [out, in] and biases [out]: the value MLP, the gate MLP, the kernel."""

    v_w1: Tensor
    v_b1: Tensor
    v_w2: Tensor
    v_b2: Tensor
    x_w1: Tensor
    x_b1: Tensor
    x_w2: Tensor  # [2 w + 1, H], a gate for each lag
    x_b2: Tensor
    kernel: Tensor  # [2 w + 1, H, H]


def temporal_convolution(
    x: Tensor,
    h: Tensor,
    params: TemporalConvolutionParams,
    *,
    frames: Sequence[int] | None = None,
    precision: str = "fp32",
) -> tuple[Tensor, Tensor]:
    """A convolution of 2 w + 1 taps over time in the place of attention ("equivariant convolution", arXiv 2410.13027).

        v = MLP of h,  g = MLP of v, one gate for each lag
        h_t' = h_t + sum_{|t - s| <= w} K_{t-s} v_s
        x_t' = x_t + sum_{|t - s| <= w} g_s^{t-s} (x_t - x_s) / (2 w + 1)

    Differences of positions times invariants: equivariant as attention is. Frames outside 0..T-1 add nothing.

    x: [N, T, D] - positions; h: [N, T, H] - features
    frames: T ascending frame numbers when the frames are not 0, 1, ..., T-1: lags are their differences
    precision: rounding of the inputs of matrix products
    Returns x' [N, T, D] and h' [N, T, H]. Memory [N, T, 2 w + 1, H].
    """
    num_taps = params.kernel.shape[0]

    v = mlp(h, *params[0:4], precision)  # [N, T, H]
    g = mlp(v, *params[4:8], precision)  # [N, T, K]
    index = frame_index(range(h.shape[1]) if frames is None else frames, h.device)
    tap = index[:, None] - index[None, :] + num_taps // 2  # [T, S]
    selected = (tap[..., None] == torch.arange(num_taps, device=h.device)).to(h.dtype)  # [T, S, K]

    moved = torch.stack([matmul(v, kernel.T, precision) for kernel in params.kernel], dim=2)  # [N, S, K, H]
    h_out = h + torch.einsum("tsk,nskh->nth", selected, moved)

    weight = torch.einsum("tsk,nsk->nts", selected, g) / num_taps
    # Measured from the node's first frame, x_t - x_s does not lose digits to a far origin.
    y = x - x[:, :1]
    x_out = x + (y * weight.sum(dim=2, keepdim=True) - weight @ y)
    return x_out, h_out
