"""Noise on the given frames of training: what it changes, and what it leaves alone."""

import dataclasses

import numpy as np
import pytest
import torch
from tape import TapeRecorder
from test_training_step import assert_same_state, make_step, run
from tiny_training import assert_same_run, log_of, tiny_config

from geotdm_fast import load
from geotdm_fast.checkpoint import build_diffusion, build_network
from geotdm_fast.cli import main
from geotdm_fast.config.files import normalise_config
from geotdm_fast.data import open_dataset
from geotdm_fast.samples.npz import read_samples
from geotdm_fast.scores.equivariance import check_equivariance
from geotdm_fast.task import Task
from geotdm_fast.training import train
from geotdm_fast.training.batches import BatchSource
from geotdm_fast.training.context_noise import ContextNoise
from geotdm_fast.training.device_data import DeviceData

CONFIG = tiny_config()
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def dataset():
    return open_dataset(CONFIG["data"]["train"], progress=False)


@pytest.fixture(scope="module")
def data(dataset):
    return DeviceData(dataset)


def source_of(data, level: float | None, given=(0, 1, 2), **options) -> BatchSource:
    context = None if level is None else ContextNoise(level, given, CPU)
    about = {"seed": 3, "batch_size": 4, "num_timesteps": 25, "num_noisy": 3} | options
    return BatchSource(data, context=context, **about)


@pytest.mark.parametrize("given", [(0, 1, 2), (0, 3, 5)])
def test_only_the_given_frames_change(data, given):
    plain, noisy = source_of(data, None), source_of(data, 0.5, given)
    for step in range(4):
        (one,), (other,) = plain.training(step), noisy.training(step)
        for name in ("items", "steps", "weight", "noise"):
            assert torch.equal(getattr(one, name), getattr(other, name)), name
        assert one.level is one.context is None and other.level.shape == (len(other.items),)
        assert other.context.shape == (len(other.noise), 3, 3)
        before, after = plain.noised(one).batch, noisy.noised(other).batch
        others = [t for t in range(6) if t not in given]
        assert torch.equal(before.x[..., others], after.x[..., others])
        assert torch.equal(after.context_level, other.level)
        torch.testing.assert_close((after.x - before.x)[..., list(given)], other.context, rtol=0, atol=1e-6)
        assert torch.equal(before.h, after.h) and torch.equal(before.edge_attr, after.edge_attr)


def test_its_level_is_uniform_for_each_graph_and_its_mean_over_a_graph_is_zero():
    sizes = torch.tensor([5, 1, 40] * 400)
    context = ContextNoise(2.0, (0, 1, 2), CPU)
    (level, drawn), batch = context.drawn(1, 7, sizes, 3), torch.arange(1200).repeat_interleave(sizes)
    mean = torch.zeros(1200, 3).index_add(0, batch, drawn.mean(-1))
    assert mean.abs().max() < 1e-4
    large = torch.stack([drawn[batch == graph].std() for graph in range(2, 1200, 3)])  # 360 numbers each
    counts = np.histogram(large.numpy(), bins=4, range=(0, 2.2))[0]
    assert counts.sum() == 400 and large.max() < 2.2
    # Uniform in 0..2: a bin of 0.55 expects 110 of 400, the last one of 0.35 expects 70.
    assert (np.abs(counts - [110, 110, 110, 70]) < 5 * np.sqrt(110)).all()
    twice = ContextNoise(4.0, (0, 1, 2), CPU).drawn(1, 7, sizes, 3)
    assert torch.equal(twice[0], 2 * level) and torch.equal(twice[1], 2 * drawn)
    assert (large / level[2::3] - 1).abs().max() < 0.25
    assert torch.equal(context.drawn(1, 7, sizes, 3)[1], drawn)
    for seed, step in ((1, 8), (2, 7)):
        assert not torch.equal(context.drawn(seed, step, sizes, 3)[1], drawn)


