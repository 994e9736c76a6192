"""What the official trainers take from their `utils.misc`: seeds, and values of all processes."""

import random

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor


def set_seed(seed: int) -> None:
    """Seed torch on all devices, numpy and Python's `random`."""
    torch.manual_seed(seed)  # the generators of all CUDA devices, too
    np.random.seed(seed)
    random.seed(seed)


def gather_across_gpus(metric: Tensor, placeholder: object = None) -> Tensor:
    """The values [n, ...] of all processes, in the order of their ranks; n may differ. One process: its own.

    placeholder: unused (the official code gathers with torchmetrics' CatMetric)
    Waits for all processes of `torch.distributed`.
    """
    metric = metric.detach()
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return metric
    metric = metric if metric.dim() else metric.reshape(1)
    count = torch.tensor([len(metric)], device=metric.device)
    counts = [torch.zeros_like(count) for _ in range(dist.get_world_size())]
    dist.all_gather(counts, count)
    # Every process sends as many rows as the longest has.
    longest = int(torch.cat(counts).max())
    padded = metric.new_zeros(longest, *metric.shape[1:])
    padded[: len(metric)] = metric
    parts = [torch.zeros_like(padded) for _ in counts]
    dist.all_gather(parts, padded)
    return torch.cat([part[: int(n)] for part, n in zip(parts, counts, strict=True)])
