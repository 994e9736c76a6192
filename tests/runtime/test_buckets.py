"""Sizes that rows are rounded up to: few, never smaller, and little larger."""

import pytest
import torch

from geotdm_fast.runtime.buckets import LEAST, STEPS, Sizes, bucket, size_step


@pytest.mark.parametrize("steps", STEPS)
def test_sizes(steps):
    sizes = [bucket(count, steps) for count in range(3000)]
    assert sizes[0] == 0 and sizes == sorted(sizes) and all(size % LEAST == 0 for size in sizes)
    for count, size in enumerate(sizes):
        assert count <= size < count + max(LEAST, count / steps) and bucket(size, steps) == size
        assert size - count < size_step(count, steps) == size_step(max(size, 1), steps)
    octave = {size for size in sizes if 1024 < size <= 2048}
    assert len(octave) == steps


def test_twelve_percent_at_most_and_four_in_the_mean():
    more = [bucket(count) / count - 1 for count in range(128, 4096)]
    assert max(more) <= 0.125 and 0.03 < sum(more) / len(more) < 0.05


def molecules(batch_size: int, count: int = 200) -> list[tuple[int, int]]:
    """Nodes and edges of batches of complete graphs of 5 to 40 nodes."""
    nodes = torch.randint(5, 41, (count, batch_size), generator=torch.Generator().manual_seed(0))
    return [(int(own.sum()), int((own * (own - 1)).sum())) for own in nodes]


@pytest.mark.parametrize("batch_size", [1, 4, 32])
def test_sizes_get_coarser_until_they_are_few(batch_size):
    batches, spared = molecules(batch_size), []
    for most in (100, 16, 8, 4):
        sizes = Sizes.at_most(most, batches)
        assert sizes.number(batches) <= most
        for counts in batches:
            found = sizes.of(counts)
            assert all(own <= size for own, size in zip(counts, found, strict=True))
            assert found[0] - counts[0] < sizes.step(found[0]), "the nodes to spare"
        spared.append(sum(sum(sizes.of(counts)) for counts in batches) / sum(map(sum, batches)))
    assert spared == sorted(spared) and spared[0] < 1.09
    assert spared[1] < {1: 1.8, 4: 1.6, 32: 1.2}[batch_size]


def test_a_batch_that_comes_later_has_sizes_of_its_own_where_it_does_not_fit():
    sizes = Sizes(8, [(64, 200), (72, 400)])
    assert sizes.of((60, 150)) == (64, 200) and sizes.of((60, 201)) == (64, 208)
    assert sizes.of((65, 201)) == (72, 400) and sizes.of((50, 100)) == (56, 104)
    assert Sizes.at_most(4, []).of((9, 0)) == (16, 0)
    nowhere = Sizes.at_most(1, [(9, 9), (100, 100), (1000, 1000)])
    assert nowhere.steps == 1 and nowhere.number([(9, 9), (100, 100), (1000, 1000)]) == 3
