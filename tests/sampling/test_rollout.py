"""Rollouts: beside a plain loop, whatever the batch size, and what they are told of every block."""

import dataclasses
import warnings

import numpy as np
import pytest
import torch
from tape import TapeRecorder
from tiny_models import charged_config, pedestrian_config, tame_network
from tolerances import assert_same

from geotdm_fast.checkpoint import build_diffusion
from geotdm_fast.config.files import normalise_config
from geotdm_fast.data import Batch, Trajectory, TrajectoryDataset, collate, open_dataset
from geotdm_fast.data.pedestrian import people_features
from geotdm_fast.diffusion import Sampler
from geotdm_fast.diffusion.noise import TrajectoryNoise, block_key
from geotdm_fast.model import Model
from geotdm_fast.sampling import Rollout, roll_out, sample
from geotdm_fast.scores.evaluation import evaluate, report
from geotdm_fast.task import Task


def steady_config(**train) -> dict:
    """As `charged_config`, of a model that predicts positions: what it draws stays near."""
    config = charged_config(**train)
    config["diffusion"]["model_mean_type"] = "start_x"
    return config


CONFIG = steady_config()
TASK = Task.of_config(CONFIG)
WINDOW, GIVEN = 12, 4


def model_of(config: dict) -> Model:
    network = tame_network(config)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(2)  # features matter then
    return Model(network, build_diffusion(network, config, "cpu"), Task.of_config(config), config, "tiny.safetensors")


@pytest.fixture(scope="module")
def model():
    return model_of(CONFIG)


def systems(count: int = 3, num_frames: int = 32) -> TrajectoryDataset:
    return open_dataset(CONFIG["data"]["test"] | {"num_systems": count, "num_frames": num_frames}, progress=False)


@pytest.fixture(scope="module")
def dataset():
    return systems()


def plain_loop(model: Model, batch: Batch, num_blocks: int, overlap: int, seed: int, *, features=None) -> torch.Tensor:
    """One sample of every graph, all drawn frames: the blocks one by one, as the text says, without moving them."""
    frames, step = batch.x[..., :GIVEN], WINDOW - overlap
    for b in range(num_blocks):
        given = frames[..., b * step : b * step + GIVEN]
        x = torch.cat([given, torch.zeros(*given.shape[:2], WINDOW - GIVEN)], dim=-1)
        part = dataclasses.replace(batch, x=x)
        if batch.h.dim() == 3:
            part.h = batch.h[..., b * step : b * step + WINDOW] if features is None else features(given, WINDOW)
        if batch.edge_attr is not None and batch.edge_attr.dim() == 3:
            part.edge_attr = batch.edge_attr[..., b * step : b * step + WINDOW]
        x_start, model_kwargs = TASK.split(part)
        graph = torch.arange(batch.num_graphs)
        noise = TrajectoryNoise(seed, graph, graph * 0, batch.batch, *x_start.shape[1:], x_start.dtype, b)
        drawn = Sampler(model.diffusion, "ddpm", 6).draw(x_start.shape, model_kwargs, noise)
        frames = torch.cat([frames[..., : b * step + GIVEN], drawn], dim=-1)
    return frames[..., GIVEN:]


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


# --- what a block is told ---------------------------------------------------------------------------------------------


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


def by_distance(of: str) -> dict:
    config = steady_config()
    config["denoise_model"] |= {"graph": {"radius": 2.5, "of": of}, "edge_dim": 0}
    return normalise_config(config)


@pytest.mark.parametrize("of", ["given", "current"])
def test_graphs_by_distance_are_those_of_every_block(of):
    model, data = model_of(by_distance(of)), systems(2)
    found = model.rollout(data, 24, seed=1, steps=6)
    assert_same(torch.from_numpy(found.samples[0]), plain_loop(model, collate(data), 3, 4, 1), 1e-4)


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


# --- data and scores --------------------------------------------------------------------------------------------------


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


# --- errors and explosions --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_frames": 0}, "rollout: num_frames must be a whole number of at least 1, got 0"),
        ({"num_frames": 10, "overlap": 3}, r"rollout: overlap must be in 4\.\.11, .* of its 12 frames but one, got 3"),
        ({"num_frames": 10, "overlap": 12}, r"overlap must be in 4\.\.11, .*, got 12"),
        ({"num_frames": 10, "bound": 0.0}, r"bound must be above 0, got 0\.0"),
        ({"num_frames": 10, "bound": float("nan")}, r"bound must be above 0, got nan"),
        ({"num_frames": 10**8}, r"at most 1000000 blocks, got 12500000"),
        ({"num_frames": 10, "num_samples": 0}, "num_samples must be at least 1, got 0"),
        ({"num_frames": 10, "seed": -1}, "seed must be at least 0, got -1"),
    ],
)
def test_bad_options(model, dataset, options, message):
    with pytest.raises(ValueError, match=message):
        model.rollout(dataset, **options)


