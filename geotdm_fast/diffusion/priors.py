"""The reference frame: the mean of the noise in a conditional model, by name."""

import torch
from torch import Tensor

from geotdm_fast.conditioning import Frames
from geotdm_fast.reference.row_sums import mean_by_graph, take_rows


def com(x_given: Tensor, frames: Frames, batch: Tensor) -> Tensor:
    """Centre of mass over the nodes of each graph and the given frames (the official fallback): [N, D, 1]."""
    mean = frames.given_of(x_given, 2).mean(dim=-1)  # [N, D]
    return take_rows(mean_by_graph(mean, batch), batch).unsqueeze(-1)


def com_last(x_given: Tensor, frames: Frames, batch: Tensor) -> Tensor:
    """Centre of mass over the nodes of each graph in the last given frame: [N, D, 1]."""
    return take_rows(mean_by_graph(x_given[..., frames.given[-1]], batch), batch).unsqueeze(-1)


def last_frame(x_given: Tensor, frames: Frames, batch: Tensor) -> Tensor:
    """Every node's own place in the last given frame: [N, D, 1]."""
    return x_given.index_select(2, frames.given_index[-1:])  # a copy, which does not change with x_given


def none(x_given: Tensor, frames: Frames, batch: Tensor) -> Tensor:
    """No reference frame: noise around the origin, which gives up translation equivariance: [N, D, 1] of zeros."""
    return torch.zeros_like(x_given[..., :1])


FIXED_PRIORS = {"com": com, "com_last": com_last, "last_frame": last_frame, "none": none}
PRIORS = ("learned", *FIXED_PRIORS)
