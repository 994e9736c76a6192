"""Sums and means over the nodes of each graph of a batch."""

import torch
from tolerances import assert_same

from geotdm_fast.graph import mean_by_graph, num_graphs, sum_by_graph


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