def test_too_few_frames(model):
    with pytest.raises(ValueError, match="rollout: a trajectory must have the 4 given frames, got 3"):
        model.rollout(systems(num_frames=3), 10)
    with pytest.raises(ValueError, match="rollout: data must have the 4 given frames, got 3"):
        plan = Rollout.of(TASK, WINDOW, 10)
        options = {"num_samples": 1, "seed": 0, "progress": False}
        roll_out(Sampler(model.diffusion), collate(systems(num_frames=3)), TASK, plan, **options)


def test_models_that_cannot_go_on_are_named():
    fills = model_of(steady_config(cond_mask=[[0, 2], [10, 12]]))
    with pytest.raises(ValueError, match=r"rollout: tiny\.safetensors .* would fill gaps.*see interpolate"):
        fills.rollout(systems(), 10)
    config = steady_config()
    config["denoise_model"]["learn_ref_frame"] = False
    config["diffusion"]["mode"] = "uncond"
    config["train"] |= {"cond_mask": None, "tot_len": 12}
    with pytest.raises(ValueError, match=r"rollout: tiny\.safetensors .* trajectories of 12 frames; .*see generate"):
        model_of(normalise_config(config)).rollout(systems(), 10)
    with pytest.raises(ValueError, match=r"beginning of its window, got one that is given frames \[\[2, 4\]\]"):
        Rollout.of(Task(given=((2, 4),)), 12, 10)
    with pytest.raises(ValueError, match=r"beginning of its window, got one that is given none"):
        Rollout.of(Task(num_frames=12), 12, 10)


def exploding(monkeypatch, block: int, graphs: set[int], value: float, scale: float = 1.0) -> list[int]:
    """`Sampler.draw` whose block `block` holds `value` for some graphs; returns the blocks that were drawn."""
    real, drawn = Sampler.draw, []

    def broken(self, shape, model_kwargs, noise, **kwargs):
        result = real(self, shape, model_kwargs, noise, **kwargs)
        assert model_kwargs["x_given"].isfinite().all() and model_kwargs["x_given"].abs().max() < 1e4
        key = tuple(noise.counters.key.tolist())
        drawn.append([block_key(0, b) for b in range(5)].index(key))
        if drawn[-1] == block:
            for node, graph in enumerate(noise.counters.graph[:, 0].tolist()):
                if graph in graphs:
                    result[node, 0, 5] = value if value != value else result[node, 0, 5] + value * scale
        return result

    monkeypatch.setattr(Sampler, "draw", broken)
    return drawn


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e7])
def test_what_explodes_is_nan_from_its_block_on(model, dataset, monkeypatch, value):
    expected = model.rollout(dataset, 28, 2, steps=3)
    with monkeypatch.context() as patch:
        exploding(patch, 1, {1}, value)
        with pytest.warns(
            UserWarning, match=r"rollout: 2 trajectories explode, the first, sample 0 of graph 1 in block 2 of 4"
        ):
            found = model.rollout(dataset, 28, 2, steps=3)
    own = found.nodes(1)
    assert np.isnan(found.samples[:, own, :, 8:]).all()
    assert np.array_equal(found.samples[..., :8], expected.samples[..., :8])
    others = np.r_[0 : own.start, own.stop : 15]
    np.testing.assert_allclose(found.samples[:, others], expected.samples[:, others], rtol=1e-4, atol=1e-4)
    with monkeypatch.context() as patch:
        exploding(patch, 1, {1}, value)
        with pytest.warns(UserWarning, match="2 trajectories explode"):
            alone = model.rollout(dataset, 28, 2, steps=3, batch_size=1)
    np.testing.assert_allclose(alone.samples, found.samples, rtol=1e-3, atol=1e-3)