@pytest.mark.parametrize("options", [{"accumulate": 3}, {"world_size": 2}, {"world_size": 3, "accumulate": 2}])
def test_parts_and_processes_share_the_same_noise(data, options):
    (whole,) = source_of(data, 0.5).training(1)
    parts = []
    for rank in range(options.get("world_size", 1)):
        parts += source_of(data, 0.5, rank=rank, **options).training(1)
    weighted = [part for part in parts if float(part.weight.sum()) > 0]
    assert torch.equal(torch.cat([part.context for part in weighted]), whole.context)
    assert torch.equal(torch.cat([part.level for part in weighted]), whole.level)


def test_validation_has_none(data):
    for (_, one), (_, other) in zip(source_of(data, None).validation(), source_of(data, 0.5).validation(), strict=True):
        assert torch.equal(one.batch.x, other.batch.x)


def test_level_0_is_the_training_without_it(tmp_path):
    """The key that is not there, and 0: and another level trains another network from the same start."""
    config = tiny_config(num_steps=4)
    del config["train"]["context_noise"]
    train(config, output_dir=tmp_path / "without", device="cpu", progress=False)
    train(tiny_config(num_steps=4, context_noise=0.0), output_dir=tmp_path / "zero", device="cpu", progress=False)
    assert_same_run(tmp_path / "without", tmp_path / "zero")
    train(tiny_config(num_steps=4, context_noise=0.3), output_dir=tmp_path / "noise", device="cpu", progress=False)
    losses = [[record["loss"] for record in log_of(tmp_path / name) if "loss" in record] for name in ("zero", "noise")]
    assert losses[0][0] != losses[1][0]


def test_a_resumed_run_equals_one_that_was_not_stopped(tmp_path):
    config = lambda steps: tiny_config(num_steps=steps, context_noise=0.3, ema_decay=0.9, eval_every_step=4)
    train(config(9), output_dir=tmp_path / "whole", device="cpu", progress=False)
    for steps in (5, 9):
        train(config(steps), output_dir=tmp_path / "parts", device="cpu", progress=False)
    for name in ("last", "state"):
        read = lambda folder, name=name: dict(_tensors(tmp_path / folder / f"{name}.safetensors"))
        whole, parts = read("whole"), read("parts")
        assert whole.keys() == parts.keys()
        assert all(torch.equal(whole[key], parts[key]) for key in whole if not key.startswith("sums")), name


def _tensors(path):
    from geotdm_fast.checkpoint import load_tensors

    return load_tensors(path)[0]


def test_captured_on_a_tape_it_is_the_same(dataset):
    recorder = TapeRecorder()
    steps = [make_step(dataset), make_step(dataset, record=recorder)]
    for step in steps:
        step.source.context = ContextNoise(0.3, (0, 1, 2), CPU)
        run(step, 0, 5)
    assert_same_state(*steps, rtol=1e-5, atol=1e-6)
    assert len(recorder.tapes) == 2 and steps[1].captures  # one for each size of batch
    plain = run(make_step(dataset), 0, 5)
    with pytest.raises(AssertionError):
        assert_same_state(plain, steps[0], rtol=1e-5, atol=1e-6)


# --- told -------------------------------------------------------------------------------------------------------------


def told_config(**train) -> dict:
    config = tiny_config(context_noise=0.3, context_noise_told=True, **train)
    config["denoise_model"]["node_dim"] = 2
    config["diffusion"]["model_mean_type"] = "start_x"
    return config


def test_the_network_is_told_the_level_of_every_graph_and_0_in_validation(data):
    task, source = Task.of_config(told_config()), source_of(data, 0.3)
    (draw,) = source.training(0)
    noised = source.noised(draw)
    _, model_kwargs = task.split(noised.batch)
    assert torch.equal(model_kwargs["h"][:, :1], noised.batch.h)
    assert torch.equal(model_kwargs["h"][:, 1], draw.level[noised.batch.batch])
    _, validated = next(source.validation())
    assert task.split(validated.batch)[1]["h"][:, 1].tolist() == [0.0] * 20
    over_time = dataclasses.replace(validated.batch, h=torch.ones(20, 1, 6))
    h = dataclasses.replace(task, told_level=0.5).split(over_time)[1]["h"]
    assert h.shape == (20, 2, 6) and h[:, 1].unique().tolist() == [0.5]


