"""One model of several lags, from a configuration to samples: what is recorded, told, refused and extrapolated."""

import copy
import json

import numpy as np
import pytest
from tiny_training import log_of, tiny_config

import geotdm_fast
from geotdm_fast.cli import main
from geotdm_fast.config.files import normalise_config
from geotdm_fast.data import collate, nbody_dataset
from geotdm_fast.data.conditions import with_conditions
from geotdm_fast.samples.npz import read_samples
from geotdm_fast.training import train


@pytest.fixture(scope="module", autouse=True)
def no_pictures():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("geotdm_fast.training.output.Output._draw", lambda self: None)
        yield


def config(**conditions) -> dict:
    """Six systems at two lags, told these; by default by how far their frames are apart."""
    made = tiny_config(num_steps=4, checkpoint_every_steps=None, ema_decay=0.0)
    made["diffusion"]["model_mean_type"] = "start_x"  # a chain of wrong noise runs away
    made["data"]["test"] = copy.deepcopy(made["data"]["val"]) | {"split": "test"}
    told = {"conditions": conditions} if conditions else {"every": [1, 2], "conditions": {"lag": "time"}}
    for section in made["data"].values():
        section |= copy.deepcopy(told)
    return normalise_config(made)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("told") / "run"
    train(config(), output_dir=folder, device="cpu", progress=False)
    return folder


@pytest.fixture(scope="module")
def model(run):
    return geotdm_fast.load(run)


def data(every=1, **more):
    about = {"num_systems": 2, "num_frames": 6, "every": every, "progress": False}
    return nbody_dataset("charged", "test", **about | more)


FAST = {"method": "ddim", "steps": 2}


def test_a_checkpoint_records_names_and_ranges(model, run, tmp_path):
    assert model.conditions.as_config() == {"lag": [0.1, 0.2]}
    assert model.config["denoise_model"]["conditions"] == {"lag": [0.1, 0.2]}
    model.save(tmp_path / "again.safetensors")
    again = geotdm_fast.load(tmp_path / "again.safetensors")
    assert again.conditions == model.conditions
    told = {"conditions": {"lag": 0.2}}
    mine, theirs = (m.forecast(data(2), **told, **FAST).samples for m in (model, again))
    assert np.array_equal(mine, theirs)


def test_a_run_goes_on_and_is_the_same(run, tmp_path):
    begun = config()
    begun["train"]["num_steps"] = 2
    train(begun, output_dir=tmp_path / "run", device="cpu", progress=False)
    train(config(), output_dir=tmp_path / "run", device="cpu", progress=False)
    mine, theirs = ((folder / "last.safetensors").read_bytes() for folder in (run, tmp_path / "run"))
    assert mine == theirs and log_of(tmp_path / "run")
    other = config(lag=[0.1, 0.3])
    with pytest.raises(ValueError, match=r"data.train.every must be \[1, 2\] as when the run began"):
        train(other, output_dir=tmp_path / "run", device="cpu", progress=False)


