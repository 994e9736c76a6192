"""Positions far from zero: their origin goes with them, from data to samples, scores and files."""

import dataclasses
import pickle

import numpy as np
import pytest
import torch
from tiny_models import made_samples

from geotdm_fast.data import array_dataset, collate
from geotdm_fast.samples.molecule_exports import export_molecules
from geotdm_fast.samples.npz import read_samples, write_samples
from geotdm_fast.samples.record import make_samples
from geotdm_fast.sampling.graphs import select_graphs
from geotdm_fast.scores.evaluation import evaluate
from geotdm_fast.task import Task

FAR = np.array([566000.0, 5932000.0])
PLACES = np.cumsum([0.05, 0.09] * np.ones((4, 20, 3, 2)), axis=1) + np.arange(3)[:, None] + 1000.0 * np.arange(
    4
).reshape(4, 1, 1, 1)  # fmt: skip


def test_batches_keep_origins():
    dataset = array_dataset(PLACES + FAR)
    near = array_dataset(PLACES[:1] - PLACES[:1].mean())
    batch = collate([dataset[0], near[0], dataset[3]])
    assert batch.origin.shape == (3, 2) and batch.origin.dtype == torch.float64
    assert batch.origin[1].tolist() == [0, 0]
    for moved in (
        batch.to("cpu", torch.float16),
        pickle.loads(pickle.dumps(batch)),
        select_graphs(batch, torch.arange(3)),
    ):
        assert torch.equal(moved.origin, batch.origin)
    assert torch.equal(select_graphs(batch, torch.tensor([2, 2])).origin, batch.origin[[2, 2]])
    assert collate([near[0]]).origin is None
    whole = batch.x.double() + batch.origin[batch.batch][:, :, None]
    np.testing.assert_allclose(whole[6:], (PLACES[3] + FAR).transpose(1, 2, 0), atol=1e-6)


def test_samples_are_where_the_data_are(tmp_path):
    dataset = array_dataset(PLACES + FAR)
    batch, task = collate([*dataset]), Task(given=[[0, 5]])
    exact = batch.x[..., 5:] + torch.tensor([[[[0.25]]], [[[0.0]]]])
    samples = make_samples(exact, batch, dataset, task, seed=0, checkpoint="a")
    write_samples(tmp_path / "s.npz", samples)
    back = read_samples(tmp_path / "s.npz")
    np.testing.assert_array_equal(back.origin, samples.origin)
    expected = (PLACES + FAR).transpose(0, 2, 3, 1).reshape(12, 2, 20)
    np.testing.assert_allclose(back.truth(), expected, atol=1e-6)
    np.testing.assert_allclose(back.forecasts()[1], expected, atol=1e-6)
    assert back.truth().dtype == np.float64 and back.truth(absolute=False).dtype == np.float32
    scores = evaluate(back, ["ade"], progress=False)
    assert scores["forecast"]["ade_best"] == pytest.approx(0, abs=1e-6)
    assert scores["baselines"]["constant_velocity"]["ade"] == pytest.approx(0, abs=1e-4)
    still = np.linalg.norm([0.05, 0.09]) * 8
    assert scores["baselines"]["standing_still"]["ade"] == pytest.approx(still, rel=1e-4)
    with pytest.raises(ValueError, match=r"origin must be \[4, 2\], got \[3, 2\]"):
        write_samples(tmp_path / "s.npz", dataclasses.replace(samples, origin=samples.origin[:3]))
        read_samples(tmp_path / "s.npz")


def test_molecules_are_written_where_they_are(tmp_path):
    pytest.importorskip("mdtraj")
    import ase.io

    samples = made_samples(nodes=9)
    origin = np.full((samples.num_graphs, 3), 1e6) + np.arange(3)
    far = dataclasses.replace(samples, origin=origin)
    export_molecules(tmp_path / "a.xyz", far, progress=False)
    first = ase.io.read(tmp_path / "a.xyz", index=0)
    np.testing.assert_allclose(first.positions, samples.forecasts()[0, :9, :, 0] + origin[0], atol=1e-6)
    with pytest.warns(UserWarning, match=r"a\.dcd: positions are far from 0, where float32 blurs them; use \.xyz"):
        export_molecules(tmp_path / "a.dcd", far, progress=False)