def test_a_told_model_is_trained_saved_sampled_and_rolled_out(tmp_path, capsys):
    train(told_config(num_steps=3), output_dir=tmp_path / "run", device="cpu", progress=False)
    model = load(tmp_path / "run", device="cpu")
    assert model.task.tells_noise
    model.save(tmp_path / "again.safetensors")
    data = open_dataset(CONFIG["data"]["val"], progress=False)
    found = model.rollout(data, 8, seed=1, steps=3)
    assert np.array_equal(load(tmp_path / "again.safetensors", device="cpu").rollout(data, 8, seed=1, steps=3).samples,
                          found.samples)  # fmt: skip
    timed = [dataclasses.replace(item, h=item.h[..., None].repeat(1, 1, 12)) for item in data]
    np.testing.assert_allclose(
        model.rollout(timed, 8, seed=1, steps=3).samples, found.samples, rtol=1e-4, atol=1e-5
    )  # the same features in every frame
    made = model.rollout(timed, 8, seed=1, steps=3, features=lambda given, t: timed_h(timed)[..., :t])
    np.testing.assert_allclose(made.samples, found.samples, rtol=1e-4, atol=1e-5)
    model.task = dataclasses.replace(model.task, told_level=0.3)
    other = model.rollout(data, 8, seed=1, steps=3)
    assert np.abs(other.samples - found.samples)[..., :3].max() > 1e-6
    words = ["--rollout", "8", "--steps", "3", "--seed", "1", "--device", "cpu", "--quiet", "--split", "val"]
    out = ["--out", str(tmp_path / "s.npz")]
    assert main(["sample", str(tmp_path / "run"), *words, *out, "--context-level", "0.3"]) == 0
    np.testing.assert_allclose(read_samples(tmp_path / "s.npz").samples, other.samples, rtol=1e-5, atol=1e-6)
    assert main(["sample", "nbody_charged_small", *words, *out, "--context-level", "0.3"]) == 2
    assert "--context-level is for a model of train.context_noise_told, which this is not" in capsys.readouterr().err


def timed_h(items) -> torch.Tensor:
    return torch.cat([item.h for item in items])


def test_a_told_model_is_equivariant():
    config = told_config()
    diffusion = build_diffusion(build_network(config), config, "cpu")
    found = list(
        check_equivariance(diffusion, Task.of_config(config), precisions=("float64",), num_graphs=2, num_steps=3)
    )
    assert found and all(deviation.holds for deviation in found)


def test_what_does_not_fit_a_told_model():
    with pytest.raises(ValueError, match=r"train\.context_noise_told needs train\.context_noise above 0"):
        tiny_config(context_noise_told=True)
    config = told_config()
    config["denoise_model"]["node_dim"] = 1
    message = r"node_dim must be 2 for data\.train \(.*\) and train\.context_noise_told, which is 1 more, got 1"
    with pytest.raises(ValueError, match=message):
        train(config, output_dir="unused", device="cpu", progress=False)
    with pytest.raises(ValueError, match="task: told_level is for a model that is told of noise"):
        Task(given=((0, 3),), told_level=0.1)
    with pytest.raises(ValueError, match="task: told_level must be at least 0 and finite, got -1"):
        Task(given=((0, 3),), tells_noise=True, told_level=-1.0)


def test_bad_levels():
    with pytest.raises(ValueError, match=r"train\.context_noise must be at least 0, got -1"):
        tiny_config(context_noise=-1)
    config = tiny_config()
    config["train"] |= {"cond_mask": None, "tot_len": 6, "context_noise": 0.1}
    config["diffusion"]["mode"] = "uncond"
    with pytest.raises(
        ValueError, match=r"train\.context_noise does not go with diffusion\.mode uncond: no frame is given"
    ):
        normalise_config(config)
