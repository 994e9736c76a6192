"""What every block of a rollout is told: features, edges and boxes of its own frames."""

import dataclasses

import numpy as np
import pytest
import torch
from tiny_models import pedestrian_config
from tiny_rollouts import CONFIG, TASK, WINDOW, by_distance, model_of, plain_loop, systems
from tolerances import assert_same

from geotdm_fast.config.files import normalise_config
from geotdm_fast.data import TrajectoryDataset, collate, open_dataset
from geotdm_fast.data.pedestrian import people_features
from geotdm_fast.diffusion import Sampler
from geotdm_fast.sampling import Rollout


@pytest.fixture(scope="module")
def model():
    return model_of(CONFIG)


@pytest.fixture(scope="module")
def dataset():
    return systems()


def timed(num_frames: int, *, h: bool = True, edges: bool = True) -> TrajectoryDataset:
    """Systems whose features change from frame to frame."""
    items = []
    for i, item in enumerate(systems(2, num_frames=12)):
        t = torch.arange(float(num_frames))
        own_h = (item.h[..., None] + 0.1 * t + i) if h else item.h
        own_edges = (item.edge_attr[..., None] * (1 + 0.05 * t)) if edges else item.edge_attr
        items.append(dataclasses.replace(item, h=own_h, edge_attr=own_edges))
    return TrajectoryDataset(items, name="timed")


@pytest.mark.parametrize(("h", "edges"), [(True, False), (False, True), (True, True)])
def test_features_over_time_follow_the_frames(model, h, edges):
    data = timed(28, h=h, edges=edges)
    found = model.rollout(data, 24, seed=1, steps=6)
    assert_same(torch.from_numpy(found.samples[0]), plain_loop(model, collate(data), 3, 4, 1), 1e-4)
    still = model.rollout(systems(2), 24, seed=1, steps=6)
    assert np.abs(found.samples - still.samples)[..., -8:].max() > 1e-3, "they matter"
    assert found.h.shape == ((10, 1, 28) if h else (10, 1))
    several = model.rollout(data, 24, 3, seed=1, steps=6, batch_size=4)
    np.testing.assert_allclose(several.samples[:1], found.samples, rtol=1e-3, atol=1e-3)


def test_features_that_end_too_early_are_refused(model):
    with pytest.raises(ValueError, match=r"rollout: h changes .* all 28 frames of the 3 blocks, got 27; .* features"):
        model.rollout(timed(27, edges=False), 20)
    with pytest.raises(ValueError, match=r"rollout: edge_attr changes .* all 28 frames .*, got 27; .* num_frames$"):
        model.rollout(timed(27, h=False), 20)


def test_features_of_the_given_frames_are_made_anew(model):
    data = timed(12, edges=False)
    make = lambda given, num_frames: given.diff(dim=2)[..., -1:].norm(dim=1, keepdim=True).expand(-1, -1, num_frames)
    found = model.rollout(data, 24, seed=1, steps=6, features=make)
    h, asked = collate(data).h, []

    def first_from_the_data(given, num_frames):
        asked.append(given)
        return h if len(asked) == 1 else make(given, num_frames)

    expected = plain_loop(model, collate(data), 3, 4, 1, features=first_from_the_data)
    assert_same(torch.from_numpy(found.samples[0]), expected, 1e-4)
    assert len(asked) == 3 and found.h.shape == (10, 1, 12)
    with pytest.raises(ValueError, match=r"features must make h \[10, 1, 12\] of the given frames, got \[10, 1, 11\]"):
        model.rollout(data, 24, steps=2, features=lambda given, t: make(given, t - 1))


def people_config(recording) -> dict:
    config = pedestrian_config(recording)
    config["denoise_model"] |= {"learn_ref_frame": True, "num_w": 12}
    config["diffusion"] |= {"mode": "cond", "model_mean_type": "start_x"}
    config["train"] |= {"cond_mask": [[0, 8]], "tot_len": None}
    return normalise_config(config)


def test_people_walk_on_with_features_of_every_block(tmp_path, monkeypatch):
    rows = [(10 * t, p, 0.4 * t + 0.1 * p, 1.5 * p + 0.02 * t**1.5) for t in range(24) for p in range(2)]
    (tmp_path / "scene.txt").write_text("".join("\t".join(map(str, row)) + "\n" for row in rows))
    model = model_of(people_config(tmp_path / "scene.txt"))
    data = open_dataset(model.config["data"]["test"], progress=False).subset([0, 2])
    told, real = [], Sampler.draw

    def watched(self, shape, model_kwargs, *args, **kwargs):
        told.append((model_kwargs["x_given"][..., :8], model_kwargs["h"]))
        return real(self, shape, model_kwargs, *args, **kwargs)

    monkeypatch.setattr(Sampler, "draw", watched)
    found = model.rollout(data, 30, steps=4)
    assert len(told) == 3 and found.samples.shape == (1, len(collate(data).x), 2, 30)
    for given, h in told:
        assert torch.equal(h, people_features(given, 20))
        speed = (given[..., 1:] - given[..., :-1]).norm(dim=1)
        assert torch.allclose(h[:, 1, 1:8], speed) and torch.allclose(h[:, 1, 8:], speed[:, -1:].expand(-1, 12))
        assert h[:, 0].tolist() == [[1.0] * 8 + [0.0] * 12] * len(h)
    assert (told[0][1] - told[1][1]).abs().max() > 1e-3
    model.config["data"]["train"]["past_frames"] = 9
    with pytest.raises(ValueError, match=r"data\.past_frames = 9 frames, but tiny\.safetensors is given 8; give feat"):
        model.rollout(data, 30, steps=1)


@pytest.mark.parametrize("of", ["given", "current"])
def test_graphs_by_distance_are_those_of_every_block(of):
    model, data = model_of(by_distance(of)), systems(2)
    found = model.rollout(data, 24, seed=1, steps=6)
    assert_same(torch.from_numpy(found.samples[0]), plain_loop(model, collate(data), 3, 4, 1), 1e-4)


def test_boxes_of_later_blocks_are_that_of_the_last_given_frame(dataset):
    """What the data say of the boxes of frames that are drawn is not known then."""
    batch = collate([*dataset])
    batch.cell = torch.eye(3) * torch.arange(1.0, 33)[:, None, None] * torch.ones(3, 1, 1, 1)  # [3, 32, 3, 3]
    batch.pbc = torch.ones(3, 3, dtype=torch.bool)
    rollout = Rollout.of(TASK, WINDOW, 30)
    assert rollout.changes_over_time(batch) and rollout.num_blocks == 4
    length = lambda one: one.cell[0, :, 0, 0].tolist()
    first = rollout.first_batch(batch)
    assert length(first) == [1, 2, 3, 4] + [4] * 8 and first.cell.shape == (3, WINDOW, 3, 3)
    assert length(rollout.fields_of(batch, 2)) == [4] * WINDOW
    told = TASK.split(first)[1]["cell"]
    assert torch.equal(told.vectors, first.cell)
    assert length(rollout.record(batch)) == [*range(1, 33), 32, 32]
    batch.cell = batch.cell[:, :1]
    assert not rollout.changes_over_time(batch) and length(rollout.fields_of(batch, 2)) == [1]
    assert length(rollout.record(batch)) == [1]