def test_nothing_is_drawn_behind_the_last_explosion_and_what_came_before_is_kept(model, dataset, monkeypatch):
    drawn = exploding(monkeypatch, 1, {0, 1, 2}, float("nan"))
    with pytest.warns(UserWarning, match="3 trajectories explode"):
        found = model.rollout(dataset, 40, steps=2)
    assert drawn == [0, 1]
    assert np.isfinite(found.samples[..., :8]).all() and np.isnan(found.samples[..., 8:]).all()


def test_an_explosion_of_everything_at_once_is_an_error(model, dataset, monkeypatch):
    exploding(monkeypatch, 0, {0, 1, 2}, 1e9)
    message = r"rollout: all 3 trajectories explode in block 1 of 3$"
    with pytest.warns(UserWarning, match="3 trajectories explode"), pytest.raises(ValueError, match=message):
        model.rollout(dataset, 20, steps=2)


def test_the_bound_is_in_displacements_of_the_given_frames(model, dataset, monkeypatch):
    given = collate(dataset).x[..., :GIVEN].double()
    largest = float((given - given[..., :1]).norm(dim=1).max())
    exploding(monkeypatch, 1, {1}, 400.0, largest)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.rollout(dataset, 20, steps=2)
        model.rollout(dataset, 20, steps=2, bound=float("inf"))
    with pytest.warns(
        UserWarning, match=rf"move farther than {200 * largest:.3g} within a block \(200 times the given"
    ):
        model.rollout(dataset, 20, steps=2, bound=200)


def test_where_nothing_moves_the_size_of_the_graphs_counts(model, monkeypatch):
    x = torch.tensor([[0.0, 0, 0], [3, 4, 0]])[..., None].expand(-1, -1, 4).contiguous()
    edges = torch.tensor([[0, 1], [1, 0]])
    still = Trajectory(x, torch.ones(2, 1), edges, torch.ones(2, 1), torch.arange(2))
    exploding(monkeypatch, 1, {0}, 1e6)
    with pytest.warns(UserWarning, match=r"move farther than 2\.5e\+03 within a block"):
        model.rollout(still, 20, steps=2)


# --- captured ---------------------------------------------------------------------------------------------------------


def on_tape(config: dict) -> tuple[Model, TapeRecorder]:
    model, recorder = model_of(config), TapeRecorder()
    model.diffusion.captures.record = recorder
    return model, recorder


def test_one_capture_serves_all_blocks(dataset):
    expected = model_of(CONFIG).rollout(dataset, 20, 2, seed=1, steps=3)
    model, recorder = on_tape(CONFIG)
    found = model.rollout(dataset, 20, 2, seed=1, steps=3)
    np.testing.assert_allclose(found.samples, expected.samples, rtol=1e-4, atol=1e-4)
    assert len(recorder.tapes) == 1 and recorder.replays == 3 * 3


def test_a_graph_that_follows_the_positions_keeps_its_room_and_its_capture():
    expected = model_of(by_distance("current")).rollout(systems(2), 20, 2, seed=1, steps=2)
    model, recorder = on_tape(by_distance("current"))
    found = model.rollout(systems(2), 20, 2, seed=1, steps=2)
    np.testing.assert_allclose(found.samples, expected.samples, rtol=1e-4, atol=1e-4)
    assert len(recorder.tapes) == 1 and recorder.replays == 3 * 2


def test_the_graph_of_a_batch_is_sorted_once(model, dataset, monkeypatch):
    graphs, priors, real = [], [], Sampler.draw

    def watched(self, shape, model_kwargs, noise, progress, x_ref):
        graphs.append(model_kwargs["graph"])
        assert_same(x_ref, self.diffusion.get_ref_frame(model_kwargs), 1e-5)
        priors.append(x_ref)
        return real(self, shape, model_kwargs, noise, progress=progress, x_ref=x_ref)

    monkeypatch.setattr(Sampler, "draw", watched)
    model.rollout(dataset, 20, 4, steps=2, batch_size=12)
    assert len(graphs) == 3 and len({id(graph) for graph in graphs}) == 1
    assert len({id(prior) for prior in priors}) == 3


def test_sample_and_roll_out_share_the_noise_of_block_0(model, dataset):
    plan = Rollout.of(TASK, WINDOW, 20)
    batch = collate(systems(num_frames=WINDOW))
    options = {"num_samples": 2, "seed": 9, "progress": False}
    rolled = roll_out(Sampler(model.diffusion, num_steps=3), collate(dataset), TASK, plan, **options)
    assert torch.equal(rolled[..., :8], sample(Sampler(model.diffusion, num_steps=3), batch, TASK, **options))


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
