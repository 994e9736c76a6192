"""Graphs that differ in size: nodes that are not there, and graphs side by side."""

import numpy as np
import pytest
import torch

from geotdm_fast.data import array_dataset, collate, npz_dataset
from geotdm_fast.data.windows import complete_edges
from geotdm_fast.training.device_data import DeviceData

RNG = np.random.default_rng(0)


def scenes():
    """Six scenes of five agents, of whom some are not there: x [6, 8, 5, 2], and who is there [6, 5]."""
    there = np.array([[1, 1, 1, 1, 1], [1, 1, 1, 0, 1], [1, 1, 1, 0, 1], [0, 0, 1, 1, 0], [1] * 5, [1, 1, 1, 1, 0]]) > 0
    x = np.cumsum(RNG.normal(size=(6, 8, 5, 2)), axis=1)
    x[~there[:, None].repeat(8, 1)] = np.nan
    return x, there


def test_who_is_not_there_is_left_out(recwarn):
    x, there = scenes()
    h, edge_attr = RNG.normal(size=(6, 5, 3)), RNG.normal(size=(6, 20, 2))
    pairs = complete_edges(5).numpy()
    plain = array_dataset(x)
    full = array_dataset(x, h=h, edge_index=pairs, edge_attr=edge_attr)
    shared = array_dataset(x, h=h[0], edge_index=pairs, edge_attr=edge_attr[0])
    assert len(plain) == len(full) == 6
    for b in range(6):
        own = np.flatnonzero(there[b])
        np.testing.assert_array_equal(plain[b].x, x[b][:, own].transpose(1, 2, 0).astype(np.float32))
        assert torch.equal(plain[b].edge_index, complete_edges(len(own)))
        assert plain[b].scored.tolist() == [*range(len(own))]
        np.testing.assert_allclose(full[b].h, h[b, own], rtol=1e-6)
        kept = there[b][pairs].all(axis=0)
        np.testing.assert_array_equal(own[full[b].edge_index.numpy()], pairs[:, kept])
        np.testing.assert_allclose(full[b].edge_attr, edge_attr[b, kept], rtol=1e-6)
        np.testing.assert_allclose(shared[b].edge_attr, edge_attr[0, kept], rtol=1e-6)
        np.testing.assert_allclose(shared[b].h, h[0, own], rtol=1e-6)
    test = array_dataset(x, "test", h=h, edge_index=pairs, edge_attr=edge_attr)
    assert len(test) == 2 and test[1].x.shape == (4, 2, 8)
    np.testing.assert_allclose(test[1].h, h[5, :4], rtol=1e-6)
    assert not recwarn
    for dataset in (plain, full):
        batch, data = collate([*dataset]), DeviceData(dataset)
        items = torch.arange(6)
        cut = data.batch(items, data.structure(items))
        assert torch.equal(cut.x, batch.x) and torch.equal(cut.edge_index, batch.edge_index)


def test_agents_that_come_and_go():
    x = np.cumsum(RNG.normal(size=(30, 3, 2)), axis=0)
    x[:12, 1] = np.nan
    x[20:, 2] = np.nan
    with pytest.warns(UserWarning, match=r"x is nan in some frames of 17 of 21 windows, first at \[3, 1\]"):
        # Windows 3 ... 11 lack agent 1 in part, 11 ... 19 agent 2.
        dataset = array_dataset(x, span=10)
    there = [[n for n in range(3) if np.isfinite(x[t : t + 10, n]).all()] for t in range(21)]
    assert [item.x.shape[0] for item in dataset] == [len(own) for own in there]
    for t in range(21):
        np.testing.assert_array_equal(dataset[t].x, x[t : t + 10, there[t]].transpose(1, 2, 0).astype(np.float32))


def test_nan_that_means_nothing_is_refused():
    x, _ = scenes()
    x[1, 3, 2, 1] = np.nan
    with pytest.raises(ValueError, match=r"x must be finite, got nan at \[1, 3, 2\]; a node that is not there must be"):
        array_dataset(x)
    with pytest.raises(ValueError, match=r"x must be finite, got inf at \[1, 3, 2, 1\]"):
        x[1, 3, 2, 1] = np.inf
        array_dataset(x)
    molecule = np.zeros((40, 2, 3)) + RNG.normal(size=(40, 2, 3))
    molecule[:, 1] = np.nan
    with pytest.raises(ValueError, match=r"x must be finite, got nan at \[0, 1, 0\]"):
        array_dataset(molecule, z=[6, 6])


