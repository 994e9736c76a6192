"""Trajectories and batches as the official code's: further fields by attribute and by key, batched and taken apart."""

import copy
import pickle

import pytest
import torch

from geotdm_fast.data import Batch, Trajectory, TrajectoryDataset, collate
from geotdm_fast.data.windows import complete_edges
from geotdm_fast.sampling import select_graphs


def graph(nodes: int, number: int, **fields) -> Trajectory:
    x = torch.arange(nodes * 6.0).reshape(nodes, 2, 3) + 100 * number
    item = Trajectory(x, torch.ones(nodes, 1), complete_edges(nodes), None, torch.zeros(1, dtype=torch.int64))
    for name, value in fields.items():
        item[name] = value
    return item


def graphs() -> list[Trajectory]:
    return [
        graph(n, i, v=torch.full((n, 2), float(i)), system_id=torch.tensor([float(i)]), num=torch.tensor(n),
              select_index=torch.tensor([n - 1]), label=i, note=f"graph {i}")
        for i, n in enumerate((2, 1, 3))
    ]  # fmt: skip


def test_fields_are_batched_as_the_official_loader_does():
    batch = collate(graphs())
    assert batch.v[:, 0].tolist() == [0, 0, 1, 2, 2, 2] and batch["v"] is batch.v
    assert batch.system_id.tolist() == [0, 1, 2] and batch.num.tolist() == [2, 1, 3]
    assert batch.select_index.tolist() == [1, 2, 5], "numbers of nodes are shifted"
    assert batch.label.tolist() == [0, 1, 2] and batch.note == ["graph 0", "graph 1", "graph 2"]
    assert batch.ptr.tolist() == [0, 2, 3, 6] and batch.num_nodes == 6 and batch.num_graphs == 3
    assert "v" in batch and "w" not in batch and batch.keys()[:3] == ["x", "h", "edge_index"]


def test_a_batch_is_taken_apart_into_its_graphs():
    batch = collate(graphs())
    batch.x = batch.x[..., :2]
    batch["x_pred"] = -batch.x
    batch.weight = torch.tensor([1.0, 2.0, 3.0])
    batch.epoch = 7
    for g, (item, whole) in enumerate(zip(batch.to_data_list(), graphs(), strict=True)):
        assert torch.equal(item.x, whole.x[..., :2]) and torch.equal(item.x_pred, -item.x)
        assert torch.equal(item.edge_index, whole.edge_index) and item.scored.tolist() == [0] and item.edge_attr is None
        assert torch.equal(item.v, whole.v) and item.note == whole.note and item.epoch == 7
        assert item.select_index.tolist() == [whole.num.item() - 1] and item.weight.tolist() == [g + 1.0]
    again = collate(batch.to_data_list())
    for name in ("x", "v", "x_pred", "edge_index", "batch", "select_index", "system_id", "weight"):
        assert torch.equal(again[name], batch[name]), name


def test_nodes_that_are_not_side_by_side_are_taken_apart_too():
    x = torch.arange(8.0).reshape(4, 2, 1)
    edges = torch.tensor([[0, 3, 1], [2, 1, 3]])
    batch = Batch(
        x, x[:, :, 0], edges, torch.tensor([[5.0], [6], [7]]), torch.tensor([3]), torch.tensor([0, 1, 0, 1]), 2
    )
    first, second = batch.to_data_list()
    assert first.x[:, 0, 0].tolist() == [0, 4] and second.x[:, 0, 0].tolist() == [2, 6]
    assert first.edge_index.tolist() == [[0], [1]] and second.edge_index.tolist() == [[1, 0], [0, 1]]
    assert second.edge_attr.tolist() == [[6], [7]] and first.scored.tolist() == [] and second.scored.tolist() == [1]


def test_graphs_that_are_picked_keep_their_fields():
    batch = collate(graphs())
    batch.x_pred = batch.x + 1
    batch.epoch = 7
    picked = select_graphs(batch, torch.tensor([2, 0]))
    assert picked.v[:, 0].tolist() == [2, 2, 2, 0, 0] and picked.system_id.tolist() == [2, 0]
    assert picked.select_index.tolist() == [2, 4] and picked.note == ["graph 2", "graph 0"] and picked.epoch == 7
    assert torch.equal(picked.x_pred, picked.x + 1)
    assert [item.label.tolist() for item in picked.to_data_list()] == [[2], [0]]


def test_copies_carry_the_fields():
    batch = collate(graphs())
    for other in (batch.cpu(), copy.deepcopy(batch), pickle.loads(pickle.dumps(batch))):
        assert other is not batch and torch.equal(other.v, batch.v) and len(other.to_data_list()) == 3
    double = batch.to("cpu", torch.float64)
    assert double.v.dtype == torch.float64 and double.num.dtype == torch.int64 and batch.v.dtype == torch.float32
    double.x = double.x[:1]
    assert len(batch.x) == 6, "a copy is one of its own"
    assert repr(graphs()[1]).startswith("Trajectory(x=[1, 2, 3], h=[1, 1], edge_index=[2, 0], edge_attr=None")


def test_what_is_not_there_is_named():
    batch = collate(graphs())
    with pytest.raises(AttributeError, match=r"Batch has no field 'vel', only x, h, edge_index, .*v, system_id"):
        batch.vel  # noqa: B018
    with pytest.raises(KeyError, match=r"Batch has no field 'vel'"):
        batch["vel"]
    with pytest.raises(TypeError, match="a field is chosen by its name, got 0"):
        batch[0]
    batch.odd = torch.zeros(5)
    with pytest.raises(ValueError, match="odd must have a row for each of 6 nodes, 3 graphs or 8 edges, got 5 rows"):
        batch.to_data_list()
    with pytest.raises(ValueError, match="collate: further fields of graph 1 must be flag like graph 0, got none"):
        collate([graph(2, 0, flag=1), graph(2, 1)])
    with pytest.raises(
        ValueError, match=r"collate: v of graph 1 must be joined with \[2, 3\] of graph 0, got \[2, 4\]"
    ):
        collate([graph(2, i, v=torch.zeros(2, 3 + i)) for i in range(2)])


EDGES = torch.tensor([[0, 1, 2], [1, 2, 0]])


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"h": torch.ones(2, 1)}, r"h of graph 1 must be \[3, 1\], got \[2, 1\]"),
        ({"edge_attr": torch.ones(2, 4)}, r"edge_attr of graph 1 must be \[3, 4\], got \[2, 4\]"),
        ({"edge_index": EDGES + 1}, r"edge_index of graph 1 must be in 0\.\.2, the graph's nodes, got 3"),
        ({"edge_index": EDGES - 1}, r"edge_index of graph 1 must be in 0\.\.2, the graph's nodes, got -1"),
    ],
)
def test_what_would_reach_into_another_graph(wrong, message):
    """Between graphs that fit, such an edge joined their nodes, and such features were those of the next graph."""
    fields = {"x": torch.zeros(3, 3, 2), "h": torch.ones(3, 1), "edge_index": EDGES, "edge_attr": torch.ones(3, 4)}
    item = lambda **other: Trajectory(**{**fields, **other}, scored=torch.arange(3))
    whole = collate([item(), item(edge_index=EDGES.int()), item()])
    assert whole.edge_index[:, 3:6].tolist() == (EDGES + 3).tolist()
    with pytest.raises(ValueError, match=f"collate: {message}"):
        collate([item(), item(**wrong), item()])
    alone = TrajectoryDataset([item(**wrong)], name="mine")
    with pytest.raises(ValueError, match=f"collate: {message}".replace("graph 1", "graph 0")):
        collate(alone)
