"""Noise by counter: what a trajectory gets depends on the seed and on the trajectory alone."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

_MASK = 0xFFFFFFFF
# Multipliers and key increments of Salmon et al. 2011, Table 2.
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_INCREMENTS = (0x9E3779B9, 0xBB67AE85)
Key = tuple[int, int] | Tensor
# Counters are computed for some steps at once: on a CPU a small tensor costs as much as a hundred numbers.
_STEPS_AT_ONCE = 8


def philox(counter: tuple[Tensor, Tensor, Tensor, Tensor], key: Key) -> tuple[Tensor, ...]:
    """Philox-4x32-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3").

    counter: four int64 tensors of one shape, each value in 0 ... 2^32 - 1; key: two numbers of that range,
    or an int64 tensor [2] of them
    Returns four such tensors. Exact integer arithmetic: the same on every device.
    """
    a, b, c, d = counter
    low, high = key
    for _ in range(10):
        first, second = a * _MULTIPLIERS[0], c * _MULTIPLIERS[1]  # modulo 2^64, which holds the whole product
        a, b = (second >> 32 & _MASK) ^ b ^ low, second & _MASK
        c, d = (first >> 32 & _MASK) ^ d ^ high, first & _MASK
        low, high = low + _INCREMENTS[0] & _MASK, high + _INCREMENTS[1] & _MASK
    return a, b, c, d


def normal(counter: tuple[Tensor, Tensor, Tensor, Tensor], key: Key) -> Tensor:
    """Four standard normal numbers for each counter, float64 [..., 4] (Box & Muller 1958), at most 6.7 in size."""
    bits = torch.stack(philox(counter, key), dim=-1)
    uniform = (bits.double() + 0.5) * 2.0**-32  # in (0, 1), both ends excluded
    radius = (-2 * uniform[..., :2].log()).sqrt()
    angle = 2 * math.pi * uniform[..., 2:]
    return torch.cat([radius * angle.cos(), radius * angle.sin()], dim=-1)


class Counters(NamedTuple):
    """Who each node is, for its noise: block [N, blocks], graph [N, 1], sample [N, 1] and key [2], all int64."""

    block: Tensor
    graph: Tensor
    sample: Tensor
    key: Tensor


def trajectory_normal(counters: Counters, draws: Tensor, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """Draws k [K] int64 of `TrajectoryNoise` at once, [K, N, D, T] with shape = (D, T). Waits for nothing."""
    block, graph, sample, key = counters
    counter = torch.broadcast_tensors(block, draws[:, None, None], graph, sample)
    numbers = normal(counter, key).flatten(2)[..., : math.prod(shape)]  # [K, N, D T]
    return numbers.to(dtype).unflatten(2, tuple(shape))


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
            self._first = k
            draws = torch.arange(k, k + _STEPS_AT_ONCE, device=self.counters.key.device)
            self._known = trajectory_normal(self.counters, draws, self.shape, self.dtype)
        return self._known[k - self._first]
