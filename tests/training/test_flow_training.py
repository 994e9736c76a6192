"""Training of a flow: real times, a captured step, runs that a kill does not change, and checkpoints of its kind."""

import dataclasses

import numpy as np
import pytest
import torch
from tape import TapeRecorder
from test_training_step import assert_same_state, nbody, run
from tiny_models import charged_config, tame_network
from tiny_training import assert_same_run, tiny_config
from tolerances import assert_same

import geotdm_fast
from geotdm_fast import Flow, GeoTDM, Model, Sampler
from geotdm_fast.checkpoint import build_diffusion, build_network, save_checkpoint
from geotdm_fast.config.diffusion_rules import time_power
from geotdm_fast.config.files import normalise_config
from geotdm_fast.data import collate, open_dataset
from geotdm_fast.runtime.processes import Processes
from geotdm_fast.sampling import sample
from geotdm_fast.sampling.description import describe
from geotdm_fast.scores.equivariance import check_equivariance
from geotdm_fast.task import Task
from geotdm_fast.training import random_streams, train
from geotdm_fast.training.batches import BatchSource
from geotdm_fast.training.device_data import DeviceData
from geotdm_fast.training.flat_weights import FlatWeights
from geotdm_fast.training.objective import Objective
from geotdm_fast.training.step import TrainingStep


def as_flow(config: dict, **changes) -> dict:
    """The configuration with a flow in place of its diffusion."""
    config["diffusion"] = {"num_timesteps": 25, "mode": config["diffusion"]["mode"], "kind": "flow"} | changes
    return normalise_config(config)


FLOWS = [
    {"prior": "walk", "sigma": 0.2},
    {"prior": "learned", "model_mean_type": "velocity"},
    {"prior": "velocity"},
    {"prior": "last_frame"},
]


def make_step(dataset, record=None, **diffusion) -> TrainingStep:
    given = dataset[0].num_frames - 3
    config = tiny_config(batch_size=3, cuda_graph=record is not None, cond_mask=[[0, given]])
    config = as_flow(config, **diffusion)
    torch.manual_seed(0)
    network, train = build_network(config), config["train"]
    weights = FlatWeights(network)
    source = BatchSource(
        DeviceData(dataset, "cpu"), seed=0, batch_size=3, num_timesteps=25, num_noisy=3, time_power=time_power(config)
    )
    objective = Objective(build_diffusion(network, config), Task.of_config(config))
    ours = Processes(0, 1, torch.device("cpu"))
    return TrainingStep(train, objective, weights, None, source, ours, record=record)


@pytest.mark.parametrize("diffusion", FLOWS)
def test_a_captured_step_is_the_eager_one(diffusion):
    eager = run(make_step(nbody(), **diffusion), 0, 5)
    captured = run(make_step(nbody(), TapeRecorder(), **diffusion), 0, 5)
    assert captured.captures and not eager.captures
    assert_same_state(captured, eager)


def test_times_are_real_numbers_and_the_same_in_every_process_and_batch():
    dataset = nbody()
    about = {"seed": 3, "num_timesteps": 25, "num_noisy": 3, "time_power": 1.0}
    source = BatchSource(DeviceData(dataset, "cpu"), batch_size=4, **about)
    steps = torch.cat([draw.steps for number in range(40) for draw in source.training(number)])
    assert steps.dtype == torch.float32 and (steps % 1 != 0).any()
    assert float(steps.min()) >= 0 and float(steps.max()) < 25
    assert float(steps.mean()) == pytest.approx(12.5, abs=4 * 25 / (12 * len(steps)) ** 0.5)
    shares = [
        BatchSource(DeviceData(dataset, "cpu"), batch_size=4, rank=rank, world_size=2, **about) for rank in (0, 1)
    ]
    joined = torch.cat([draw.steps for share in shares for draw in share.training(0)])
    assert torch.equal(joined, source.training(0)[0].steps)
    # Validation: spread evenly, a graph's own whatever the batches.
    spread = {}
    for size in (2, 5):
        batches = BatchSource(DeviceData(dataset, "cpu"), batch_size=size, **about).validation()
        spread[size] = torch.cat([noised.steps[noised.batch.scored] for _, noised in batches])
    assert torch.equal(spread[2], spread[5])
    expected = (np.arange(len(dataset)) + 0.5) * 25 / len(dataset)
    np.testing.assert_allclose(sorted(spread[2].unique().tolist()), expected, rtol=1e-6)


