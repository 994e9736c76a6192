"""Sizes that rows are rounded up to: few, never smaller, and little larger."""

import pytest

from geotdm_fast.runtime.buckets import FINEST, LEAST, Buckets


@pytest.mark.parametrize("steps", FINEST)
def test_sizes(steps):
    buckets = Buckets(steps)
    sizes = [buckets.size(count) for count in range(3000)]
    assert sizes[0] == 0 and sizes == sorted(sizes) and all(size % LEAST == 0 for size in sizes)
    for count, size in enumerate(sizes):
        assert count <= size < count + max(LEAST, count / steps) and buckets.size(size) == size
        assert size - count < buckets.step(count) == buckets.step(max(size, 1)), "room for all, and one more"
    octave = {size for size in sizes if 1024 < size <= 2048}
    assert len(octave) == steps


def test_twelve_percent_at_most_and_four_in_the_mean():
    more = [Buckets().size(count) / count - 1 for count in range(128, 4096)]
    assert max(more) <= 0.125 and 0.03 < sum(more) / len(more) < 0.05


def test_sizes_get_coarser_until_they_are_few():
    batches = [(count, 3 * count) for count in range(1000, 1100)]
    known = [Buckets.at_most(most, batches) for most in (100, 6, 3, 1)]
    for (buckets, number), most in zip(known, (100, 6, 3, 1), strict=True):
        assert number == len({tuple(map(buckets.size, counts)) for counts in batches})
        assert number <= most or buckets.steps == 1
    assert [buckets.steps for buckets, _ in known] == sorted((b.steps for b, _ in known), reverse=True)
    assert known[0][0] == Buckets() and known[-1][0] == Buckets(1)
    assert Buckets.at_most(4, []) == (Buckets(), 0)
