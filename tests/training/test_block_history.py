"""Given frames that the network drew itself: what they are, when they are the data's, and what they leave alone."""

import dataclasses

import pytest
import torch
from tape import TapeRecorder
from test_training_periodic import liquid
from test_training_step import assert_same_state, make_step, run
from tiny_training import assert_same_run, tiny_config

from geotdm_fast.checkpoint import build_diffusion, load_tensors
from geotdm_fast.conditioning import frames_of
from geotdm_fast.config.files import normalise_config
from geotdm_fast.data import Trajectory, TrajectoryDataset, collate, open_dataset
from geotdm_fast.diffusion import Sampler
from geotdm_fast.diffusion.noise import TrajectoryNoise
from geotdm_fast.diffusion.priors import FIXED_PRIORS
from geotdm_fast.task import Task
from geotdm_fast.training import random_streams, train
from geotdm_fast.training.block_history import BlockHistory
from geotdm_fast.training.device_data import DeviceData
from geotdm_fast.training.history_windows import HistoryWindows
from geotdm_fast.training.objective import Objective, check_fits
from geotdm_fast.training.step import TrainingStep

GIVEN, DRAWN, WINDOW = 3, 3, 6
TASK = Task(given=((0, GIVEN),))


@pytest.fixture(autouse=True)
def no_pictures(monkeypatch):
    monkeypatch.setattr("geotdm_fast.training.output.Output._draw", lambda self: None)


def history_config(blocks: int = 1, **train) -> dict:
    """The tiny configuration, of a network that predicts positions, and data with so many blocks of history."""
    config = tiny_config(block_history=blocks, **train)
    config["diffusion"]["model_mean_type"] = "start_x"
    config["data"]["train"]["num_frames"] = WINDOW + blocks * DRAWN
    return config


def systems(blocks: int = 1) -> TrajectoryDataset:
    return open_dataset(history_config(blocks)["data"]["train"], progress=False)


def made(dataset, blocks=1, *, share=1.0, level=1.0, config=None, record=None, device="cpu", **train) -> TrainingStep:
    """A step with history on data of `WINDOW + blocks * DRAWN` frames."""
    config = config or history_config(blocks, **train)
    step = make_step(dataset, device, config=config)
    windows = HistoryWindows.of(config, dataset[0].num_frames, "data")
    source = step.source
    source.windows = windows
    history = BlockHistory(source.data, step.objective, windows, seed=7, share=share, level=level)
    about = {"history": history, "say": step.lines.append, "record": record}
    again = TrainingStep(config["train"], step.objective, step.weights, step.average, source, step.ours, **about)
    again.lines, again.history = step.lines, history
    return again


