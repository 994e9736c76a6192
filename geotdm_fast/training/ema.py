"""The moving average of the weights."""

import torch
from torch import Tensor, nn

from geotdm_fast.training.flat_weights import FlatWeights


class WeightAverage:
    """Keeps average <- d average + (1 - d) weights, with d = min(decay, (1 + n) / (10 + n)) after n updates.

    The short memory of the first updates lets the average forget the initial weights. Karras et al. 2024 discuss
    averages; this warm-up is TensorFlow's `ExponentialMovingAverage(num_updates=n)`.
    network: a copy of the network, of the same weights, updated in place; weights: those that are trained
    """

    def __init__(self, network: nn.Module, weights: FlatWeights, decay: float):
        self.network = network.requires_grad_(False).eval()
        self.decay = decay
        self.weights = FlatWeights(self.network)
        self._trained = weights.flat.detach()

    def share(self, num_updates: int) -> float:
        """1 - d of the `num_updates`-th update."""
        return 1 - min(self.decay, (1 + num_updates) / (10 + num_updates))

    @torch.no_grad()
    def update(self, share: Tensor) -> None:
        """Move the average by `share` [] towards the weights. A CUDA graph may capture it."""
        self.tensor.lerp_(self._trained, share)

    @property
    def tensor(self) -> Tensor:
        """[P] float32 - the averaged weights, laid out as `FlatWeights.flat`."""
        return self.weights.flat.detach()