def test_a_larger_power_draws_times_nearer_the_prior():
    uniform = torch.linspace(0, 0.99, 100)
    assert torch.equal(random_streams.times(uniform, 25, 1.0), 25 * (1 - (1 - uniform)))
    assert_same(random_streams.times(uniform, 25, 2.0), 25 * (2 * uniform - uniform**2), 1e-6)
    assert time_power(as_flow(tiny_config(), time_power=3)) == 3.0
    assert (time_power(as_flow(tiny_config())), time_power(tiny_config()), time_power({"diffusion": {}})) == (
        1,
        None,
        None,
    )


@pytest.mark.parametrize("power", [1, 2, 3])
def test_times_reach_both_ends_and_the_loss_is_finite_there(power):
    least = 2.0**-24  # what torch.rand counts in
    uniform = torch.tensor([0, least, 0.5, 1 - least])
    times = random_streams.times(uniform, 25, power)
    inner = 25 * (1 - least) if power == 1 else 25
    assert times[0] == 0 and times[2] == 25 * (1 - 0.5**power) and times[3] == inner
    assert_same(times[1:2].double(), torch.tensor([25 * (1 - (1 - least) ** power)], dtype=torch.float64), 1e-6)
    assert times.min() >= 0 and times.max() <= 25
    for prediction in ("start_x", "velocity", "displacement"):
        step = make_step(nbody(), model_mean_type=prediction, time_power=float(power))
        (draw,) = step.source.training(0)
        for time in (times[0], times[3]):
            noised = step.source.noised(draw._replace(steps=torch.full_like(draw.steps, time)))
            loss = step.objective.loss(noised)
            assert loss.isfinite() and loss > 0


def test_whole_steps_are_drawn_as_before():
    rng = lambda: random_streams.generator(1, random_streams.STEP, 5)
    steps, noise = random_streams.steps_and_noise(rng(), 6, (4, 3, 2), 25)
    again = rng()
    assert torch.equal(steps, torch.randint(0, 25, (6,), generator=again))
    assert torch.equal(noise, torch.randn(4, 3, 2, generator=again))


@pytest.mark.parametrize("diffusion", FLOWS[:2])
def test_a_run_that_was_stopped_ends_as_one_that_was_not(diffusion, tmp_path, curves):
    config = lambda steps: as_flow(tiny_config(num_steps=steps), **diffusion)
    train(config(9), output_dir=tmp_path / "whole", device="cpu", progress=False)
    train(config(5), output_dir=tmp_path / "parts", device="cpu", progress=False)
    train(config(9), output_dir=tmp_path / "parts", device="cpu", progress=False)
    one, other = (geotdm_fast.load(tmp_path / name) for name in ("whole", "parts"))
    assert isinstance(one.diffusion, Flow)
    state, expected = other.network.state_dict(), one.network.state_dict()
    assert all(torch.equal(state[name], expected[name]) for name in expected)


def test_a_run_of_a_diffusion_is_not_gone_on_with_as_a_flow(tmp_path, curves):
    train(tiny_config(num_steps=3), output_dir=tmp_path, device="cpu", progress=False)
    with pytest.raises(ValueError, match=r"diffusion.kind must be 'gaussian' as when the run began, got 'flow'"):
        train(as_flow(tiny_config(num_steps=5), prior="walk"), output_dir=tmp_path, device="cpu", progress=False)


# --- checkpoints and models -------------------------------------------------------------------------------------------


def model(tmp_path, config: dict) -> Model:
    save_checkpoint(tmp_path / "model.safetensors", tame_network(config), config)
    return geotdm_fast.load(tmp_path / "model.safetensors", device="cpu")


@pytest.mark.parametrize("diffusion", FLOWS)
def test_a_checkpoint_says_its_kind(diffusion, tmp_path):
    config = as_flow(charged_config(), **diffusion)
    made = model(tmp_path, config)
    flow = made.diffusion
    assert isinstance(flow, Flow)
    assert (flow.prior, flow.sigma) == (diffusion["prior"], diffusion.get("sigma", 1.0))
    assert flow.prediction == diffusion.get("model_mean_type", "start_x")
    made.save(tmp_path / "again.safetensors")
    again = geotdm_fast.load(tmp_path / "again.safetensors", device="cpu")
    data = open_dataset(config["data"]["test"], progress=False)
    drawn = [one.forecast(data, 2, method="heun", steps=4, seed=5).samples for one in (made, again)]
    assert np.array_equal(*drawn) and np.isfinite(drawn[0]).all()
    with pytest.raises(ValueError, match="has no likelihood"):
        made.likelihood(data)


