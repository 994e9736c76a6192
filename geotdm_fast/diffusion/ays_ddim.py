"""What the DDIM sampler of Align Your Structures does differently: its steps, and what it does to positions."""

import numpy as np
import torch
from torch import Tensor

NAME = "ays_ddim"
# A node whose RMS over its frames is above this length is scaled down to it.
MOST_RMS = 50.0


def ddim_timesteps(num_timesteps: int, steps: int) -> np.ndarray:
    """tau [steps] int64: round(linspace(S - 1, 0, steps)), made strictly falling, from S - 1 to 0.

    Raises ValueError unless 2 <= steps <= num_timesteps.
    """
    if not 2 <= steps <= num_timesteps:
        raise ValueError(f"ddim_timesteps: steps must be in 2..{num_timesteps}, got {steps}")
    tau = np.round(np.linspace(num_timesteps - 1, 0, steps)).astype(np.int64)
    for i in range(1, steps):
        tau[i] = min(tau[i], tau[i - 1] - 1)
    tau = np.clip(tau, 0, None)
    tau[-1] = 0
    return tau


def finite(x: Tensor) -> Tensor:
    """NaN becomes 0, infinity a million."""
    return torch.nan_to_num(x, nan=0.0, posinf=1e6, neginf=-1e6)


def clipped(x: Tensor) -> Tensor:
    """x [N, D, M] whose nodes have an RMS over their D M numbers of at most `MOST_RMS`."""
    rms = x.pow(2).mean(dim=(1, 2), keepdim=True).sqrt()
    return x * (MOST_RMS / (rms + 1e-8)).clamp(max=1.0)


def bounded(x: Tensor) -> Tensor:
    """What becomes of x [N, D, M] after every step: `clipped`, then `finite`."""
    return finite(clipped(x))
