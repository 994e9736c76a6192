"""The mean of the learned prior: given frames, weighted by features, to a reference for every noisy frame."""

import torch
from torch import Tensor


def reference_frame(y: Tensor, z: Tensor, ws: Tensor) -> Tensor:
    """x_ref_is = sum_t w_its y_it with w_its = ws_s mean(z_it) for t < T; the last weight makes their sum 1.

    y: [N, T, D], z: [N, T, H] - the last layer's positions and features of the T given frames; ws: [S]
    Returns [N, D, S].
    """
    weight = z.mean(dim=-1)[:, :-1, None] * ws  # [N, T - 1, S]
    weight = torch.cat([weight, 1 - weight.sum(dim=1, keepdim=True)], dim=1)
    return y.transpose(1, 2) @ weight