def drawn_by(step: TrainingStep, number: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The given frames of a step, all parts together, and their trajectories."""
    parts = step.source.training(number)
    given = [step.history.given(part.to(torch.device("cpu")), step.source.data.structure(part.items), number)
             for part in parts]  # fmt: skip
    return torch.cat(given), torch.cat([part.items for part in parts])


# --- what they are ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("blocks", "level"), [(1, 1.0), (2, 1.0), (3, 0.3)])
def test_they_are_those_of_a_plain_loop(blocks, level):
    data = systems(blocks)
    step = made(data, blocks, level=level)
    diffusion = step.objective.diffusion
    given, items = drawn_by(step, 5)
    batch = collate([data[i] for i in items.tolist()])
    rng = random_streams.generator(7, random_streams.HISTORY, 5)
    noised = int(torch.ceil(torch.rand(2, generator=rng)[1] * level * 25))
    expected = batch.x[..., :GIVEN]
    for block in range(blocks):
        own = dataclasses.replace(batch, x=torch.cat([expected, batch.x[..., GIVEN + 3 * block : 6 + 3 * block]], -1))
        x_start, model_kwargs = TASK.split(own)
        noise = TrajectoryNoise(rng.initial_seed(), items, 0 * items, batch.batch, 3, DRAWN, torch.float32, block)
        sampler = Sampler(diffusion, "dpmpp_2m", min(5, noised))
        expected = sampler.refine(x_start, noised, model_kwargs, noise)[..., -GIVEN:]
    torch.testing.assert_close(given, expected, rtol=1e-4, atol=1e-4)
    truth = batch.x[..., 3 * blocks : 3 * blocks + GIVEN]
    assert (given - truth).abs().mean() > 1e-2 and not given.requires_grad
    assert step.objective.diffusion.denoise_network.training


def test_only_the_given_frames_are_replaced():
    data = systems(2)
    step = made(data, 2)
    (draw,) = step.source.training(0)
    given, items = drawn_by(step, 0)
    plain, noised = (step.source.noised(one).batch for one in (draw, draw._replace(given=given)))
    last = collate([data[i] for i in items.tolist()]).x[..., -WINDOW:]
    assert torch.equal(plain.x, last)
    assert torch.equal(noised.x[..., :GIVEN], given) and torch.equal(noised.x[..., GIVEN:], last[..., GIVEN:])


class Persistent(torch.nn.Module):
    """Forecasts by x(t) = x(G - 1) + (t - G + 1) v: without error where every node moves steadily, but for `value`."""

    learn_ref_frame, graph_spec = False, None

    def __init__(self, value: float = 0.0):
        super().__init__()
        self.value = value

    def forward(self, x, diffusion_t, x_given, cond_mask, batch, **others):
        last, before = x_given[..., GIVEN - 1 : GIVEN], x_given[..., GIVEN - 2 : GIVEN - 1]
        forecast = last + (last - before) * torch.arange(1, DRAWN + 1) + self.value
        return forecast - FIXED_PRIORS["last_frame"](x_given, frames_of(cond_mask), batch), None


class AsItIs(Persistent):
    """Takes the noised positions for the true ones."""

    def forward(self, x, diffusion_t, x_given, cond_mask, batch, **others):
        return x - FIXED_PRIORS["last_frame"](x_given, frames_of(cond_mask), batch), None


def steady(blocks: int) -> TrajectoryDataset:
    """Five nodes that move steadily."""
    moved = []
    for item in systems(blocks):
        velocity = item.x[..., 1:2] - item.x[..., :1]
        moved.append(dataclasses.replace(item, x=item.x[..., :1] + velocity * torch.arange(float(item.num_frames))))
    return TrajectoryDataset(moved, name="steady")


def with_forecaster(dataset, blocks: int, forecaster: torch.nn.Module) -> BlockHistory:
    config = history_config(blocks)
    config["diffusion"]["prior"] = "last_frame"
    config["denoise_model"]["learn_ref_frame"] = False
    objective = Objective(build_diffusion(forecaster, config, "cpu"), TASK)
    windows = HistoryWindows.of(config, dataset[0].num_frames, "steady")
    return BlockHistory(DeviceData(dataset), objective, windows, seed=0, share=1.0, level=1.0)


@pytest.mark.parametrize("blocks", [1, 3])
def test_a_forecaster_without_errors_changes_nothing(blocks):
    data = steady(blocks)
    source = made(data, blocks).source
    for value, close in ((0.0, True), (0.05, False)):
        history = with_forecaster(data, blocks, Persistent(value))
        for number in range(3):
            (draw,) = source.training(number)
            given = history.given(draw, source.data.structure(draw.items), number)
            truth = source.noised(draw).batch.x[..., :GIVEN]
            assert torch.allclose(given, truth, rtol=1e-5, atol=2e-5) == close
            replaced = source.noised(draw._replace(given=given)).batch
            assert torch.allclose(replaced.x, source.noised(draw).batch.x, rtol=1e-5, atol=2e-5) == close


def test_smaller_levels_stay_nearer_to_the_truth():
    data = steady(1)
    source, history = made(data).source, with_forecaster(data, 1, AsItIs())
    errors = []
    for history.level in (0.04, 0.2, 0.5):
        found = []
        for number in range(4):
            (draw,) = source.training(number)
            given = history.given(draw, source.data.structure(draw.items), number)
            found.append((given - source.noised(draw).batch.x[..., :GIVEN]).square().mean().sqrt())
        errors.append(float(torch.stack(found).mean()))
    # With 0.04 that is one diffusion step of 25, whose noise is 0.05.
    assert 0.02 < errors[0] < 0.1 < errors[1] < errors[2]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e4])
def test_what_explodes_keeps_its_true_frames(value):
    data = steady(2)
    source = made(data, 2).source
    (draw,) = source.training(0)
    structure, truth = source.data.structure(draw.items), source.noised(draw).batch.x[..., :GIVEN]
    assert torch.equal(with_forecaster(data, 2, Persistent(value)).given(draw, structure, 0), truth)

    class OneBreaks(Persistent):
        def forward(self, x, **kwargs):
            output, _ = super().forward(x=x, **kwargs)
            return torch.where((kwargs["batch"] == 1)[:, None, None], value, output + 0.05), None

    given = with_forecaster(data, 2, OneBreaks()).given(draw, structure, 0)
    broken = structure.batch == 1
    assert torch.equal(given[broken], truth[broken])
    assert ((given - truth)[~broken].abs().amax((1, 2)) > 0.04).all()


@pytest.mark.parametrize("graph", [{"radius": 2.5}, {"radius": 2.5, "bonds": True, "of": "current"}], ids=str)
def test_in_boxes_which_image_of_an_atom_the_data_hold_matters_to_nothing(graph):
    made_of = lambda **how: made(liquid(frames=9, **how), config=in_boxes(graph))
    one, other = run(made_of(), 0, 3), run(made_of(moved=True), 0, 3)
    assert_same_state(one, other, rtol=2e-3, atol=2e-4)


def in_boxes(graph: dict) -> dict:
    config = history_config(1, batch_size=3, rotate=True)
    config["denoise_model"] |= {"graph": graph, "node_dim": 2, "edge_dim": 1 if "bonds" in graph else 0, "cutoff": 2.5}
    return config


def test_boxes_that_change_are_those_of_each_block():
    step = made(liquid(frames=9, changes=True), config=in_boxes({"radius": 2.5, "of": "current"}))
    (draw,) = step.source.training(3)
    whole = step.source.data.batch(draw.items, step._structure(draw), draw.turn).cell
    assert torch.equal(step.source.noised(draw).batch.cell, whole[:, DRAWN:])
    told, split = [], step.objective.split_batch
    step.objective.split_batch = lambda batch, graph: (told.append(batch.cell), split(batch, graph))[1]
    step.history.given(draw, step._structure(draw), 3)
    assert len(told) == 1 and torch.equal(told[0], whole[:, :WINDOW])


def test_features_over_time_are_those_of_each_block():
    data = [dataclasses.replace(item, h=item.h[..., None] + torch.arange(9.0), edge_attr=item.edge_attr[..., None]
                                * torch.arange(1.0, 10)) for item in systems()]  # fmt: skip
    windows = HistoryWindows(1, GIVEN, WINDOW)
    batch = collate(data)
    for number, frames in ((0, slice(0, 6)), (1, slice(3, 9))):
        block = windows.block(batch, number)
        assert torch.equal(block.x, batch.x[..., frames]) and torch.equal(block.h, batch.h[..., frames])
        assert torch.equal(block.edge_attr, batch.edge_attr[..., frames]) and block.num_graphs == 6
    assert run(made(TrajectoryDataset(data, name="timed")), 0, 1).sums[0].isfinite()


# --- what they leave alone --------------------------------------------------------------------------------------------


def test_off_is_the_training_without_it(tmp_path):
    """The keys that are not there; and longer windows in which no step is chosen are their last frames."""
    plain = tiny_config(num_steps=4)
    plain["diffusion"]["model_mean_type"] = "start_x"
    plain["data"]["train"]["frames"] = [DRAWN, WINDOW + DRAWN]
    config = normalise_config(plain)
    for key in ("block_history", "block_history_share", "block_history_level"):
        del config["train"][key]
    train(config, output_dir=tmp_path / "without", device="cpu", progress=False)
    train(normalise_config(plain), output_dir=tmp_path / "off", device="cpu", progress=False)
    assert_same_run(tmp_path / "without", tmp_path / "off")
    longer = history_config(1, num_steps=4, block_history_share=0.0)
    train(longer, output_dir=tmp_path / "share_0", device="cpu", progress=False)
    assert_same_run(tmp_path / "without", tmp_path / "share_0")
    longer["train"]["block_history_share"] = 1.0
    train(longer, output_dir=tmp_path / "share_1", device="cpu", progress=False)
    with pytest.raises(AssertionError):
        assert_same_run(tmp_path / "without", tmp_path / "share_1")


def test_the_share_is_that_of_the_steps():
    data = systems()
    step = made(data, share=0.3)
    truth = lambda items: collate([data[i] for i in items.tolist()]).x[..., DRAWN : DRAWN + GIVEN]
    is_drawn = [not torch.equal(given, truth(items)) for given, items in (drawn_by(step, n) for n in range(60))]
    chance = lambda n: float(torch.rand(2, generator=random_streams.generator(7, random_streams.HISTORY, n))[0])
    assert is_drawn == [chance(n) < 0.3 for n in range(60)] and 10 <= sum(is_drawn) <= 27


def test_parts_and_processes_share_them():
    whole, items = drawn_by(made(systems()), 1)
    parts, same = drawn_by(made(systems(), accumulate=2), 1)
    assert torch.equal(items, same)
    torch.testing.assert_close(parts, whole, rtol=1e-4, atol=1e-5)


def test_a_resumed_run_equals_one_that_was_not_stopped(tmp_path):
    config = lambda steps: history_config(1, num_steps=steps, eval_every_step=4, context_noise=0.1)
    train(config(9), output_dir=tmp_path / "whole", device="cpu", progress=False)
    for steps in (5, 9):
        train(config(steps), output_dir=tmp_path / "parts", device="cpu", progress=False)
    for name in ("last", "state"):
        whole, parts = (load_tensors(tmp_path / folder / f"{name}.safetensors")[0] for folder in ("whole", "parts"))
        assert whole.keys() == parts.keys()
        assert all(torch.equal(whole[key], parts[key]) for key in whole if not key.startswith("sums")), name


@pytest.mark.parametrize("graph", [None, {"radius": 2.5}, {"radius": 2.5, "of": "current"}], ids=str)
def test_captured_it_is_the_same_and_chains_are_captured_once(graph):
    config, data = history_config(1, batch_size=3), systems()
    if graph:
        config["denoise_model"] |= {"graph": graph, "edge_dim": 0}
    recorder = TapeRecorder()
    eager, captured = made(data, config=config), made(data, config=config, record=recorder)
    for step in (eager, captured):
        run(step, 0, 6)
    assert captured.captures and not captured.lines
    assert_same_state(captured, eager, rtol=1e-4, atol=1e-5)
    assert len(recorder.tapes) == 2, "one for the step, one for the steps of all chains"


def test_graphs_that_differ_are_padded():
    small = [Trajectory(item.x[:3], item.h[:3], torch.tensor([[0, 1], [1, 0]]), torch.ones(2, 1), torch.arange(3))
             for item in systems()]  # fmt: skip
    recorder, mixed = TapeRecorder(), TrajectoryDataset([*systems(), *small], name="mixed")
    step, eager = run(made(mixed, record=recorder), 0, 3), run(made(mixed), 0, 3)
    assert step.captures and step.num_padded and len(recorder.tapes) > step.num_padded
    torch.testing.assert_close(step.sums, eager.sums, rtol=1e-5, atol=0)


# --- errors -----------------------------------------------------------------------------------------------------------


def test_windows_that_are_too_short_are_refused_by_name():
    config, data = history_config(2), systems(2)
    assert check_fits(config, data, "train") == DRAWN
    message = r"train\.block_history 2 needs 12 frames of data\.train \(.*\): 3 given ones and 3 to draw in each of 3 "
    with pytest.raises(ValueError, match=message + r"blocks, got 9; data\.train\.span or data\.train\.num_frames says"):
        check_fits(config, systems(1), "train")
    config["diffusion"]["prior"] = "com"
    message = r"needs 3 \+ n x 3 frames, n >= 1, of data\.train \(data\): 3 given ones and n to .* of 3 blocks, got 10"
    with pytest.raises(ValueError, match=message):
        HistoryWindows.of(config, 10, "data")
    assert HistoryWindows.of(config, 9, "data") == HistoryWindows(2, 3, 5)


def test_validation_has_the_frames_of_the_model(tmp_path):
    config = history_config(1)
    config["data"]["val"]["num_frames"] = 9
    with pytest.raises(ValueError, match=r"denoise_model\.num_w must be 6, the frames to predict, got 3"):
        train(config, output_dir=tmp_path, device="cpu", progress=False)
    config["diffusion"]["prior"] = "last_frame"
    with pytest.raises(ValueError, match=r"data\.val \(.+\) must have the model's 6 frames, got 9"):
        train(config, output_dir=tmp_path, device="cpu", progress=False)
    del config["diffusion"]["prior"], config["data"]["val"]
    config["train"] |= {"num_steps": 2, "eval": "nll"}
    with pytest.warns(UserWarning, match="chosen by the loss on training data"):
        train(config, output_dir=tmp_path, device="cpu", progress=False)


def test_what_does_not_go_with_it():
    with pytest.raises(ValueError, match=r"train\.block_history must be at least 0, got -1"):
        tiny_config(block_history=-1)
    with pytest.raises(ValueError, match=r"train\.block_history_share must be at most 1"):
        tiny_config(block_history_share=1.5)
    config = tiny_config(block_history=1)
    config["train"]["cond_mask"] = [[0, 1], [4, 6]]
    with pytest.raises(ValueError, match=r"needs a train\.cond_mask of frames at the beginning, .* got \[\[0, 1\]"):
        normalise_config(config)
    config["train"] |= {"cond_mask": None, "tot_len": 6}
    config["diffusion"]["mode"] = "uncond"
    with pytest.raises(ValueError, match=r"train\.block_history does not go with diffusion\.mode uncond"):
        normalise_config(config)
    config = tiny_config(block_history=1)
    config["data"]["train"] = {"kind": "pedestrian", "dataset": "zara1", "phase": "training"}
    with pytest.raises(ValueError, match=r"needs longer windows than those of 20 frames of data\.train\.kind pedestri"):
        normalise_config(config)