def test_a_forecast_is_told(model):
    at = lambda lag, **more: model.forecast(data(), conditions={"lag": lag}, **FAST, **more)
    one, two = at(0.1), at([0.1, 0.2])
    assert one.conditions.tolist() == [[np.float32(0.1)]] * 2 and one.condition_names.tolist() == ["lag"]
    nodes = one.nodes(0)
    assert np.array_equal(one.samples[:, nodes], two.samples[:, nodes]), "the graph of the same lag"
    assert np.abs(one.samples - two.samples)[:, one.nodes(1)].max() > 1e-5
    assert np.array_equal(model.forecast(with_conditions(data(), {"lag": 0.1}), **FAST).samples, one.samples)
    with pytest.raises(
        ValueError, match=r"forecast: the condition lag must be in the trained range 0.1 ... 0.2, got 0.3"
    ):
        at(0.3)
    assert np.isfinite(at(0.3, extrapolate=True).samples).all()
    rolled = model.rollout(data(), 5, conditions={"lag": 0.1}, **FAST)
    assert np.array_equal(rolled.samples[..., :3], one.samples) and rolled.conditions.shape == (2, 1)
    other = model.rollout(data(), 5, conditions={"lag": 0.2}, **FAST)
    assert np.abs(other.samples - rolled.samples)[..., 3:].max() > 1e-5
    found = [float(model.likelihood(data(), conditions={"lag": lag}).sum()) for lag in (0.1, 0.2)]
    assert found[0] != found[1] and np.isfinite(found).all()
    batch = collate(data())
    assert float(model.likelihood(batch, conditions={"lag": 0.2}).sum()) == found[1]
    with pytest.raises(ValueError, match=r"likelihood: the condition lag must be in the trained range .* got 0.3"):
        model.likelihood(batch, conditions={"lag": 0.3})
    assert model.likelihood(batch, conditions={"lag": 0.3}, extrapolate=True).isfinite().all()
    with pytest.raises(ValueError, match="likelihood: the condition lag must be in the trained range"):
        model.likelihood(collate(with_conditions(data(), {"lag": 0.3})))
    with pytest.raises(ValueError, match="likelihood: the condition lag is missing"):
        model.likelihood(batch)
    with pytest.raises(TypeError, match="likelihood: z must come with positions"):
        model.likelihood(collate(with_conditions(data(), {"lag": 0.1})), z=[1] * 5)


@pytest.mark.parametrize(
    ("conditions", "message"),
    [
        (None, r"forecast: the condition lag is missing; --set conditions.lag=\.\.\."),
        ({"temperature": 300, "lag": 0.1}, "forecast: unknown condition 'temperature', the model is told lag"),
        ({"lag": float("nan")}, "forecast: the condition lag must be finite, got NaN or Inf"),
        ({"lag": "long"}, "forecast: the condition lag must be a number"),
    ],
)
def test_what_a_forecast_refuses(model, conditions, message):
    with pytest.raises(ValueError, match=message):
        model.forecast(data(), conditions=conditions, **FAST)


def test_a_model_that_is_told_nothing():
    untold = geotdm_fast.load("nbody_charged_small")
    assert untold.conditions is None
    with pytest.raises(ValueError, match="forecast: the model is told no conditions, got lag; leave them out"):
        untold.forecast(data(num_frames=30), conditions={"lag": 0.1})


def sampled(run, tmp_path, *options) -> "tuple[int, object]":
    out = tmp_path / "samples.npz"
    out.unlink(missing_ok=True)
    words = ["sample", str(run), "--method", "ddim", "--steps", "2", "--quiet", "--out", str(out), *options]
    status = main(words)
    return status, read_samples(out) if out.exists() else None


def test_the_command_line(run, model, tmp_path, capsys):
    status, both = sampled(run, tmp_path)
    assert status == 0 and both.conditions.shape == (6, 1) and both.num_graphs == 6
    status, long = sampled(run, tmp_path, "--set", "conditions.lag=0.2")
    assert status == 0 and long.num_graphs == 3 and set(long.conditions[:, 0]) == {np.float32(0.2)}
    assert np.array_equal(long.target, both.target[both.batch >= 3]), "windows are cut at the lag"
    assert np.abs(long.samples - both.samples[:, both.batch >= 3]).max() > 0  # other numbers of graphs, other noise
    expected = model.forecast(data(2, num_systems=3), conditions={"lag": 0.2}, **FAST).samples
    np.testing.assert_allclose(long.samples, expected, atol=1e-5)
    status, none = sampled(run, tmp_path, "--set", "conditions.lag=0.3")
    assert status != 0 and none is None
    assert "the condition lag must be in the trained range 0.1 ... 0.2, got 0.3" in capsys.readouterr().err
    status, far = sampled(run, tmp_path, "--set", "conditions.lag=0.3", "--extrapolate")
    assert status == 0 and np.array_equal(far.target, read(data(3, num_systems=3)))
    for text, message in (
        ("conditions.lag=0.25", "conditions.lag must be a whole number of the file's frames"),
        ("conditions.heat=1", "unknown condition 'heat', the model is told lag"),
        ("conditions.lag=often", "conditions.lag must be a finite number"),
    ):
        assert sampled(run, tmp_path, "--set", text)[0] != 0
        assert message in capsys.readouterr().err


