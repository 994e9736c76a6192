"""Forecasts whose future is unknown: data, samples, scores and pictures."""

import dataclasses

import numpy as np
import pytest
import torch
from tiny_models import made_samples

from geotdm_fast.data import collate, given_frames_dataset, md17_dataset, npz_dataset
from geotdm_fast.plots.animation import animate
from geotdm_fast.plots.forecast import plot_forecast
from geotdm_fast.samples.npz import read_samples, write_samples
from geotdm_fast.samples.record import make_samples
from geotdm_fast.scores.evaluation import evaluate
from geotdm_fast.task import Task

RNG = np.random.default_rng(0)
WATER = np.array([[0, 0, 0], [0.957, 0, 0], [-0.24, 0.927, 0]])
MASK = [True] * 4 + [False] * 6


@pytest.fixture
def seen(tmp_path):
    """Twelve frames of water."""
    path = tmp_path / "seen.npz"
    np.savez(path, R=WATER + 0.02 * RNG.normal(size=(12, 3, 3)), z=[8, 1, 1])
    return path


def test_the_last_frames_are_given(seen):
    positions = np.load(seen)["R"].astype(np.float32)
    section = {"kind": "npz", "path": str(seen), "split": "test", "span": 10, "stride": 2}
    dataset = given_frames_dataset(section, MASK)
    assert len(dataset) == 1 and dataset.name == "seen" and dataset.numbers_of(0).tolist() == [8, 1, 1]
    item = dataset[0]
    assert item.x.shape == (3, 3, 10) and not item.has_target
    np.testing.assert_array_equal(item.x.permute(2, 0, 1), positions[[8, 9, 10, 11] + [11] * 6])
    assert torch.equal(item.edge_index, npz_dataset(seen, span=4)[0].edge_index)
    of_one_of_two = given_frames_dataset(section | {"ratio": [0.5, 0.5]}, MASK)
    assert torch.equal(of_one_of_two[0].x, item.x)
    every = given_frames_dataset(section | {"every": 3}, torch.tensor([True, False, True, True, False, True]))
    np.testing.assert_array_equal(every[0].x.permute(2, 0, 1), positions[[2, 2, 5, 8, 8, 11]])
    assert dataset.h_is_made, "the file has no h"
    chosen = given_frames_dataset(section | {"frames": [0, 7]}, MASK)
    np.testing.assert_array_equal(chosen[0].x.permute(2, 0, 1), positions[[3, 4, 5, 6] + [6] * 6])
    assert not collate([item, chosen[0]]).has_target
    with pytest.raises(ValueError, match="has_target of graph 1 must be False like graph 0"):
        collate([item, npz_dataset(seen, span=10)[0]])


def test_an_md17_model_keeps_its_bonds(seen):
    section = {"root": str(seen.parent), "molecule_name": "seen", "mode": "test", "force_length": 3, "max_hops": 2}
    item = given_frames_dataset(section, MASK)[0]
    assert item.edge_attr.sum(0).tolist() == [6, 0, 0]
    np.savez(seen, R=WATER + 0.001 * np.arange(101)[:, None, None], z=[8, 1, 1])
    assert md17_dataset(seen, "train", down_sample_every=1, max_hops=2)[0].edge_attr.sum(0).tolist() == [6, 0, 0]


@pytest.mark.parametrize("bonds", [None, [[0, 1], [1, 3], [3, 5], [0, 2]]])
def test_a_model_without_hydrogen_is_given_heavy_atoms(tmp_path, bonds):
    path, z = tmp_path / "chain.npz", np.array([6, 6, 1, 8, 1, 6])
    x = np.array([[1.4 * i, 0.3 * (i % 2), 0] for i in range(6)]) + 0.01 * RNG.normal(size=(60, 6, 3))
    np.savez(path, R=x, z=z)
    heavy = [0, 1, 3, 5]
    np.savez(tmp_path / "heavy.npz", R=x[:, heavy], z=z[heavy])
    model = {"kind": "md17", "split": "test", "max_hops": 2, "cutoff": 3.0, "atom_types": [6, 8]}
    renumbered = None if bonds is None else [[0, 1], [1, 2], [2, 3]]
    found = given_frames_dataset(model | {"path": str(path), "with_h": False, "bonds": bonds}, MASK)
    expected = given_frames_dataset(model | {"path": str(tmp_path / "heavy.npz"), "bonds": renumbered}, MASK)
    assert found.numbers_of(0).tolist() == [6, 6, 8, 6] and found.name == "chain"
    trained = md17_dataset(path, "train", down_sample_every=1, with_h=False, cutoff=3.0, max_hops=2, bonds=bonds,
                           atom_types=[6, 8])[0]  # fmt: skip
    for name in ("x", "h", "edge_index", "edge_attr"):
        assert torch.equal(getattr(found[0], name), getattr(expected[0], name)), name
        assert name == "x" or torch.equal(getattr(found[0], name), getattr(trained, name)), name
    np.testing.assert_array_equal(found[0].x[..., :4].permute(2, 0, 1), x[-4:, heavy].astype(np.float32))


