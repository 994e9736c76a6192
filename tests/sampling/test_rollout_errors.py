"""Rollouts that are refused, and trajectories that explode."""

import warnings

import numpy as np
import pytest
import torch
from tiny_rollouts import CONFIG, GIVEN, TASK, WINDOW, model_of, steady_config, systems

from geotdm_fast.config.files import normalise_config
from geotdm_fast.data import Trajectory, collate
from geotdm_fast.diffusion import Sampler
from geotdm_fast.diffusion.noise import block_key
from geotdm_fast.sampling import Rollout, roll_out
from geotdm_fast.task import Task


@pytest.fixture(scope="module")
def model():
    return model_of(CONFIG)


@pytest.fixture(scope="module")
def dataset():
    return systems()


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