def test_graphs_side_by_side(tmp_path, recwarn):
    sizes = [3, 1, 4, 3, 2]
    x = np.cumsum(RNG.normal(size=(12, 13, 3)), axis=0)
    h, batch, ptr = RNG.normal(size=(13, 2)), np.repeat(range(5), sizes), np.cumsum([0, *sizes])
    edges = np.concatenate(
        [complete_edges(n).numpy() + first for n, first in zip(sizes, ptr[:-1], strict=True)], axis=1
    )
    edge_attr = RNG.normal(size=(edges.shape[1], 1))
    path = tmp_path / "ragged.npz"
    for about in ({"batch": batch}, {"ptr": ptr}):
        np.savez(path, x=x, h=h, edge_index=edges, edge_attr=edge_attr, **about)
        dataset = npz_dataset(path)
        assert [item.x.shape for item in dataset] == [(n, 3, 12) for n in sizes]
        whole = collate([*dataset])
        np.testing.assert_array_equal(whole.x, x.transpose(1, 2, 0).astype(np.float32))
        np.testing.assert_array_equal(whole.edge_index, edges)
        np.testing.assert_allclose(whole.edge_attr, edge_attr, rtol=1e-6)
        np.testing.assert_allclose(whole.h, h, rtol=1e-6)
        assert whole.batch.tolist() == batch.tolist()
    test = npz_dataset(path, "test", span=5, stride=2)
    assert len(test) == 4
    np.testing.assert_array_equal(test[3].x, x[6:11, 11:].transpose(1, 2, 0).astype(np.float32))
    plain = array_dataset(x, batch=batch, frames=[2, 12, 2])
    assert plain[2].x.shape == (4, 3, 5) and torch.equal(plain[2].edge_index, complete_edges(4))
    assert not recwarn


def test_molecules_side_by_side():
    water = np.array([[0, 0, 0], [0.957, 0, 0], [-0.24, 0.927, 0]])
    carbons = np.array([[9, 0, 0], [10.5, 0, 0]])
    x = np.concatenate([water, carbons]) + 0.01 * RNG.normal(size=(20, 5, 3))
    dataset = array_dataset(x, z=[8, 1, 1, 6, 6], ptr=[0, 3, 5], span=10, stride=10)
    assert len(dataset) == 4
    assert [dataset.numbers_of(i).tolist() for i in range(4)] == [[8, 1, 1]] * 2 + [[6, 6]] * 2
    assert dataset[0].edge_index.shape == (2, 6) and dataset[3].edge_index.tolist() == [[0, 1], [1, 0]]


BAD = [
    (ValueError, r"batch must ascend from 0 without a gap, got \[0, 1, 0\]", {"batch": [0, 1, 0]}),
    (ValueError, r"batch must ascend from 0 without a gap, got \[0, 0, 2\]", {"batch": [0, 0, 2]}),
    (ValueError, r"batch must be \[3\], the graph of each node of x, got \[2\]", {"batch": [0, 0]}),
    (TypeError, r"batch must hold whole numbers, got float64", {"batch": [0.0, 0, 1]}),
    (ValueError, r"ptr must ascend from 0 to 3, the nodes of x, got \[0, 2\]", {"ptr": [0, 2]}),
    (ValueError, r"batch and ptr must not be given both", {"ptr": [0, 3], "batch": [0, 0, 0]}),
]


@pytest.mark.parametrize("error, message, about", BAD)
def test_bad_graphs_side_by_side(error, message, about):
    with pytest.raises(error, match=message):
        array_dataset(RNG.normal(size=(10, 3, 2)), **about)
    with pytest.raises(ValueError, match=r"is for graphs side by side in x \[frames, N, D\]|must not be given both"):
        array_dataset(RNG.normal(size=(4, 10, 3, 2)), **about)


def test_lists_of_different_length_say_how(tmp_path):
    lists = [[[[0.0, 0], [1, 1]]] * 3, [[[0.0, 0]]] * 3]
    with pytest.raises(ValueError, match=r"x must be .*, got rows of unequal length; .* batch or ptr, or let .* nan"):
        array_dataset(lists)
    np.savez(tmp_path / "lists.npz", x=np.array([*lists, 1], dtype=object)[:2])
    with pytest.raises(ValueError, match=r"array 'x' must be plain numbers, got pickled objects, .*; .* batch or ptr"):
        npz_dataset(tmp_path / "lists.npz")
