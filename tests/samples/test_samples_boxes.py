"""Periodic boxes in samples: from the data to the record, its files and shards, and back."""

import dataclasses

import numpy as np
import pytest
import torch
from boxed import waters
from tiny_models import made_samples

from geotdm_fast.data import array_dataset, collate
from geotdm_fast.samples.blocks import Block
from geotdm_fast.samples.manifest import Manifest, write_manifest
from geotdm_fast.samples.npz import read_samples, write_samples
from geotdm_fast.samples.record import make_samples
from geotdm_fast.samples.shards import read_shards, write_shard
from geotdm_fast.sampling import select_graphs
from geotdm_fast.scores.md.ensemble import ensembles
from geotdm_fast.task import Task

WALK = waters(frames=16, molecules=2)
DATASET = array_dataset(WALK.x, z=WALK.z, bonds=WALK.bonds, cell=WALK.cells, pbc=[1, 1, 0], span=8, stride=4)
BATCH, TASK = collate([*DATASET]), Task(given=[[0, 3]])


def drawn(batch=BATCH, task=TASK):
    x = batch.x[..., 3:] if task.is_conditional else batch.x[..., : task.num_frames]
    return make_samples(torch.stack([x, x + 1]), batch, DATASET, task, seed=0, checkpoint="a")


def test_samples_have_the_boxes_of_their_data(tmp_path):
    samples = drawn()
    assert samples.cell.shape == (3, 8, 3, 3) and samples.cell.dtype == np.float32
    assert samples.pbc.tolist() == [[True, True, False]] * 3
    for graph, start in enumerate((0, 4, 8)):
        np.testing.assert_allclose(samples.truth_cell()[graph], WALK.cells[start : start + 8], rtol=1e-6)
        known = WALK.cells[[start + t for t in (0, 1, 2, 2, 2, 2, 2, 2)]]
        np.testing.assert_allclose(samples.forecast_cell()[graph], known, rtol=1e-6)
    write_samples(tmp_path / "s.npz", samples)
    back = read_samples(tmp_path / "s.npz")
    np.testing.assert_array_equal(back.cell, samples.cell)
    np.testing.assert_array_equal(back.pbc, samples.pbc)


def test_what_is_drawn_without_given_frames_has_the_first_box():
    samples = drawn(task=Task(num_frames=5))
    assert samples.cell.shape == (3, 5, 3, 3)
    np.testing.assert_array_equal(samples.forecast_cell(), samples.cell[:, :1].repeat(5, axis=1))


def test_boxes_are_scaled_with_positions():
    samples = dataclasses.replace(drawn(), scale=0.1)
    np.testing.assert_allclose(samples.truth_cell(), samples.cell * 0.1, rtol=1e-6)
    np.testing.assert_allclose(samples.forecast_cell()[:, 7], samples.cell[:, 2] * 0.1, rtol=1e-6)


def test_shards_have_boxes(tmp_path):
    request = {"num_graphs": 3, "num_samples": 2, "shard_size": 4}
    manifest = Manifest(request, 4)
    write_manifest(tmp_path, manifest)
    for number, block in enumerate(manifest.shards):
        assert block == Block(block.graphs, range(2))
        graphs = torch.arange(block.graphs.start, block.graphs.stop)
        write_shard(tmp_path, manifest, number, drawn(select_graphs(BATCH, graphs)))
    assert len(manifest.shards) == 2
    joined, whole = read_shards(tmp_path), drawn()
    for name in ("cell", "pbc", "samples", "target"):
        np.testing.assert_array_equal(getattr(joined, name), getattr(whole, name))


def test_without_a_box_files_are_as_they_were(tmp_path):
    write_samples(tmp_path / "s.npz", made_samples())
    with np.load(tmp_path / "s.npz") as file:
        assert "cell" not in file.files and "pbc" not in file.files
    back = read_samples(tmp_path / "s.npz")
    assert back.cell is None and back.pbc is None and back.forecast_cell() is None and back.truth_cell() is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"cell": None}, "cell and pbc must come together, got pbc alone"),
        ({"pbc": None}, "cell and pbc must come together, got cell alone"),
        ({"cell": drawn().cell[:2]}, r"cell must be \[3, 8, 3, 3\], got \[2, 8, 3, 3\]"),
        ({"cell": drawn().cell[:, :5]}, r"cell must be \[3, 8, 3, 3\], got \[3, 5, 3, 3\]"),
        ({"cell": drawn().cell[0]}, r"cell must be \[3, 8, 3, 3\], got \[8, 3, 3\]"),
        ({"pbc": drawn().pbc[:, :2]}, r"pbc must be \[3, 3\], got \[3, 2\]"),
        ({"pbc": drawn().pbc.astype(int)}, "pbc must be bool, got int64"),
        ({"cell": drawn().cell.astype(int)}, "cell must be floating point, got int64"),
        ({"cell": drawn().cell * np.nan}, "cell must be finite"),
        ({"cell": np.ones((3, 1, 3, 3), np.float32)}, "cell must span a volume"),
    ],
)
def test_bad_boxes_are_errors_of_the_file(tmp_path, changes, message):
    write_samples(tmp_path / "s.npz", dataclasses.replace(drawn(), **changes))
    with pytest.raises(ValueError, match=rf"s\.npz: {message}"):
        read_samples(tmp_path / "s.npz")


def test_samples_up_to_where_the_data_end_have_boxes_up_to_there():
    samples = drawn()
    samples.target[..., 3:] = np.nan
    known = samples.until_known()
    assert known.cell.shape == (3, 6, 3, 3)
    np.testing.assert_array_equal(known.forecast_cell(), samples.forecast_cell()[:, :6])


def test_drawn_frames_are_scored_in_the_box_that_the_network_was_told():
    dataset = array_dataset(WALK.x, z=WALK.z, bonds=WALK.bonds, cell=WALK.cells, span=8, stride=1)
    batch = collate([*dataset])
    samples = make_samples(batch.x[None, ..., 3:], batch, dataset, TASK, seed=0, checkpoint="a")
    samples = dataclasses.replace(samples, scale=2.0, unit="")
    (ensemble,) = ensembles(samples)
    for graph in range(len(dataset)):
        cells = 2 * WALK.cells[graph : graph + 8]
        np.testing.assert_allclose(ensemble.cell_of(False)[graph], cells[3:], rtol=1e-6)
        np.testing.assert_allclose(ensemble.cell_of(True)[graph], cells[[2] * 5], rtol=1e-6)
