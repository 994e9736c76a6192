"""The temporal layer on PyTorch's own fused attention: FlexAttention with a score_mod, SDPA with a bias tensor.

Both sum alpha times value columns alone, so psi's share of h' takes a detour that is exact: psi(tau) is
W sinusoid(tau) + b, and sin(a - b) = sin a cos b - cos a sin b, so that columns [sin(w s), cos(w s)] beside v give
sum_s alpha_ts psi(t - s).
"""

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import flex_attention
from torch.nn.functional import pad, scaled_dot_product_attention

from bench.peers.baselines import PlainTemporal
from geotdm_fast.reference import sinusoid


class ColumnTemporal(PlainTemporal):
    """Attention over value columns [v, g, g y, sin, cos]; y are positions from the first frame on."""

    def attend(self, q: Tensor, k: Tensor, values: Tensor, relative: Tensor) -> Tensor:
        """softmax(q k^T + relative by lag) values: q, k [N, T, H], values [N, T, V], relative [N, T, 2 T - 1]."""
        raise NotImplementedError

    def forward(self, x: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        """x [N, D, T], h [N, H, T]."""
        num_nodes, dim, num_frames = x.shape
        width, n = h.shape[1], self.time_emb.in_features // 2
        frame = torch.arange(num_frames, device=x.device)
        table = self.psi(torch.arange(1 - num_frames, num_frames, device=x.device))  # [2 T - 1, H]
        q, k, v, g = (z.transpose(1, 2) for z in self.projections(h))  # [N, T, H], g [N, T, 1]
        y = (x - x[..., :1]).transpose(1, 2)  # [N, T, D]
        turns = sinusoid(frame, 2 * n, x.dtype)  # [T, 2 n]: sin, cos
        values = torch.cat([v, g, g * y, turns.expand(num_nodes, -1, -1)], dim=-1).to(v.dtype)
        # Memory-efficient SDPA wants a multiple of 8 columns.
        sums = self.attend(q, k, pad(values, (0, -values.shape[-1] % 8)), q @ table.T)
        sum_v, gate, moved, sin_s, cos_s, _ = sums.split([width, 1, dim, n, n, -values.shape[-1] % 8], dim=-1)
        sin_t, cos_t = turns.chunk(2, dim=-1)
        embedded = torch.cat([sin_t * cos_s - cos_t * sin_s, cos_t * cos_s + sin_t * sin_s], dim=-1)
        psi = self.time_emb(pad(embedded, (0, self.time_emb.in_features - 2 * n)))
        return x + (y * gate - moved).transpose(1, 2), h + (sum_v + psi).transpose(1, 2)


class FlexTemporal(ColumnTemporal):
    """FlexAttention; the relative part of a logit is added by a score_mod. It is fused under `torch.compile` alone."""

    def attend(self, q: Tensor, k: Tensor, values: Tensor, relative: Tensor) -> Tensor:
        last = q.shape[1] - 1

        def score_mod(score, node, head, t, s):
            return score + relative[node, t, t - s + last]

        one_head = (z[:, None].contiguous() for z in (q, k, values))
        return flex_attention(*one_head, score_mod=score_mod, scale=1.0)[:, 0]


class SdpaTemporal(ColumnTemporal):
    """`scaled_dot_product_attention` with the relative part of the logits as a bias [N, 1, T, T]."""

    def attend(self, q: Tensor, k: Tensor, values: Tensor, relative: Tensor) -> Tensor:
        num_nodes, num_frames, _ = q.shape
        frame = torch.arange(num_frames, device=q.device)
        lag = frame[:, None] - frame[None, :] + num_frames - 1
        bias = relative.gather(2, lag.expand(num_nodes, -1, -1))[:, None]  # [N, 1, T, T]
        one_head = (z[:, None] for z in (q, k, values))
        return scaled_dot_product_attention(*one_head, attn_mask=bias, scale=1.0)[:, 0]
