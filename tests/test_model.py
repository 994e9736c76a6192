"""The model object: what it loads, takes and refuses, and that it does what its parts do."""

import copy
import warnings

import numpy as np
import pytest
import torch
from tiny_models import charged_config, tiny_diffusion

import geotdm_fast
from geotdm_fast.checkpoint import save_checkpoint
from geotdm_fast.data import collate, open_dataset
from geotdm_fast.diffusion import Sampler
from geotdm_fast.families import build_diffusion, build_network
from geotdm_fast.model import Model
from geotdm_fast.sampling import sample
from geotdm_fast.scores.evaluation import likelihoods
from geotdm_fast.task import Task

CONFIG = charged_config()


@pytest.fixture(scope="module")
def data():
    return open_dataset(CONFIG["data"]["test"], progress=False)


@pytest.fixture
def model():
    return made()


def made(task: Task | None = None, **diffusion) -> Model:
    config = copy.deepcopy(CONFIG)
    config["diffusion"] |= diffusion
    chain = tiny_diffusion(config)
    return Model(chain.denoise_network, chain, task or Task.of_config(config), config, "tiny")


def test_a_forecast_is_what_the_parts_draw(model, data):
    batch = collate(data)
    expected = sample(Sampler(model.diffusion, "ddim", 3), batch, model.task, num_samples=2, seed=5, progress=False)
    samples = model.forecast(data, 2, method="ddim", steps=3, seed=5)
    assert np.array_equal(samples.samples, expected.numpy())
    assert samples.checkpoint == "tiny" and samples.mode == "cond" and samples.has_target
    assert np.array_equal(samples.target, batch.x.numpy()[..., 4:])
    found = model.evaluate(samples)
    assert found["forecast"] == model.evaluate(samples, "ade")["forecast"] and found["num_samples"] == 2


def test_trajectories_batches_and_data_sets_are_one(model, data):
    options = {"method": "ddim", "steps": 2}
    expected = model.forecast(data, **options).samples
    for same in (collate(data), list(data), data[0 : len(data)]):
        assert np.array_equal(model.forecast(same, **options).samples, expected)
    assert np.array_equal(model.forecast(data[0], **options).samples, expected[:, : data[0].num_nodes])


def test_given_frames_alone_have_no_truth(model, data):
    item = data[0]
    x = item.x[..., :4].permute(2, 0, 1)
    samples = model.forecast(x.numpy(), charges=item.h[:, 0].numpy(), method="ddim", steps=2)
    assert not samples.has_target
    assert np.array_equal(samples.samples, model.forecast(data[0:1], method="ddim", steps=2).samples)


def test_likelihood(model, data):
    expected = likelihoods(model.diffusion, collate(data), model.task, seed=1, progress=False)
    assert torch.equal(model.likelihood(data, seed=1), expected)
    assert torch.equal(model.likelihood(collate(data), seed=1), expected)


def test_saved_and_loaded(tmp_path, model, data):
    model.save(tmp_path / "mine.safetensors")
    again = Model.load(tmp_path / "mine.safetensors", device="cpu")
    assert again.task == model.task and again.name == "mine.safetensors" and again.num_frames == model.num_frames
    options = {"method": "ddim", "steps": 2}
    assert np.array_equal(again.forecast(data, **options).samples, model.forecast(data, **options).samples)


def test_a_task_of_its_own_is_saved(tmp_path):
    model = made(Task(given=[[0, 2], [4, 6]]))
    model.save(tmp_path / "mine.safetensors")
    assert Model.load(tmp_path / "mine.safetensors").task == Task(given=((0, 2), (4, 6)))


def test_shipped_models_load_by_name():
    model = geotdm_fast.load("nbody_charged_small", device="cpu")
    assert model.num_frames == 30 and model.task == Task(given=((0, 10),)) and model.data["system"] == "charged"
    assert repr(model).splitlines()[:3] == [
        "Model nbody_charged_small.safetensors",
        "  task       forecast: 10 of 30 frames are given",
        "  network    EGTN, 4 layers of width 64, 365,216 parameters",
    ]
    with pytest.raises(FileNotFoundError, match="no model of that name comes with the package, only ays_ethanol_small"):
        geotdm_fast.load("nbody_charged_large")


