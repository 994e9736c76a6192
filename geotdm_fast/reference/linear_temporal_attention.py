"""Attention over the frames of every node in time and memory linear in the frames: the layer of an ablation."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import elu

from geotdm_fast.reference.linear import matmul, mlp
from geotdm_fast.reference.temporal_attention import frame_index

# elu(z) + 1 is 0 in float32 below z = -17. Keys drift there in training, all together, as only their ratios count; then
# the weights would be 0 / 0.
_LEAST_FEATURE = 1e-3


class LinearTemporalAttentionParams(NamedTuple):
    """Weights [out, in] and biases [out] of the query, key, value and gate MLPs."""

    q_w1: Tensor
    q_b1: Tensor
    q_w2: Tensor
    q_b2: Tensor
    k_w1: Tensor
    k_b1: Tensor
    k_w2: Tensor
    k_b2: Tensor
    v_w1: Tensor
    v_b1: Tensor
    v_w2: Tensor
    v_b2: Tensor
    x_w1: Tensor
    x_b1: Tensor
    x_w2: Tensor  # [1, H]
    x_b2: Tensor


def linear_temporal_attention(
    x: Tensor,
    h: Tensor,
    params: LinearTemporalAttentionParams,
    *,
    frames: Sequence[int] | None = None,
    relative_time: bool = True,
    precision: str = "fp32",
) -> tuple[Tensor, Tensor]:
    """Temporal attention whose weights are products of features (Katharopoulos et al. 2020), near frames weighing more.

        q, k, v = MLPs of h,  g = MLP of v,  phi(z) = elu(z) + 1 + 1e-3
        a_ts = phi(q_t) . phi(k_s) cos(pi/2 (t - s) / M),  M = 2 T (Qin et al. 2022, cosFormer)
        alpha_ts = a_ts / sum_s a_ts
        h_t' = h_t + sum_s alpha_ts v_s
        x_t' = x_t + sum_s alpha_ts g_s (x_t - x_s)

    The cosine of a difference is a sum of products, so no [T, T] exists; it is positive because |t - s| < M.

    x: [N, T, D] - positions; h: [N, T, H] - features
    frames: T ascending frame numbers when the frames are not 0, 1, ..., T-1
    relative_time: False leaves the cosine out
    precision: rounding of the inputs of matrix products
    Returns x' [N, T, D] and h' [N, T, H].
    """

    def phi(z: Tensor) -> Tensor:
        return elu(z) + (1 + _LEAST_FEATURE)

    q, k = phi(mlp(h, *params[0:4], precision)), phi(mlp(h, *params[4:8], precision))  # [N, T, H]
    v = mlp(h, *params[8:12], precision)
    g = mlp(v, *params[12:16], precision)  # [N, T, 1]
    if relative_time:
        frames = list(range(h.shape[1])) if frames is None else list(frames)
        span = frames[-1] - frames[0] + 1 if frames else 1
        angle = frame_index(frames, h.device).to(h.dtype)[:, None] * (math.pi / (4 * span))
        q, k = (torch.cat([z * angle.cos(), z * angle.sin()], dim=-1) for z in (q, k))  # [N, T, 2 H]

    # Measured from the node's first frame, x_t - x_s does not lose digits to a far origin.
    y = x - x[:, :1]
    columns = torch.cat([v, g, g * y, torch.ones_like(g)], dim=-1)  # [N, T, H + D + 2]
    summed = matmul(q, matmul(k.transpose(1, 2), columns, precision), precision)
    summed = summed[..., :-1] / summed[..., -1:]
    values, gate, gated = summed.split([v.shape[-1], 1, x.shape[-1]], dim=-1)
    return x + (y * gate - gated), h + values
