"""Sizes that numbers of rows are rounded up to, so that tensors of few shapes serve batches of any size."""

from collections import defaultdict
from collections.abc import Iterable, Sequence

# Below so many rows a larger size costs nothing.
LEAST = 8
# Sizes of an octave, the finest first: at most 12.5, 25, 50 and 100 % more rows.
STEPS = (8, 4, 2, 1)


def size_step(count: int, steps: int = STEPS[0]) -> int:
    """From `bucket(count)` to the size below, which `count` is over: it has fewer rows of padding than that."""
    return max(LEAST, (1 << (count - 1).bit_length()) // (2 * steps)) if count > 0 else LEAST


def bucket(count: int, steps: int = STEPS[0]) -> int:
    """The smallest size of at least `count`, from 0 on: m 2^k with `steps` <= m <= 2 `steps`, a multiple of 8; 0 of 0.

    steps: sizes of an octave, a power of two. A count n is rounded up by less than n / steps, or by 7: with 8 steps by
        4 % in the mean and by at most 12.5 %. Sizes that grow by a factor rather than by a constant are as few for
        large batches as for small ones, and cost both the same share of their time.
    """
    step = size_step(count, steps)
    return -(-count // step) * step


class Sizes:
    """What the counts of batches, of nodes first, then of edges and whatever else has a size, are rounded up to.

    steps: sizes of an octave, see `bucket`; known: sizes that are taken by a batch that fits, the smallest first
    A batch of `counts` fits sizes that are no smaller, and no more than a step larger in nodes.
    """

    def __init__(self, steps: int = STEPS[0], known: Iterable[tuple[int, ...]] = ()):
        self.steps, self.known = steps, sorted(known)

    @classmethod
    def at_most(cls, most: int, batches: Sequence[Sequence[int]]) -> "Sizes":
        """Those by which these batches have at most `most` different sizes, and the fewest rows to spare.

        Nodes and edges are rounded up apart; or, since large molecules have more of both, nodes alone, with the edges
        of the batch that has most of them; by 8, 4, 2 or 1 sizes an octave. The last of these, with the fewest sizes,
        where all have more than `most`.
        """
        wanted = [tuple(counts) for counts in batches]
        found = [make(steps, wanted) for steps in STEPS for make in (cls._apart, cls._together)]
        few = [sizes for sizes in found if sizes.number(wanted) <= most]
        return min(few, key=lambda sizes: sum(sum(sizes.of(counts)) for counts in wanted)) if few else found[-1]

    @classmethod
    def _apart(cls, steps: int, batches: list[tuple[int, ...]]) -> "Sizes":
        return cls(steps)

    @classmethod
    def _together(cls, steps: int, batches: list[tuple[int, ...]]) -> "Sizes":
        largest: defaultdict[int, list[tuple[int, ...]]] = defaultdict(list)
        for counts in batches:
            sizes = tuple(bucket(count, steps) for count in counts)
            largest[sizes[0]].append(sizes)
        return cls(steps, (tuple(map(max, *same, same[0])) for same in largest.values()))

    def of(self, counts: Sequence[int]) -> tuple[int, ...]:
        """The sizes of a batch: the smallest known ones that it fits, else those of its own."""
        for sizes in self.known:
            if all(map(int.__le__, counts, sizes)) and sizes[0] - counts[0] < self.step(sizes[0]):
                return sizes
        return tuple(bucket(count, self.steps) for count in counts)

    def step(self, num_nodes: int) -> int:
        """A batch of this size has fewer nodes to spare."""
        return size_step(num_nodes, self.steps)

    def number(self, batches: Iterable[Sequence[int]]) -> int:
        """How many different sizes these batches have."""
        return len({self.of(counts) for counts in batches})
