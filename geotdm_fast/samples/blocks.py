"""Rectangles of trajectories, graphs by samples: the whole request, a shard of it, a batch of that."""

import itertools
from typing import NamedTuple


class Block(NamedTuple):
    """Every sample in `samples` of every graph in `graphs`."""

    graphs: range
    samples: range

    @property
    def size(self) -> int:
        """How many trajectories."""
        return len(self.graphs) * len(self.samples)

    def count(self, size: int) -> int:
        """How many blocks `split` makes."""
        if len(self.samples) <= size:
            return -(-len(self.graphs) // (size // len(self.samples)))
        return len(self.graphs) * -(-len(self.samples) // size)

    def split(self, size: int) -> list["Block"]:
        """Blocks of at most `size` trajectories that make up this one, graph by graph.

        All samples of a graph stay together where they fit: they share its conditioning. The blocks are as equal as can
        be, so that few shapes occur.
        """
        if len(self.samples) <= size:
            most = size // len(self.samples)
            return [Block(graphs, self.samples) for graphs in _even(self.graphs, most)]
        return [Block(range(g, g + 1), samples) for g in self.graphs for samples in _even(self.samples, size)]


def _even(numbers: range, most: int) -> list[range]:
    """Consecutive ranges of at most `most`, whose lengths differ by one at most."""
    pieces = -(-len(numbers) // most)
    bounds = [numbers.start + i * len(numbers) // pieces for i in range(pieces + 1)]
    return [range(first, last) for first, last in itertools.pairwise(bounds)]
