"""Attention over the frames of every node: readable truth in any dtype, memory linear in nodes and widths."""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from geotdm_fast.reference.linear import linear, matmul, mlp
from geotdm_fast.reference.sinusoid import sinusoid
from geotdm_fast.runtime.checks import check_window


class TemporalAttentionParams(NamedTuple):
    """Weights [out, in] and biases [out] of the query, key, value and gate MLPs and of the time embedding."""

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
    time_w: Tensor  # [H, time_emb_dim]
    time_b: Tensor


def temporal_attention(
    x: Tensor,
    h: Tensor,
    params: TemporalAttentionParams,
    *,
    frames: Sequence[int] | None = None,
    window: int | None = None,
    precision: str = "fp32",
) -> tuple[Tensor, Tensor]:
    """One temporal layer of EGTN (arXiv 2410.13027, Eq. 5-7; the gate g is taken before psi is added, as in its code).

        q, k, v = MLPs of h,  g = MLP of v,  psi(tau) = W_time sinusoid(tau) + b_time
        alpha_ts = softmax_s( q_t . (k_s + psi(t - s)) )
        h_t' = h_t + sum_s alpha_ts (v_s + psi(t - s))
        x_t' = x_t + sum_s alpha_ts g_s (x_t - x_s)

    psi is one table over all differences of frames, so nothing of size [N, T, T, H] exists.

    x: [N, T, D] - positions; h: [N, T, H] - features
    frames: T ascending frame numbers when the frames are not 0, 1, ..., T-1 (the given frames of an interpolation)
    window: a frame t sees only the frames s with |t - s| <= window, by their numbers; 0: itself alone; None: all
    precision: rounding of the inputs of matrix products; the softmax is not rounded
    Returns x' [N, T, D] and h' [N, T, H]. Raises ValueError for a negative window.
    """
    check_window("temporal_attention", window)

    q = mlp(h, *params[0:4], precision)  # [N, T, H]
    k = mlp(h, *params[4:8], precision)
    v = mlp(h, *params[8:12], precision)
    g = mlp(v, *params[12:16], precision)  # [N, T, 1]
    frames = list(range(h.shape[1])) if frames is None else list(frames)
    embedded = embedded_lags(frames, params.time_w.shape[1], h)
    psi = linear(embedded, params.time_w, params.time_b, precision)  # [2 span + 1, H]
    return attend(x, h, (q, k, v, g), psi, frames, window, precision)


def embedded_lags(frames: Sequence[int], time_emb_dim: int, like: Tensor) -> Tensor:
    """[2 span + 1, time_emb_dim] sinusoids of all differences -span .. span of `frames`, in the dtype of `like`."""
    span = frames[-1] - frames[0] if frames else 0
    return sinusoid(torch.arange(-span, span + 1, device=like.device), time_emb_dim, like.dtype)


def attend(
    x: Tensor,
    h: Tensor,
    projections: tuple[Tensor, Tensor, Tensor, Tensor],
    psi: Tensor,
    frames: Sequence[int],
    window: int | None,
    precision: str,
) -> tuple[Tensor, Tensor]:
    """x' and h' by q, k, v [N, T, H] and g [N, T, 1], and psi [2 span + 1, H] of all differences of `frames`."""
    q, k, v, g = projections
    num_nodes, num_frames, _ = h.shape
    span = frames[-1] - frames[0] if frames else 0
    index = frame_index(frames, h.device)
    lag = (index[:, None] - index[None, :] + span).expand(num_nodes, -1, -1)  # [N, T, S], the row of psi for (t, s)

    logits = matmul(q, k.transpose(1, 2), precision) + matmul(q, psi.T, precision).gather(2, lag)
    if window is not None and window < span:
        logits = logits.masked_fill((lag - span).abs() > window, -math.inf)
    alpha = logits.softmax(dim=-1)  # [N, T, S]
    alpha_by_lag = alpha.new_zeros(num_nodes, num_frames, 2 * span + 1).scatter(2, lag, alpha)
    h_out = h + matmul(alpha, v, precision) + matmul(alpha_by_lag, psi, precision)

    # Measured from the node's first frame, x_t - x_s does not lose digits to a far origin.
    y = x - x[:, :1]
    x_out = x + (y * (alpha @ g) - alpha @ (g * y))
    return x_out, h_out


def frame_index(frames: Sequence[int], device: torch.device) -> Tensor:
    """`frames` as a tensor, by launches alone: a copy from the host would wait, and no CUDA graph could hold it."""
    starts = [i for i, frame in enumerate(frames) if i == 0 or frame != frames[i - 1] + 1]
    runs = [torch.arange(frames[a], frames[b - 1] + 1, device=device) for a, b in pairwise([*starts, len(frames)])]
    return torch.cat(runs) if runs else torch.arange(0, device=device)
