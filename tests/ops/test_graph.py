"""Sums and means over the nodes of each graph of a batch."""

import pytest
import torch
from tolerances import assert_same

from geotdm_fast.metrics.graphs import graph_mean
from geotdm_fast.reference.row_sums import count_by_graph, mean_by_graph, num_graphs, sum_by_graph, take_rows, zero_mean


def test_sums_and_means_of_each_graph():
    value = torch.arange(10.0).reshape(5, 2)
    batch = torch.tensor([0, 0, 1, 1, 1])
    assert num_graphs(batch) == 2
    assert_same(sum_by_graph(value, batch), [[2, 4], [18, 21]], 0.0)
    assert_same(mean_by_graph(value, batch), [[1, 2], [6, 7]], 1e-7)
    assert_same(mean_by_graph(value[:, 0], batch), [1, 6], 1e-7)


def test_a_graph_without_nodes_gives_zero():
    batch = torch.tensor([0, 2, 2])
    assert_same(mean_by_graph(torch.tensor([[3.0], [1.0], [2.0]]), batch), [[3], [0], [1.5]], 1e-7)


def test_no_nodes():
    empty = torch.zeros(0, dtype=torch.int64)
    assert num_graphs(empty) == 0 and mean_by_graph(torch.zeros(0, 3), empty).shape == (0, 3)


def test_a_batch_changed_in_place_is_read_again():
    batch = torch.tensor([0, 0, 1])
    assert num_graphs(batch) == 2
    batch[2] = 4
    assert num_graphs(batch) == 5


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("size", [300, 1000])
def test_sums_of_many_nodes_lose_nothing_in_any_dtype(size, dtype):
    batch = torch.zeros(size, dtype=torch.int64)
    assert torch.equal(mean_by_graph(torch.full((size, 3), 2.0, dtype=dtype), batch), torch.full((1, 3), 2.0).to(dtype))
    assert count_by_graph(batch).tolist() == [size]
    values = torch.rand(size, 3).to(dtype)
    exact = values.double().sum(0, keepdim=True)
    bound = max(torch.finfo(dtype).eps, 1e-6)
    assert_same(sum_by_graph(values, batch), exact, bound)
    assert_same(graph_mean("test", values.T, batch), exact.T / size, bound)
    x = values[:, :, None].clone()
    assert_same(zero_mean(x, torch.tensor([0, size])), (values - exact / size)[:, :, None], 4 * bound)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_gradient_of_rows_taken_often_adds_up_in_float32(dtype):
    value = torch.ones(2, 3, dtype=dtype, requires_grad=True)
    taken = take_rows(value, torch.zeros(3072, dtype=torch.int64))
    assert taken.dtype == dtype
    taken.sum().backward()
    assert value.grad.tolist() == [[3072] * 3, [0] * 3]
