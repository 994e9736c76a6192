"""The data of a rollout: as far as they reach, the given frames alone, positions alone."""

import dataclasses

import numpy as np
import pytest
import torch
from tiny_rollouts import CONFIG, GIVEN, model_of, systems

from geotdm_fast.data import TrajectoryDataset
from geotdm_fast.scores.evaluation import evaluate, report


@pytest.fixture(scope="module")
def model():
    return model_of(CONFIG)


@pytest.fixture(scope="module")
def dataset():
    return systems()


def test_the_truth_is_there_as_far_as_the_data_reach(model):
    found = model.rollout(systems(num_frames=15), 20, 2, seed=1, steps=3)
    assert found.has_target and found.num_known == 11
    assert np.isnan(found.target[..., 11:]).all() and np.isfinite(found.target[..., :11]).all()
    scores = evaluate(found, ["ade"])
    cut = dataclasses.replace(
        found, samples=found.samples[..., :11], target=found.target[..., :11], cond_mask=found.cond_mask[:15]
    )
    assert scores == evaluate(cut, ["ade"]) | {"num_without_truth": 9}
    assert "11 frames from 4 given (9 frames behind them, where the data end, are not scored)" in report(scores)
    assert model.evaluate(found)["forecast"] == scores["forecast"]


def test_given_frames_alone_have_no_truth(model):
    whole = systems()
    given = TrajectoryDataset([dataclasses.replace(item, x=item.x[..., :GIVEN]) for item in whole], name="given")
    found, expected = model.rollout(given, 20, seed=1, steps=3), model.rollout(whole, 20, seed=1, steps=3)
    assert np.array_equal(found.samples, expected.samples)
    assert not found.has_target and found.num_known == 0
    with pytest.raises(ValueError, match="evaluate: there is no truth"):
        evaluate(found, ["ade"])


def test_positions_alone_are_rolled_out(model, dataset):
    item = dataset[1]
    x = item.x.permute(2, 0, 1).numpy()
    found = model.rollout(x, 20, seed=1, steps=3, charges=item.h[:, 0].numpy())
    expected = model.rollout(dataset.subset([1]), 20, seed=1, steps=3)
    np.testing.assert_allclose(found.samples, expected.samples, rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match=r"rollout: features h \[N, F\]: F must be 1 for tiny\.safetensors, got 2"):
        model.rollout(dataclasses.replace(item, h=torch.ones(5, 2)), 20)