def read(dataset) -> np.ndarray:
    """The frames to draw of every trajectory."""
    return np.concatenate([item.x.numpy() for item in dataset])[..., 3:]


def test_a_folder_of_shards_says_what_was_told(run, tmp_path):
    words = ["sample", str(run), "--method", "ddim", "--steps", "2", "--quiet", "--shard-size", "2"]
    assert main([*words, "--out", str(tmp_path / "a"), "--set", "conditions.lag=0.2"]) == 0
    request = json.loads((tmp_path / "a" / "manifest.json").read_text())["request"]
    assert request["conditions"] == {"lag": [0.2, 0.2]}
    assert main([*words, "--out", str(tmp_path / "b")]) == 0
    shards = read_samples(tmp_path / "b")
    assert shards.conditions[:, 0].tolist() == pytest.approx([0.1] * 3 + [0.2] * 3)
    assert shards.condition_names.tolist() == ["lag"]
    assert main([*words, "--out", str(tmp_path / "a"), "--set", "conditions.lag=0.1"]) != 0, "another request"


def test_samples_with_other_conditions_than_graphs(run, tmp_path):
    _, samples = sampled(run, tmp_path)
    path = tmp_path / "samples.npz"
    with np.load(path) as archive:
        arrays = dict(archive)
    for change, message in (
        ({"conditions": samples.conditions[:2]}, r"conditions must be \[6, 1\], got \[2, 1\]"),
        ({"conditions": samples.conditions * np.nan}, "conditions must be finite floating point"),
        ({"condition_names": np.array([3])}, r"condition_names must be texts \[C\], got int64 \[1\]"),
        ({"conditions": None}, "conditions and condition_names must come together, got no conditions"),
    ):
        kept = {name: value for name, value in (arrays | change).items() if value is not None}
        np.savez(tmp_path / "wrong.npz", **kept)
        with pytest.raises(ValueError, match=message):
            read_samples(tmp_path / "wrong.npz")


def test_frames_are_counted_where_the_training_did(tmp_path, capsys):
    made = config()
    for section in made["data"].values():
        section["conditions"] = {"lag": "frames"}
    train(made, output_dir=tmp_path / "run", device="cpu", progress=False)
    assert geotdm_fast.load(tmp_path / "run").conditions.as_config() == {"lag": [1.0, 2.0]}
    status, two = sampled(tmp_path / "run", tmp_path, "--set", "conditions.lag=2")
    assert (
        status == 0 and set(two.conditions[:, 0]) == {2.0} and np.array_equal(two.target, read(data(2, num_systems=3)))
    )
    for lag in ("0.5", ".inf", ".nan"):
        assert sampled(tmp_path / "run", tmp_path, "--set", f"conditions.lag={lag}")[0] != 0
        assert "--set conditions.lag: data.test counts frames, it must be a whole number" in capsys.readouterr().err


def test_stated_ranges_hold_the_data(tmp_path):
    wide = config()
    wide["denoise_model"]["conditions"] = {"lag": [0.05, 1]}
    train(wide, output_dir=tmp_path / "wide", device="cpu", progress=False)
    assert geotdm_fast.load(tmp_path / "wide").conditions.as_config() == {"lag": [0.05, 1.0]}
    for stated, message in (
        ({"lag": [0.1, 0.15]}, "data.train .*: the condition lag must be in the trained range 0.1 ... 0.15, got 0.2"),
        ({"heat": [0, 1]}, "data.train .*: the condition heat is missing"),
    ):
        wrong = config()
        wrong["denoise_model"]["conditions"] = stated
        with pytest.raises(ValueError, match=message):
            train(wrong, output_dir=tmp_path / "wrong", device="cpu", progress=False)
    other = config()
    other["data"]["val"]["conditions"] = {"temperature": 3}
    other["data"]["val"]["every"] = 1
    with pytest.raises(ValueError, match=r"data.val .*: the condition lag is missing"):
        train(other, output_dir=tmp_path / "wrong", device="cpu", progress=False)
