"""Noise by counter: what a trajectory gets depends on the seed and on the trajectory alone."""

import torch
from torch import Tensor

from geotdm_fast import ops
from geotdm_fast.reference import Counters

_MASK = 0xFFFFFFFF
# Counters are computed for some steps at once: on a CPU a small tensor costs as much as a hundred numbers.
_STEPS_AT_ONCE = 8
# The number of a sample that nobody draws: likelihoods have their own noise.
OF_LIKELIHOOD = _MASK


class TrajectoryNoise:
    """z ~ N(0, I), [N, D, T], for draw k = 0, 1, ... of every trajectory of a batch.

    seed: 0 ... 2^64 - 1
    graph, sample: [G] int64 - who each trajectory of the batch is
    batch: [N] int64, ascending - the trajectory of each node; dim, num_frames: D and T

    A number depends on (seed, graph, sample, node within its graph, axis, frame, k), not on the batch, its size or its
    order, nor on any generator. It is computed in float64 and rounded to `dtype`: the same for every device but for the
    last bit of log, sqrt, cos and sin.
    """

    def __init__(
        self, seed: int, graph: Tensor, sample: Tensor, batch: Tensor, dim: int, num_frames: int, dtype: torch.dtype
    ):
        if not 0 <= seed < 2**64:
            raise ValueError(f"TrajectoryNoise: seed must be in 0..2^64 - 1, got {seed}")
        self.shape, self.dtype = (dim, num_frames), dtype
        first = torch.searchsorted(batch, torch.arange(len(graph), device=batch.device))
        node = torch.arange(len(batch), device=batch.device) - first[batch]
        blocks = -(-dim * num_frames // 4)
        block = node[:, None] * blocks + torch.arange(blocks, device=batch.device)  # [N, blocks]
        of_node = lambda number: number.to(batch.device)[batch, None]
        key = torch.tensor([seed & _MASK, seed >> 32], device=batch.device)
        self.counters = Counters(block, of_node(graph), of_node(sample), key)
        self._first, self._known = 0, torch.empty(0)

    def __call__(self, k: int) -> Tensor:
        if not self._first <= k < self._first + len(self._known):
            self._first, self._known = k, self._draws(k, _STEPS_AT_ONCE)
        return self._known[k - self._first]

    def alone(self, k: int) -> Tensor:
        """Draw k where no other is asked for: the draws after it are not computed with it."""
        return self._draws(k, 1)[0]

    def _draws(self, first: int, count: int) -> Tensor:
        draws = torch.arange(first, first + count, device=self.counters.key.device)
        return ops.trajectory_noise(self.counters, draws, self.shape, self.dtype)


def likelihood_noise(seed: int, graph: Tensor, batch: Tensor, like: Tensor) -> TrajectoryNoise:
    """Noise for the bound of graphs [G] int64 of a data set, in the shape [N, D, T], dtype and device of `like`."""
    graph = graph.to(batch.device)
    _, dim, num_frames = like.shape
    return TrajectoryNoise(seed, graph, torch.full_like(graph, OF_LIKELIHOOD), batch, dim, num_frames, like.dtype)
