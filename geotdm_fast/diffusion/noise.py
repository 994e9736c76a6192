"""Noise by counter: what a trajectory gets depends on the seed and on the trajectory alone."""

import torch
from torch import Tensor

from geotdm_fast import ops
from geotdm_fast.reference import Counters
from geotdm_fast.reference.trajectory_noise import philox
from geotdm_fast.runtime.checks import check_whole

_MASK = 0xFFFFFFFF
# Counters are computed for some steps at once: on a CPU a small tensor costs as much as a hundred numbers.
_STEPS_AT_ONCE = 8
# The number of a sample that nobody draws: likelihoods have their own noise.
OF_LIKELIHOOD = _MASK
# Another one: the keys of a rollout's blocks are drawn for it.
_OF_KEYS = _MASK - 1


class TrajectoryNoise:
    """z ~ N(0, I), [N, D, T], for draw k = 0, 1, ... of every trajectory of a batch.

    seed: 0 ... 2^64 - 1
    graph, sample: [G] int64 - who each trajectory of the batch is
    batch: [N] int64, ascending - the trajectory of each node; dim, num_frames: D and T
    rollout_block: 0, 1, ... - the block of a rollout, whose key is `block_key`

    A number depends on (seed, rollout_block, graph, sample, node within its graph, axis, frame within the block, k),
    not on the batch, its size or its order, nor on any generator. Block 0 has the numbers of a forecast that goes no
    further. It is computed in float64 and rounded to `dtype`: the same for every device but for the last bit of log,
    sqrt, cos and sin.
    """

    def __init__(
        self,
        seed: int,
        graph: Tensor,
        sample: Tensor,
        batch: Tensor,
        dim: int,
        num_frames: int,
        dtype: torch.dtype,
        rollout_block: int = 0,
    ):
        seed = check_whole("TrajectoryNoise", "seed", seed)
        if not 0 <= seed < 2**64:
            raise ValueError(f"TrajectoryNoise: seed must be in 0..2^64 - 1, got {seed}")
        self.shape, self.dtype = (dim, num_frames), dtype
        first = torch.searchsorted(batch, torch.arange(len(graph), device=batch.device))
        node = torch.arange(len(batch), device=batch.device) - first[batch]
        blocks = -(-dim * num_frames // 4)
        block = node[:, None] * blocks + torch.arange(blocks, device=batch.device)  # [N, blocks]
        of_node = lambda number: number.to(batch.device)[batch, None]
        key = torch.tensor(block_key(seed, rollout_block), device=batch.device)
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


def block_key(seed: int, block: int) -> tuple[int, int]:
    """The key of Philox for a block of a rollout: the low and the high 32 bits of the seed in block 0.

    In block b >= 1 the first two numbers of philox((b mod 2^32, b // 2^32, 0, 2^32 - 2), seed): no trajectory is sample
    2^32 - 2, so no noise is made of the counter that the key is made of.
    """
    own = seed & _MASK, seed >> 32
    if block == 0:
        return own
    counter = [torch.tensor(number, device="cpu") for number in (block & _MASK, block >> 32, 0, _OF_KEYS)]
    low, high, _, _ = philox((counter[0], counter[1], counter[2], counter[3]), own)
    return int(low), int(high)


def likelihood_noise(seed: int, graph: Tensor, batch: Tensor, like: Tensor) -> TrajectoryNoise:
    """Noise for the bound of graphs [G] int64 of a data set, in the shape [N, D, T], dtype and device of `like`."""
    graph = graph.to(batch.device)
    _, dim, num_frames = like.shape
    return TrajectoryNoise(seed, graph, torch.full_like(graph, OF_LIKELIHOOD), batch, dim, num_frames, like.dtype)
