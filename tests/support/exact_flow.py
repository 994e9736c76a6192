"""A network whose flow is known in closed form, and what a chain of its nodes is called with."""

import torch
from torch import nn

from geotdm_fast import Flow
from geotdm_fast.conditioning import cond_mask

S, DIM = 40, 2


def kwargs_of(num_nodes: int, ranges=((0, 3),), num_frames: int = 7) -> dict:
    """Every node is a graph of its own, with its own given frames."""
    x = torch.randn(num_nodes, DIM, num_frames, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    return {
        "h": torch.zeros(num_nodes, 1),
        "edge_index": torch.empty(2, 0, dtype=torch.int64),
        "edge_attr": None,
        "batch": torch.arange(num_nodes),
        "cond_mask": cond_mask(ranges, num_frames),
        "x_given": 3 * x.cumsum(dim=2),
    }


def normal(*shape, seed=3):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class Exact(nn.Module):
    """The mean of u or of x_start - x_ref, given x_t, where x_start - x_ref ~ mean + N(0, spread^2 Sigma) and the
    prior is N(0, sigma^2 Sigma) there: for any Sigma

        E[x_start - x_ref | x_t] = mean + (1 - l) spread^2 / v (x_t - x_ref - (1 - l) mean)

    with v = (1 - l)^2 spread^2 + l^2 sigma^2.
    """

    learn_ref_frame = False

    def __init__(self, mean: float, spread: float):
        super().__init__()
        self.mean, self.spread, self.flow = mean, spread, None

    def forward(self, diffusion_t, x, **model_kwargs):
        flow = self.flow
        level = float(diffusion_t[0]) / flow.num_timesteps
        x = x if flow.mode == "uncond" else x - flow.get_ref_frame(model_kwargs)
        variance = (1 - level) ** 2 * self.spread**2 + level**2 * flow.sigma**2
        clean = self.mean + (1 - level) * self.spread**2 / variance * (x - (1 - level) * self.mean)
        return {"start_x": clean, "displacement": clean - x, "velocity": (clean - x) / level}[flow.prediction], None


def exact_flow(mean=0.7, spread=0.4, num_timesteps=S, **options) -> Flow:
    network = Exact(mean, spread)
    network.flow = flow = Flow(network, num_timesteps, "cpu", **{"prior": "walk", "sigma": 1.5} | options)
    return flow
