"""Every random number of training, as a function of the seed and of what it is for: nothing to store for a resume."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

ORDER, STEP, VALIDATION, NLL, ROTATION, CONTEXT, HISTORY, COIN = range(8)


def generator(seed: int, purpose: int, *index: int) -> torch.Generator:
    """A CPU generator for one purpose (ORDER, STEP, ...) and index; other indices give independent streams."""
    # Also the seed of a run on CUDA: the same numbers are drawn whatever the device is.
    state = np.random.SeedSequence([seed, purpose, *index]).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(state >> np.uint64(1)))


def epoch_order(seed: int, epoch: int, num_graphs: int) -> Tensor:
    """The order of the training graphs in `epoch`: [num_graphs] int64."""
    return torch.randperm(num_graphs, generator=generator(seed, ORDER, epoch))


def mixed_order(seed: int, epoch: int, sizes: Sequence[int], shares: Sequence[float]) -> Tensor:
    """The training graphs in `epoch` where sets lie one after the other: [sum of sizes] int64.

    sizes: graphs of each set; shares: how often each is drawn, whatever their sum
    Every place is of a set by chance; within a set all graphs come in a random order, and then again in another.
    """
    rng = generator(seed, ORDER, epoch)
    weights = torch.tensor(shares, dtype=torch.float64)
    chosen = torch.multinomial(weights, sum(sizes), replacement=True, generator=rng)
    order, first = torch.empty_like(chosen), 0
    for number, size in enumerate(sizes):
        places = (chosen == number).nonzero().flatten()
        rounds = [torch.randperm(size, generator=rng) for _ in range(-(-len(places) // size))]
        order[places] = first + torch.cat([*rounds, chosen[:0]])[: len(places)]
        first += size
    return order


def is_free(seed: int, step: int, share: float) -> bool:
    """Whether nothing is given in training step `step`: by a coin that says so with probability `share`."""
    return bool(torch.rand((), generator=generator(seed, COIN, step)) < share)


def steps_and_noise(
    rng: torch.Generator,
    num_graphs: int,
    shape: tuple[int, int, int],
    num_timesteps: int,
    time_power: float | None = None,
) -> tuple[Tensor, Tensor]:
    """A uniform diffusion step for each graph [B] int64 and normal noise of `shape` [N, D, T] float32.

    time_power: None, or the steps are times, real numbers in [0, num_timesteps], [B] float32, see `times`
    """
    if time_power is None:
        steps = torch.randint(0, num_timesteps, (num_graphs,), generator=rng)
    else:
        steps = times(torch.rand(num_graphs, generator=rng), num_timesteps, time_power)
    return steps, torch.randn(shape, generator=rng)


def times(uniform: Tensor, num_timesteps: int, power: float) -> Tensor:
    """t = S (1 - (1 - u)^p) of uniform u: the larger p, the nearer the prior at S.

    uniform: [B] float32 in [0, 1); num_timesteps: S; power: p
    returns: [B] float32 in [0, S]: 0 where u = 0, and S itself, by rounding, where (1 - u)^p is below 2^-25
    """
    return num_timesteps * (1 - (1 - uniform) ** power)


def rotations(rng: torch.Generator, count: int, dim: int) -> Tensor:
    """[count, dim, dim] float32 - uniform rotations of the plane, or of space (from random unit quaternions)."""
    if dim == 2:
        angle = 2 * torch.pi * torch.rand(count, generator=rng)
        cos, sin = angle.cos(), angle.sin()
        return torch.stack([cos, -sin, sin, cos], dim=-1).view(count, 2, 2)
    w, x, y, z = torch.nn.functional.normalize(torch.randn(count, 4, generator=rng, dtype=torch.float64)).T
    rows = [
        1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y),
        2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x),
        2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y),
    ]  # fmt: skip
    return torch.stack(rows, dim=-1).view(count, 3, 3).float()
