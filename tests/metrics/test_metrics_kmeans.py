"""K-means representatives: right where the answer is known, tight, seeded, and apart from the global generator."""

import itertools
import math

import pytest
import torch

from geotdm_fast.metrics import kmeans_representatives
from geotdm_fast.metrics.kmeans import _lloyd, _square_distance


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_separated_clusters_give_the_sample_nearest_each_centre():
    centre = torch.tensor([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0], [10.0, 10.0]])
    # In each cluster: one sample in the middle, two beside it.
    offset = torch.tensor([[0.0, 0.1], [1.0, 0.0], [-1.0, 0.0]])
    ends = (centre[:, None] + offset).reshape(12, 1, 2)
    shuffled = torch.stack([torch.randperm(12, generator=rng(s)) for s in range(7)], dim=1)  # [12, 7]
    chosen = kmeans_representatives(ends[shuffled, 0], num_clusters=4, num_init=64, progress=False)
    assert chosen.shape == (4, 7) and chosen.dtype == torch.int64
    for scene in range(7):
        assert sorted(shuffled[chosen[:, scene], scene].tolist()) == [0, 3, 6, 9]


def test_every_sample_is_its_own_representative_when_there_are_as_many():
    ends = torch.randn(6, 3, 2, generator=rng())
    chosen = kmeans_representatives(ends, num_clusters=6, progress=False)
    assert chosen.sort(0).values.T.tolist() == [list(range(6))] * 3


def test_the_tightest_partition_is_found_from_enough_starts():
    points = torch.randn(20, 7, 2, generator=rng(), dtype=torch.float64)  # 20 problems of 7 points
    tries = points.repeat_interleave(64, 0)
    starts = torch.rand(20 * 64, 7, generator=rng(1)).argsort(1)[:, :2]
    centres = _lloyd(tries, tries.gather(1, starts[..., None].expand(-1, -1, 2)), 100)
    spread = _square_distance(tries, centres).amin(2).sum(1).view(20, 64).amin(1)
    for problem, found in zip(points, spread.tolist(), strict=True):
        best = math.inf
        for size in (1, 2, 3):
            for half in itertools.combinations(range(7), size):
                inside = torch.zeros(7, dtype=torch.bool)
                inside[list(half)] = True
                parts = (problem[inside], problem[~inside])
                best = min(best, sum(float((p - p.mean(0)).square().sum()) for p in parts))
        assert found == pytest.approx(best, rel=1e-9)


def test_coincident_samples_do_not_fail():
    chosen = kmeans_representatives(torch.ones(5, 2, 2), num_clusters=3, progress=False)
    assert chosen.shape == (3, 2) and int(chosen.min()) >= 0 and int(chosen.max()) < 5


def test_seeded_and_apart_from_the_global_generator():
    ends = torch.randn(30, 4, 2, generator=rng())
    state = torch.random.get_rng_state()
    first = kmeans_representatives(ends, 10, seed=3, num_init=1, progress=False)
    torch.rand(3)
    torch.testing.assert_close(kmeans_representatives(ends, 10, seed=3, num_init=1, progress=False), first)
    assert not torch.equal(kmeans_representatives(ends, 10, seed=4, num_init=1, progress=False), first)
    torch.random.set_rng_state(state)
    kmeans_representatives(ends, 10, progress=False)
    assert torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.parametrize(
    ("ends", "settings", "message"),
    [
        (
            torch.zeros(4, 2),
            {},
            r"kmeans_representatives: end_points must be \[K, B, D\], none of them 0, got \[4, 2\]",
        ),
        (torch.zeros(4, 0, 2), {}, r"end_points must be \[K, B, D\], none of them 0, got \[4, 0, 2\]"),
        (torch.full((4, 1, 2), math.nan), {}, "end_points must be finite, got 8 NaN or Inf of 8 numbers"),
        (torch.zeros(4, 1, 2), {"num_clusters": 5}, r"num_clusters must be in 1..4 \(the samples\), got 5"),
        (torch.zeros(4, 1, 2), {"num_clusters": 0}, r"num_clusters must be in 1..4 \(the samples\), got 0"),
        (torch.zeros(4, 1, 2), {"num_clusters": 2, "num_init": 0}, "num_init must be at least 1, got 0"),
        (torch.zeros(4, 1, 2), {"num_clusters": 2, "max_iter": 0}, "max_iter must be at least 1, got 0"),
    ],
)
def test_errors_say_what_is_wrong(ends, settings, message):
    with pytest.raises(ValueError, match=message):
        kmeans_representatives(ends, **settings)


def test_integer_end_points_are_a_type_error():
    with pytest.raises(TypeError, match="end_points must be floating point, got int64"):
        kmeans_representatives(torch.zeros(4, 1, 2, dtype=torch.int64), 2)
