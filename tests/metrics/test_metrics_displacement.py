"""ADE and FDE, their summaries, and likelihoods per graph, against sums done by hand."""

import math

import pytest
import torch

from geotdm_fast.metrics import (
    by_graph,
    displacement_errors,
    displacement_summary,
    graph_mean,
    graph_sum,
    nll_per_graph,
)

BATCH = torch.tensor([0, 0, 1])


def forecasts() -> tuple[torch.Tensor, torch.Tensor]:
    """Two samples of three nodes (graphs of 2 and 1) over two frames in 2-D, off by known distances."""
    target = torch.randn(3, 2, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    distance = torch.tensor([[[1.0, 3.0], [2.0, 4.0], [5.0, 6.0]], [[0.0, 5.0], [0.0, 5.0], [7.0, 1.0]]]).double()
    direction = torch.tensor([0.6, -0.8], dtype=torch.float64)
    return target + distance[:, :, None] * direction[:, None], target


def test_displacement_errors_by_hand():
    samples, target = forecasts()
    ade, fde = displacement_errors(samples, target, BATCH)
    assert ade.dtype == torch.float64
    torch.testing.assert_close(ade, torch.tensor([[2.5, 5.5], [2.5, 4.0]], dtype=torch.float64))
    torch.testing.assert_close(fde, torch.tensor([[3.5, 6.0], [5.0, 1.0]], dtype=torch.float64))


def test_only_scored_nodes_count():
    samples, target = forecasts()
    samples[:, 0] = math.nan
    ade, fde = displacement_errors(samples, target, BATCH, scored=torch.tensor([1, 2]))
    torch.testing.assert_close(ade, torch.tensor([[3.0, 5.5], [2.5, 4.0]], dtype=torch.float64))
    torch.testing.assert_close(fde, torch.tensor([[4.0, 6.0], [5.0, 1.0]], dtype=torch.float64))


def test_a_nan_sample_is_not_hidden():
    samples, target = forecasts()
    samples[0, 2, 0, 1] = math.nan
    summary = displacement_summary(*displacement_errors(samples, target, BATCH))
    assert all(math.isnan(value) for value in summary.values())


def test_order_of_nodes_does_not_matter():
    samples, target = forecasts()
    order = torch.tensor([2, 0, 1])
    ade, fde = displacement_errors(samples, target, BATCH)
    ade_moved, fde_moved = displacement_errors(samples[:, order], target[order], BATCH[order])
    torch.testing.assert_close(ade_moved, ade)
    torch.testing.assert_close(fde_moved, fde)


def test_displacement_summary_by_hand():
    ade = torch.tensor([[2.5, 5.5], [2.5, 4.0], [1.0, 9.0]])
    fde = torch.tensor([[3.5, 6.0], [5.0, 1.0], [2.0, 2.0]])
    summary = displacement_summary(ade, fde, scale=2.0, representatives=torch.tensor([[0, 2], [1, 0]]))
    assert summary == pytest.approx(
        {
            "ade_mean": 2 * 24.5 / 6,
            "fde_mean": 2 * 19.5 / 6,
            "ade_best": 1.0 + 4.0,
            "fde_best": 2.0 + 1.0,
            "ade_best_kmeans2": 2.5 + 5.5,
            "fde_best_kmeans2": 3.5 + 2.0,
        }
    )
    assert set(displacement_summary(ade, fde)) == {"ade_mean", "fde_mean", "ade_best", "fde_best"}


def test_nll_per_graph():
    nats = torch.tensor([1.0, -2.5, 4.0], dtype=torch.float64)
    assert nll_per_graph(nats, BATCH).tolist() == [-1.5, 4.0]
    assert nll_per_graph(nats, BATCH, scored=torch.tensor([0, 2])).tolist() == [1.0, 4.0]


def test_graph_sum_and_mean_keep_leading_dimensions():
    values = torch.arange(6.0).view(2, 3)
    assert graph_sum("here", values, BATCH).tolist() == [[1, 2], [7, 5]]
    assert graph_mean("here", values, BATCH).tolist() == [[0.5, 2], [3.5, 5]]


def test_by_graph_gathers_scattered_nodes():
    x = torch.arange(24.0).view(4, 3, 2)
    torch.testing.assert_close(by_graph(x, torch.tensor([0, 0, 1, 1])), x.view(2, 2, 3, 2))
    scattered = by_graph(x, torch.tensor([1, 0, 1, 0]))
    torch.testing.assert_close(scattered, x[torch.tensor([[1, 3], [0, 2]])])


X = torch.zeros(3, 2, 4)
GOOD = {"samples": X[None], "target": X, "batch": BATCH}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"target": X[0]}, r"displacement_errors: target must be \[N, D, T\] with T > 0, got \[2, 4\]"),
        ({"target": X[..., :0]}, r"target must be \[N, D, T\] with T > 0, got \[3, 2, 0\]"),
        ({"samples": X}, r"displacement_errors: samples must be \[K, 3, 2, 4\] with K > 0, got \[3, 2, 4\]"),
        ({"samples": X[None, :0]}, r"samples must be \[K, 3, 2, 4\] with K > 0, got \[1, 0, 2, 4\]"),
        ({"batch": BATCH[:2]}, r"displacement_errors: batch must be \[3\] int64, got \[2\] int64"),
        ({"batch": BATCH.float()}, r"batch must be \[3\] int64, got \[3\] float32"),
        ({"batch": BATCH - 1}, "batch must not be negative, got -1"),
        ({"batch": BATCH * 2}, "every graph must have a node that counts, graph 1 has none"),
        ({"scored": torch.tensor([2])}, "every graph must have a node that counts, graph 0 has none"),
        ({"scored": torch.tensor([2, 3])}, r"scored must name nodes 0..2, got 2..3"),
        ({"scored": torch.tensor([-1, 2])}, r"scored must name nodes 0..2, got -1..2"),
        ({"scored": torch.tensor([0.0])}, r"scored must be \[M\] int64, got \[1\] float32"),
        ({"scored": torch.tensor([[0]])}, r"scored must be \[M\] int64, got \[1, 1\] int64"),
        ({"samples": X[None, :0], "target": X[:0], "batch": BATCH[:0]}, "batch must hold at least one node, got none"),
    ],
)
def test_displacement_errors_say_what_is_wrong(change, message):
    with pytest.raises(ValueError, match=message):
        displacement_errors(**(GOOD | change))


def test_other_errors_say_what_is_wrong():
    ade = torch.zeros(2, 3)
    with pytest.raises(ValueError, match=r"ade and fde must be \[K, B\] with K, B > 0, got \[3\] and \[2, 3\]"):
        displacement_summary(ade[0], ade)
    with pytest.raises(ValueError, match=r"ade and fde must be \[K, B\] with K, B > 0, got \[2, 3\] and \[2, 2\]"):
        displacement_summary(ade, ade[:, :2])
    with pytest.raises(ValueError, match=r"representatives must be \[R, 3\] with R > 0, got \[1, 2\]"):
        displacement_summary(ade, ade, representatives=torch.zeros(1, 2, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"nll_per_graph: total_bpd must be \[N\], got \[2, 3\]"):
        nll_per_graph(ade, BATCH)
    with pytest.raises(ValueError, match="same number of nodes, got 2 in graph 0 and 1 in graph 1"):
        by_graph(X, BATCH)
