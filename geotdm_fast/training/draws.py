"""Every random number of training, as a function of the seed and of what it is for: nothing to store for a resume."""

import numpy as np
import torch
from torch import Tensor

ORDER, STEP, VALIDATION, NLL = range(4)


def generator(seed: int, purpose: int, *index: int) -> torch.Generator:
    """A CPU generator for one purpose (ORDER, STEP, ...) and index; other indices give independent streams."""
    # Also the seed of a run on CUDA: the same numbers are drawn whatever the device is.
    state = np.random.SeedSequence([seed, purpose, *index]).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(state >> np.uint64(1)))


def epoch_order(seed: int, epoch: int, num_graphs: int) -> list[int]:
    """The order of the training graphs in `epoch`."""
    return torch.randperm(num_graphs, generator=generator(seed, ORDER, epoch)).tolist()


def steps_and_noise(
    rng: torch.Generator, num_graphs: int, shape: tuple[int, int, int], num_timesteps: int
) -> tuple[Tensor, Tensor]:
    """A uniform diffusion step for each graph [B] int64 and normal noise of `shape` [N, D, T] float32."""
    steps = torch.randint(0, num_timesteps, (num_graphs,), generator=rng)
    return steps, torch.randn(shape, generator=rng)
