"""The sampling loop in plain PyTorch, as the official code does it: every step by itself, nothing prepared."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from geotdm_fast.diffusion.gaussian import GaussianDiffusion


def plain_loop(
    network: nn.Module,
    tables: GaussianDiffusion,
    x: Tensor,
    x_ref: Tensor,
    model_kwargs: dict,
    steps: range,
    noise: Callable[[int], Tensor] | None = None,
) -> Tensor:
    """Ancestral sampling with predicted noise and large variance (Ho et al. 2020, Algorithm 2), relative to x_ref.

    x: [N, D, T_noisy] - x_t of the first of `steps`, which fall; noise: k = 1, 2, ... to z; None: drawn
    Returns x after the last step, with x_ref added. Coefficients are moved to the device and picked for every node in
    every step, and the network is told of steps out of 1000.
    """
    for k, step in enumerate(steps, start=1):
        t = torch.tensor([step] * x.shape[0], device=x.device)
        seen = t.float() * (1000.0 / tables.num_timesteps)
        eps, _ = network(x=x + x_ref, diffusion_t=seen, **model_kwargs)
        recip, recipm1 = (
            picked(v, t, x) for v in (tables.sqrt_recip_alphas_cumprod, tables.sqrt_recipm1_alphas_cumprod)
        )
        x_0 = recip * x - recipm1 * eps
        coef1, coef2 = (picked(values, t, x) for values in (tables.posterior_mean_coef1, tables.posterior_mean_coef2))
        mean = coef1 * x_0 + coef2 * x
        log_variance = picked(tables.fixed_large_log_variance, t, x)
        z = torch.randn_like(x) if noise is None else noise(k)
        is_noisy = (t != 0).to(x.dtype).view(-1, 1, 1)
        x = (mean + is_noisy * torch.exp(0.5 * log_variance) * z).to(x.dtype)
    return x + x_ref


def picked(values: np.ndarray, t: Tensor, like: Tensor) -> Tensor:
    """values[t] in the shape of `like`."""
    found = torch.from_numpy(values).to(t.device)[t].to(like.dtype)
    return found.view(-1, 1, 1).expand(like.shape)