@pytest.mark.parametrize(
    "section, asked, message",
    [
        (
            "denoise_model",
            lambda model, folder: model.save(folder / "mine.safetensors"),
            "save: the configuration of tiny",
        ),
        ("diffusion", lambda model, folder: model.save(folder / "mine.safetensors"), "save: the configuration of tiny"),
        ("diffusion", lambda model, folder: model.to("cpu"), "to: the configuration of tiny"),
        ("diffusion", lambda model, folder: model.recommended, "tiny: the configuration"),
        ("diffusion", lambda model, folder: Task.of_config(model.config), "config"),
        ("train", lambda model, folder: Task.of_config(model.config), "config"),
        ("diffusion", lambda model, folder: build_diffusion(model.network, model.config), "config"),
        ("denoise_model", lambda model, folder: build_network(model.config), "build_network: config"),
    ],
)
def test_a_section_that_is_missing_is_named(section, asked, message, tmp_path):
    model = recommending()
    del model.config[section]
    with pytest.raises(ValueError, match=f"^{message} must have a section '{section}', got data, "):
        asked(model, tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_model_made_by_hand_draws_without_a_configuration(model, data):
    by_hand = Model(model.network, model.diffusion, model.task, {}, "tiny")
    options = {"method": "ddim", "steps": 2}
    assert np.array_equal(by_hand.forecast(data, **options).samples, model.forecast(data, **options).samples)
    with pytest.raises(ValueError, match=r"save: the configuration of tiny must have .* 'denoise_model', got nothing"):
        by_hand.save("mine.safetensors")


def test_precision_and_device(model):
    assert model.set_precision("bf16") is model and model.network.precision == "bf16"
    assert model.to("cpu") is model and model.device == torch.device("cpu")
    assert model.diffusion.denoise_network is model.network


def test_each_method_is_of_its_task(data):
    gaps, free = made(Task(given=[[0, 2], [10, 12]])), None
    assert gaps.interpolate(data, method="ddim", steps=2).samples.shape[-1] == 8
    with pytest.raises(ValueError, match=r"tiny is a model that would fill gaps: 4 of 12 .*; see interpolate"):
        gaps.forecast(data)
    with pytest.raises(
        ValueError, match=r"interpolate: tiny .* would forecast: 4 of 12 frames are given; see forecast"
    ):
        made().interpolate(data)
    free = made(Task(num_frames=8), mode="uncond", prior="none")
    assert free.generate(data, method="ddim", steps=2).samples.shape[-1] == 8
    with pytest.raises(ValueError, match="forecast: tiny is a model that would make trajectories of 8 frames"):
        free.forecast(data)
    with pytest.raises(ValueError, match="generate: tiny is a model that would forecast"):
        made().generate(data)
    with pytest.raises(ValueError, match="Model: task must be one for a model of mode 'cond', got one that would give"):
        made(Task(num_frames=8))


def test_another_length_than_the_training_is_told():
    """Without a learned prior the network takes any length; windows of the training have 12 frames."""
    config = copy.deepcopy(CONFIG)
    config["denoise_model"]["learn_ref_frame"] = False
    chain = tiny_diffusion(config)
    learned, centred = made(), Model(chain.denoise_network, chain, Task.of_config(config), config, "tiny")
    x = np.random.default_rng(0).normal(size=(40, 5, 3))
    options = {"charges": np.ones(5), "method": "ddim", "steps": 1}
    for frames, more in ((6, ""), (40, "; rollout draws more frames behind the given ones")):
        with pytest.raises(ValueError, match=f"must have all 12 frames, .* got {frames}"):
            learned.forecast(x[:frames], **options)
        told = rf"forecast: a trajectory has {frames} frames \(.*\), but tiny .* windows of 12, .*another length{more}$"
        with pytest.warns(UserWarning, match=told):
            assert centred.forecast(x[:frames], **options).samples.shape[-1] == frames - 4
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*at another length")
        centred.forecast(x[:12], **options)
        centred.forecast(x[:4], **options)
        # A model that makes trajectories of 8 frames takes the first 8 of the data.
        free = made(Task(num_frames=8), mode="uncond", prior="none")
        assert free.generate(x, **options).samples.shape[-1] == 8
    free = made(Task(), mode="uncond", prior="none")
    with pytest.warns(UserWarning, match="generate: a trajectory has 6 frames .* windows of 12, .* at another length$"):
        free.generate(x[:6], **options)


def test_data_of_other_sizes(model, data):
    x = np.random.default_rng(0).normal(size=(4, 5, 3))
    with pytest.raises(ValueError, match=r"forecast: features h \[N, F\]: F must be 1 for tiny, got 2"):
        model.forecast(x, h=np.ones((5, 2)))
    with pytest.raises(ValueError, match=r"forecast: edge features edge_attr \[E, A\]: A must be 1 for tiny, got 0"):
        model.forecast(x, h=np.ones((5, 1)))
    with pytest.raises(ValueError, match=r"all 12 frames, or the 4 given ones alone, got 6 .*_dataset\(x, span=12"):
        model.forecast(np.concatenate([x, x[:2]]), charges=np.ones(5))
    with pytest.raises(ValueError, match="forecast: method must be one of ddpm, ddim"):
        model.forecast(data, method="")
    with pytest.raises(ValueError, match=r"rollout: steps must be in 1\.\.25, the model's steps, got 26"):
        model.rollout(data, 8, steps=26)
    with pytest.raises(ValueError, match="sampler: spacing must be one of uniform, quadratic, log_snr; got 'early'"):
        model.sampler(spacing="early")
    with pytest.raises(TypeError, match=r"sampler: steps must be a whole number, got 2\.5"):
        model.sampler(steps=2.5)
    with pytest.raises(TypeError, match="unknown argument 'num_sample'"):
        model.forecast(data, num_sample=3)


def recommending(method="dpmpp_2m", steps=5, spacing="log_snr") -> Model:
    model = made()
    model.config["sampling"] = {"method": method, "steps": steps, "spacing": spacing}
    return model


@pytest.mark.parametrize(
    "asked, expected",
    [
        ({}, ("dpmpp_2m", 5, "log_snr")),
        ({"method": "dpmpp_2m"}, ("dpmpp_2m", 5, "log_snr")),
        ({"steps": 20}, ("dpmpp_2m", 20, "log_snr")),
        ({"spacing": "uniform"}, ("dpmpp_2m", 5, "uniform")),
        ({"method": "ddpm"}, ("ddpm", 25, "uniform")),
        ({"method": "ddim", "steps": 3}, ("ddim", 3, "uniform")),
    ],
)
def test_what_nobody_asks_for_is_as_the_model_recommends(asked, expected):
    """Steps and spacing are recommended with their method alone."""
    sampler = recommending().sampler(**asked)
    assert (sampler.method, sampler.num_steps, sampler.spacing) == expected


def test_draws_are_as_the_model_recommends(data, tmp_path):
    model = recommending()
    expected = made().forecast(data, method="dpmpp_2m", steps=5, spacing="log_snr").samples
    found = model.forecast(data)
    assert np.array_equal(found.samples, expected) and (found.method, found.num_steps) == ("dpmpp_2m", 5)
    rolled = model.rollout(data, 8, bound=1e9)
    assert (rolled.method, rolled.num_steps) == ("dpmpp_2m", 5)
    model.save(tmp_path / "mine.safetensors")
    again = Model.load(tmp_path / "mine.safetensors", device="cpu")
    assert again.recommended == model.recommended and np.array_equal(again.forecast(data).samples, expected)
    assert recommending(steps=None).sampler().num_steps == 25


def test_without_a_recommendation_all_steps_are_drawn_as_the_model_was_made(model):
    sampler = model.sampler()
    assert model.recommended is None
    assert (sampler.method, sampler.num_steps, sampler.spacing) == ("ddpm", 25, "uniform")
    fewer = model.sampler(steps=3)
    assert (fewer.method, fewer.num_steps, fewer.spacing) == ("ddpm", 3, "uniform")


def test_a_diffusion_in_a_file_that_is_none_is_told_by_the_file_and_the_key(tmp_path):
    for key, wrong, message in (
        ("num_timesteps", 3_000_000, r"diffusion\.num_timesteps must be at most 100000, got 3000000"),
        ("mode", "both", r"diffusion\.mode must be one of cond, uncond; got 'both'"),
    ):
        model = made()
        config = model.config | {"diffusion": model.config["diffusion"] | {key: wrong}}
        save_checkpoint(tmp_path / "mine.safetensors", model.network, config)
        with pytest.raises(ValueError, match=rf"mine\.safetensors: .*{message}"):
            Model.load(tmp_path / "mine.safetensors", device="cpu")


@pytest.mark.parametrize(
    "section, message",
    [
        ({"method": "euler"}, r"sampling\.method \(of diffusion\.kind gaussian\) must be one of"),
        ({"method": "ddim", "steps": 26}, r"sampling\.steps must be in 1\.\.25"),
        ([5], "sampling must be a section of keys and values"),
    ],
)
def test_a_wrong_recommendation_in_a_file_is_named(section, message, tmp_path):
    model = made()
    model.config["sampling"] = section
    model.save(tmp_path / "mine.safetensors")
    with pytest.raises(ValueError, match=rf"mine\.safetensors: {message}"):
        Model.load(tmp_path / "mine.safetensors", device="cpu")
