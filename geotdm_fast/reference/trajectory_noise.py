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


def trajectory_noise(counters: Counters, draws: Tensor, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """z ~ N(0, I) for draws k [K] int64 of every node, in float64 and then rounded to `dtype`: [K, N, D, T].

        z[k, n, 4 b ... 4 b + 3] = normal((block[n, b], k, graph[n], sample[n])), the last of them cut off

    shape: D and T. Nothing waits for the device.
    """
    block, graph, sample, key = counters
    counter = torch.broadcast_tensors(block, draws[:, None, None], graph, sample)
    numbers = normal(counter, key).flatten(2)[..., : math.prod(shape)]  # [K, N, D T]
    return numbers.to(dtype).unflatten(2, tuple(shape))