def test_a_checkpoint_without_a_kind_is_a_diffusion_as_before(tmp_path):
    config = charged_config()
    for key in ("kind", "sigma", "time_power", "model_mean_type", "prior"):
        del config["diffusion"][key]
    old = build_diffusion(tame_network(config), config)
    assert isinstance(old, GeoTDM) and old.model_mean_type.name == "EPSILON" and old.prior == "learned"
    new = build_diffusion(tame_network(config), charged_config())
    data = collate(open_dataset(config["data"]["test"], progress=False))
    draw = lambda diffusion: sample(
        Sampler(diffusion, "dpmpp_2m", 4), data, Task.of_config(charged_config()), num_samples=2, seed=1, progress=False
    )
    assert torch.equal(draw(old), draw(new))


@pytest.mark.parametrize("prior", ["walk", "learned"])
def test_noise_follows_the_seed_alone(prior):
    config = as_flow(charged_config(), prior=prior)
    flow, task = build_diffusion(tame_network(config), config), Task.of_config(config)
    batch = collate(open_dataset(config["data"]["test"], progress=False))
    draw = lambda **options: sample(
        Sampler(flow, "ab2", 4), batch, task, **{"num_samples": 3, "seed": 1, "progress": False} | options
    )
    whole = draw()
    assert torch.equal(draw(), whole) and not torch.equal(draw(seed=2), whole)
    assert_same(draw(batch_size=2), whole, 1e-5)
    assert_same(draw(num_samples=2), whole[:2], 1e-5)


def test_rollouts_and_interpolations(tmp_path):
    config = as_flow(charged_config(), prior="walk", sigma=0.1)
    made, data = model(tmp_path, config), open_dataset(config["data"]["test"], progress=False)
    rolled = made.rollout(data, 20, steps=3)
    assert rolled.samples.shape[-1] == 20 and np.isfinite(rolled.samples).all()
    assert_same(rolled.samples[..., :8], made.forecast(data, steps=3).samples, 1e-5)
    config = as_flow(charged_config(cond_mask=[[0, 2], [10, 12]]), prior="walk", sigma=0.1)
    filled = model(tmp_path, config).interpolate(data, 2, steps=3)
    assert filled.samples.shape[-1] == 8 and np.isfinite(filled.samples).all()


def test_unconditional_models_generate(tmp_path):
    config = charged_config()
    config["diffusion"]["mode"], config["train"] = "uncond", config["train"] | {"cond_mask": None, "tot_len": 8}
    config["denoise_model"]["learn_ref_frame"] = False
    made = model(tmp_path, as_flow(config))
    data = open_dataset(config["data"]["test"], progress=False)
    assert np.isfinite(made.generate(data, 2, method="ab2", steps=4).samples).all()


def test_a_request_names_what_its_samples_depend_on():
    config = as_flow(charged_config(), prior="walk", sigma=0.1)
    data, task = open_dataset(config["data"]["test"], progress=False), Task.of_config(config)
    about = {"num_samples": 1, "seed": 0, "checkpoint": "x"}
    described = lambda config: describe(
        Sampler(build_diffusion(tame_network(config), config), None, 5), collate(data), data, task, **about
    )
    found = described(config)
    assert (found["kind"], found["method"], found["sigma"]) == ("flow", "euler", 0.1)
    assert found != described(as_flow(charged_config(), prior="walk", sigma=0.2))
    assert "kind" not in described(charged_config())


@pytest.mark.parametrize("diffusion", FLOWS)
def test_the_stress_test_of_symmetry_finds_nothing(diffusion):
    config = as_flow(charged_config(), **diffusion)
    flow = build_diffusion(tame_network(config), config)
    found = list(check_equivariance(flow, Task.of_config(config), num_steps=3, precisions=("float64", "fp32")))
    assert len(found) > 20 and all(one.holds for one in found), [one for one in found if not one.holds]


def test_blocks_of_history_are_drawn_by_the_flow(tmp_path, curves):
    config = tiny_config(num_steps=2, block_history=1, block_history_share=1.0)
    config["data"]["train"]["num_frames"] = 9
    train(as_flow(config, prior="walk"), output_dir=tmp_path, device="cpu", progress=False)
    assert dataclasses.is_dataclass(geotdm_fast.load(tmp_path).task)


def test_two_runs_are_one(tmp_path):
    for name in ("one", "other"):
        train(as_flow(tiny_config(num_steps=6), prior="walk"), output_dir=tmp_path / name, device="cpu", progress=False)
    assert_same_run(tmp_path / "one", tmp_path / "other")
