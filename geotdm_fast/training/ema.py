"""The moving average of the weights."""

import torch
from torch import nn


class WeightAverage:
    """Keeps average <- d average + (1 - d) weights, with d = min(decay, (1 + n) / (10 + n)) after n updates.

    The short memory of the first updates lets the average forget the initial weights. Karras et al. 2024 discuss
    averages; this warm-up is TensorFlow's `ExponentialMovingAverage(num_updates=n)`.
    average: a network of the same layout, updated in place
    """

    def __init__(self, average: nn.Module, decay: float):
        self.average = average.requires_grad_(False).eval()
        self.decay = decay

    @torch.no_grad()
    def update(self, network: nn.Module, num_updates: int) -> None:
        """Move the average towards the weights of `network`, after its `num_updates`-th step. Does not wait."""
        decay = min(self.decay, (1 + num_updates) / (10 + num_updates))
        mine, theirs = list(self.average.parameters()), list(network.parameters())
        torch._foreach_lerp_(mine, theirs, 1 - decay)
        for buffer, source in zip(self.average.buffers(), network.buffers(), strict=True):
            buffer.copy_(source)