def test_every_scene_has_its_last_frames(tmp_path):
    x = np.cumsum(RNG.normal(size=(5, 9, 4, 2)), axis=1)
    np.savez(tmp_path / "scenes.npz", x=x)
    dataset = given_frames_dataset({"kind": "npz", "path": str(tmp_path / "scenes.npz")}, MASK)
    assert len(dataset) == 5
    np.testing.assert_array_equal(dataset[3].x[..., :4], x[3, 5:].transpose(1, 2, 0).astype(np.float32))


def test_people_who_are_there_at_the_end(tmp_path):
    path = tmp_path / "now.txt"
    path.write_text("".join(f"{6 * t} {p} {0.5 * t} {p}\n" for t in range(9) for p in (1, 2, 3) if (p, t) != (3, 7)))
    dataset = given_frames_dataset({"recordings": [str(path)], "num_slots": 2}, [True] * 8 + [False] * 12)
    assert len(dataset) == 2 and dataset.name == "pedestrians now"
    item = dataset[1]
    assert item.x.shape == item.h.shape == (2, 2, 20) and not item.has_target and item.scored.tolist() == [0]
    assert item.x[:, 0].tolist() == [[0.5 * t for t in range(1, 9)] + [4.0] * 12] * 2
    assert item.x[:, 1, 0].tolist() == [2, 1]
    assert item.h[:, 1].tolist() == [[0.5] * 20] * 2 and item.h[:, 0].tolist() == [[1.0] * 8 + [0.0] * 12] * 2
    with pytest.raises(ValueError, match="must have a person in the last 10 frames, got none"):
        given_frames_dataset({"recordings": str(path)}, [True] * 10 + [False] * 10)
    with pytest.raises(ValueError, match="given must be the first frames for pedestrians, got"):
        given_frames_dataset({"recordings": str(path)}, [False] + [True] * 8)


def test_what_cannot_be_forecast(seen):
    section = {"kind": "npz", "path": str(seen)}
    with pytest.raises(ValueError, match=r"data: .*seen\.npz must have the 13 given frames, got 12"):
        given_frames_dataset(section, [True] * 13 + [False])
    with pytest.raises(ValueError, match=r"seen\.npz must have the 4 given frames, got 3"):
        given_frames_dataset(section | {"every": 4}, MASK)
    with pytest.raises(ValueError, match="given must give some frames and leave some, got 4 of 4"):
        given_frames_dataset(section, [True] * 4)
    with pytest.raises(ValueError, match=r"kind must be one of npz, file, md17, pedestrian .* got nbody"):
        given_frames_dataset({"system": "charged"}, MASK)


def test_samples_without_truth(seen, tmp_path):
    dataset = given_frames_dataset({"kind": "npz", "path": str(seen)}, MASK)
    batch = collate([dataset[0]])
    drawn = torch.randn(2, 3, 3, 6)
    task = Task(given=[[0, 4]])
    samples = make_samples(drawn, batch, dataset, task, seed=0, checkpoint="a")
    assert samples.target.shape == (3, 3, 0) and not samples.has_target
    write_samples(tmp_path / "s.npz", samples)
    back = read_samples(tmp_path / "s.npz")
    assert not back.has_target and back.origin is None
    np.testing.assert_array_equal(back.forecasts(), np.concatenate([np.stack([batch.x[..., :4]] * 2), drawn], axis=-1))
    np.testing.assert_array_equal(back.truth()[..., :4], batch.x[..., :4])
    assert np.isnan(back.truth()[..., 4:]).all()
    with pytest.raises(ValueError, match="evaluate: there is no truth in these samples of seen, which end with given"):
        evaluate(back, ["ade"])
    with pytest.raises(ValueError, match="plot: there is no truth"):
        animate(back, tmp_path / "a.gif")


@pytest.mark.parametrize("made", [{}, {"nodes": 9}, {"dims": 2}])
def test_a_picture_without_truth(tmp_path, made):
    samples = made_samples(graphs=1, **made)
    plot_forecast(samples, tmp_path / "known.png")
    plot_forecast(dataclasses.replace(samples, target=samples.target[..., :0]), tmp_path / "unknown.png")
    assert (tmp_path / "known.png").read_bytes() != (tmp_path / "unknown.png").read_bytes()
