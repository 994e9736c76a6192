"""The moving average of the weights."""

import torch
from torch import nn


class WeightAverage:
    """Keeps average <- d average + (1 - d) weights, with d = min(decay, (1 + n) / (10 + n)) after n updates.

    The short memory of the first updates lets the average forget the initial weights. Karras et al. 2024 discuss
    averages; this warm-up is TensorFlow's `ExponentialMovingAverage(num_updates=n)`.
    average: a copy of `network`, updated in place
    """

    def __init__(self, average: nn.Module, network: nn.Module, decay: float):
        self.average = average.requires_grad_(False).eval()
        self.decay = decay
        # Listed once: walking the modules costs as much as a small model's update.
        self._pairs = [list(average.parameters()), list(network.parameters())]
        self._buffers = list(zip(average.buffers(), network.buffers(), strict=True))

    @torch.no_grad()
    def update(self, num_updates: int) -> None:
        """Move the average towards the weights of the network, after its `num_updates`-th step. Does not wait."""
        decay = min(self.decay, (1 + num_updates) / (10 + num_updates))
        torch._foreach_lerp_(*self._pairs, 1 - decay)
        for mine, theirs in self._buffers:
            mine.copy_(theirs)
