"""Rounds numbers of rows up to a few sizes, so that tensors of few shapes hold batches of any size."""

from collections import defaultdict
from collections.abc import Iterable, Sequence

# Below so many rows a larger size costs nothing.
LEAST = 8
# Sizes between one power of two and the next, the finest first: at most 12.5, 25, 50 and 100 % more rows.
STEPS = (8, 4, 2, 1)


def size_step(count: int, steps: int = STEPS[0]) -> int:
    """The distance between two neighbouring sizes near `count`: `bucket` rounds up to a multiple of it.

    So `bucket(count) - count`, the rows of padding, is smaller. count: rows, 0 or more; steps: as for `bucket`
    """
    return max(LEAST, (1 << (count - 1).bit_length()) // (2 * steps)) if count > 0 else LEAST


def bucket(count: int, steps: int = STEPS[0]) -> int:
    """The smallest size that is at least `count`; 0 for 0.

        sizes = { m 2^k : steps <= m <= 2 steps } that are multiples of 8

    count: rows, 0 or more
    steps: how many sizes there are between 2^k and 2^(k + 1), a power of two. With 8 of them a count grows by at most
        12.5 % (or by 7 rows), and by 4 % in the mean

    The sizes grow by a factor, not by a constant. So padding costs large and small batches the same share of their
    time, and there are as few sizes for the large ones as for the small ones.
    """
    step = size_step(count, steps)
    return -(-count // step) * step


class Sizes:
    """Rounds the counts of a batch up to sizes: (nodes, edges, ...), in any units, the nodes first.

    steps: how fine the sizes are, see `bucket`
    known: sizes (nodes, edges, ...) that exist already. A batch gets the smallest of them that holds all its counts and
        has less than one `size_step` of nodes to spare; where there is none, each of its counts goes through `bucket`
    """

    def __init__(self, steps: int = STEPS[0], known: Iterable[tuple[int, ...]] = ()):
        self.steps, self.known = steps, sorted(known)

    @classmethod
    def at_most(cls, most: int, batches: Sequence[Sequence[int]]) -> "Sizes":
        """The `Sizes` that give these batches at most `most` different sizes, with the fewest rows of padding in sum.

        most: sizes that are wanted; batches: counts (nodes, edges, ...) of each batch
        Eight candidates are tried: 8, 4, 2 or 1 sizes between two powers of two, and for each of these either nodes and
        edges rounded up one by one, or nodes alone, where batches of the same number of nodes get the edges of the one
        that has most (large molecules have more of both). Where all eight give more than `most`, the coarsest is taken.
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
        """`size_step` of a batch of so many nodes: it is padded by fewer nodes than that."""
        return size_step(num_nodes, self.steps)

    def number(self, batches: Iterable[Sequence[int]]) -> int:
        """How many different sizes these batches have."""
        return len({self.of(counts) for counts in batches})
