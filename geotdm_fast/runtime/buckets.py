"""Sizes that numbers of rows are rounded up to, so that tensors of few shapes serve batches of any size."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

# Below so many rows a larger size costs nothing.
LEAST = 8
# Sizes of an octave, the finest first: at most 12.5, 25, 50 and 100 % more rows.
FINEST = (8, 4, 2, 1)


class Buckets(NamedTuple):
    """Sizes m 2^k with `steps` <= m <= 2 `steps`, multiples of 8.

    steps: sizes of an octave, a power of two. A count n is rounded up by less than n / steps, or by 7: with 8 steps by
        4 % in the mean and by at most 12.5 %. Sizes that grow by a factor rather than by a constant are as few for
        large batches as for small ones, and cost both the same share of their time.
    """

    steps: int = FINEST[0]

    def step(self, count: int) -> int:
        """From the size of `count` to the one below, which `count` is over: so many rows of padding it has at most,
        less one."""
        return max(LEAST, (1 << (count - 1).bit_length()) // (2 * self.steps)) if count > 0 else LEAST

    def size(self, count: int) -> int:
        """The smallest size of at least `count`, from 0 on; 0 of 0."""
        step = self.step(count)
        return -(-count // step) * step

    @classmethod
    def at_most(cls, most: int, batches: Iterable[Sequence[int]]) -> "tuple[Buckets, int]":
        """The finest sizes that these batches have at most `most` of, the coarsest where none are; and how many.

        batches: the counts of each, of nodes, edges and whatever else has a size
        """
        batches = list(batches)
        for steps in FINEST:
            buckets = cls(steps)
            number = len({tuple(map(buckets.size, counts)) for counts in batches})
            if number <= most:
                break
        return buckets, number
