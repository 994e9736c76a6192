"""Rollouts: beside a plain loop, whatever the batch size, and where they are computed."""

import dataclasses

import numpy as np
import pytest
import torch
from tiny_rollouts import CONFIG, GIVEN, TASK, WINDOW, model_of, plain_loop, steady_config, systems
from tolerances import assert_same

from geotdm_fast.config.files import normalise_config
from geotdm_fast.data import TrajectoryDataset, collate
from geotdm_fast.diffusion import Sampler
from geotdm_fast.diffusion.noise import TrajectoryNoise, block_key
from geotdm_fast.sampling import Rollout, roll_out, sample


@pytest.fixture(scope="module")
def model():
    return model_of(CONFIG)


@pytest.fixture(scope="module")
def dataset():
    return systems()


@pytest.mark.parametrize(("overlap", "num_frames"), [(4, 24), (4, 19), (7, 18), (11, 10)])
def test_three_blocks_are_the_plain_loop(model, dataset, overlap, num_frames):
    found = model.rollout(dataset, num_frames, seed=5, overlap=overlap, steps=6)
    expected = plain_loop(model, collate(dataset), 3, overlap, 5)[..., :num_frames]
    assert_same(torch.from_numpy(found.samples[0]), expected, 1e-4)
    assert found.cond_mask.tolist() == [True] * GIVEN + [False] * num_frames
    truth = collate(dataset).x.numpy()
    assert np.array_equal(found.x_given, truth[..., :GIVEN])
    assert np.array_equal(found.target, truth[..., GIVEN : GIVEN + num_frames])


def test_one_block_is_the_forecast_bit_by_bit(model, dataset):
    whole = model.forecast(systems(num_frames=WINDOW), 2, seed=3, steps=6)
    found = model.rollout(dataset, WINDOW - GIVEN, 2, seed=3, steps=6)
    for field in dataclasses.fields(whole):
        assert np.array_equal(getattr(found, field.name), getattr(whole, field.name)), field.name
    longer = model.rollout(dataset, 20, 2, seed=3, steps=6)
    assert np.array_equal(longer.samples[..., : WINDOW - GIVEN], whole.samples)


@pytest.mark.parametrize("batch_size", [1, 7])
def test_the_batch_size_changes_rounding_alone(model, dataset, batch_size):
    expected = model.rollout(dataset, 20, 4, seed=2, steps=5)
    found = model.rollout(dataset, 20, 4, seed=2, steps=5, batch_size=batch_size)
    np.testing.assert_allclose(found.samples, expected.samples, rtol=1e-3, atol=1e-3)
    assert np.abs(expected.samples[0] - expected.samples[1]).mean() > 0.1
    fewer = model.rollout(dataset, 20, 2, seed=2, steps=5)
    np.testing.assert_allclose(fewer.samples, expected.samples[:2], rtol=1e-3, atol=1e-3)


def test_every_block_has_a_key_of_its_own_and_block_0_the_seed():
    assert block_key(7 + (9 << 32), 0) == (7, 9)
    keys = {block_key(seed, block) for seed in range(3) for block in range(200)}
    assert len(keys) == 600
    # Philox-4x32-10 in plain integers.
    assert block_key(0, 1) == _philox((1, 0, 0, 2**32 - 2), (0, 0))[:2]
    graph, batch = torch.arange(2), torch.tensor([0, 0, 1])
    draw = lambda *block: TrajectoryNoise(1, graph, graph, batch, 3, 5, torch.float32, *block)(0)
    assert torch.equal(draw(), draw(0)) and (draw(1) - draw(2)).abs().max() > 0.1


def _philox(counter: tuple, key: tuple) -> tuple:
    (a, b, c, d), (low, high) = counter, key
    for _ in range(10):
        first, second = a * 0xD2511F53, c * 0xCD9E8D57
        a, b, c, d = second >> 32 ^ b ^ low, second % 2**32, first >> 32 ^ d ^ high, first % 2**32
        low, high = (low + 0x9E3779B9) % 2**32, (high + 0xBB67AE85) % 2**32
    return a, b, c, d


def test_far_from_0_a_block_is_computed_where_the_first_was(model, dataset):
    """So positions that travel far lose no digits, and the origin stays what it was."""
    moved = [dataclasses.replace(item, origin=torch.full((3,), 1e7, dtype=torch.float64)) for item in dataset]
    moved = TrajectoryDataset(moved, name="far", scale=2.0)
    expected, found = (model.rollout(data, 20, seed=4, steps=5) for data in (dataset, moved))
    assert np.array_equal(found.samples, expected.samples)
    assert found.origin.tolist() == [[1e7] * 3] * 3
    assert np.array_equal(found.forecasts(), (expected.forecasts().astype(np.float64) + 1e7) * 2)


def test_a_model_bound_to_a_place_is_not_moved(monkeypatch):
    given = []
    real = Sampler.draw

    def watched(self, shape, model_kwargs, *args, **kwargs):
        given.append(model_kwargs["x_given"][..., GIVEN - 1].mean(0))
        return real(self, shape, model_kwargs, *args, **kwargs) + 5

    monkeypatch.setattr(Sampler, "draw", watched)
    config = steady_config()
    config["denoise_model"]["learn_ref_frame"] = False
    for prior, moves in (("com", True), ("none", False)):
        config["diffusion"]["prior"] = prior
        given.clear()
        model_of(normalise_config(config)).rollout(systems(1), 20, steps=2)
        away = (given[1] - given[0]).abs().min()
        assert away < 1e-5 if moves else away > 1, prior


def test_sample_and_roll_out_share_the_noise_of_block_0(model, dataset):
    plan = Rollout.of(TASK, WINDOW, 20)
    batch = collate(systems(num_frames=WINDOW))
    options = {"num_samples": 2, "seed": 9, "progress": False}
    rolled = roll_out(Sampler(model.diffusion, num_steps=3), collate(dataset), TASK, plan, **options)
    assert torch.equal(rolled[..., :8], sample(Sampler(model.diffusion, num_steps=3), batch, TASK, **options))
