"""`geotdm sample --given`: forecasts whose future nobody knows."""

import numpy as np
import pytest
from tiny_models import ETHANOL, charged_config, ethanol_config, write_checkpoint, write_ethanol

from geotdm_fast.cli import main
from geotdm_fast.samples.npz import read_samples


@pytest.fixture
def checkpoint(tmp_path):
    """A model of ethanol that is given 4 frames and draws 16; a file of 7 frames."""
    write_ethanol(tmp_path / "ethanol.npz")
    with np.load(tmp_path / "ethanol.npz") as file:
        np.savez(tmp_path / "seen.npz", R=file["R"][:7], z=file["z"])
    return write_checkpoint(tmp_path / "model.safetensors", ethanol_config(tmp_path / "ethanol.npz", "cond"))


def test_the_last_frames_are_given(checkpoint, tmp_path, capsys):
    out = tmp_path / "future.npz"
    command = ["sample", checkpoint, "--given", str(tmp_path / "seen.npz"), "--num-samples", "3", "--out", str(out)]
    assert main([*command, "--quiet"]) == 0
    samples = read_samples(out)
    assert samples.samples.shape == (3, 9, 3, 16) and samples.num_graphs == 1
    assert samples.target.shape == (9, 3, 0) and np.isfinite(samples.samples).all()
    with np.load(tmp_path / "seen.npz") as file:
        np.testing.assert_allclose(samples.x_given, file["R"][-4:].transpose(1, 2, 0), atol=1e-6)
    capsys.readouterr()
    assert main(["evaluate", str(out)]) == 2
    assert "there is no truth in these samples" in capsys.readouterr().err
    assert main(["plot", str(out), "--out", str(tmp_path / "future.png"), "--quiet"]) == 0
    assert main(["inspect", str(out)]) == 0
    assert "truth       none: the future of the given frames is unknown" in capsys.readouterr().out


def test_the_same_forecast_as_with_the_truth_beside_it(checkpoint, tmp_path):
    """What is drawn does not depend on frames that are not given."""
    own = ["--out", str(tmp_path / "a.npz"), "--quiet", "--num-graphs", "1"]
    keys = ["--set", "data.kind=npz", "--set", f"data.path={tmp_path / 'ethanol.npz'}", "--set", "data.cutoff=1.6"]
    assert main(["sample", checkpoint, *keys, "--set", "data.span=20", *own]) == 0
    with np.load(tmp_path / "ethanol.npz") as file:
        np.savez(tmp_path / "first.npz", R=file["R"][:4], z=file["z"])
    own[1] = str(tmp_path / "b.npz")
    assert main(["sample", checkpoint, "--given", str(tmp_path / "first.npz"), *own]) == 0
    a, b = (read_samples(tmp_path / name) for name in ("a.npz", "b.npz"))
    np.testing.assert_array_equal(a.x_given, b.x_given)
    np.testing.assert_allclose(a.samples, b.samples, atol=1e-5)


def test_a_folder_of_shards(checkpoint, tmp_path):
    out = tmp_path / "future"
    assert main(["sample", checkpoint, "--given", str(tmp_path / "seen.npz"), "--out", str(out), "--quiet"]) == 0
    assert read_samples(out).target.shape[-1] == 0


def test_particles(tmp_path):
    model = write_checkpoint(tmp_path / "charged.safetensors", charged_config())
    simulated = ["simulate", "charged", "--num-systems", "3", "--num-frames", "6", "--out", str(tmp_path / "x.npz")]
    assert main([*simulated, "--quiet"]) == 0
    command = ["sample", model, "--given", str(tmp_path / "x.npz"), "--out", str(tmp_path / "s.npz"), "--quiet"]
    assert main(command) == 0
    samples = read_samples(tmp_path / "s.npz")
    with np.load(tmp_path / "x.npz") as file:
        given = file["x"][:, -4:].transpose(0, 2, 3, 1).reshape(15, 3, 4)
    np.testing.assert_allclose(samples.x_given, given, rtol=1e-6)


def test_what_does_not_go(checkpoint, tmp_path, capsys):
    out = ["--out", str(tmp_path / "s.npz"), "--quiet"]
    np.savez(tmp_path / "short.npz", R=np.random.default_rng(0).normal(size=(3, 9, 3)), z=ETHANOL)
    generator = write_checkpoint(tmp_path / "uncond.safetensors", ethanol_config(tmp_path / "ethanol.npz"))
    seen = ["--given", str(tmp_path / "seen.npz")]
    for words, message in (
        ([checkpoint, "--given", str(tmp_path / "short.npz")], "must have the 4 given frames, got 3"),
        ([checkpoint, *seen, "--data", str(tmp_path / "seen.npz")], "--data does not go with it"),
        ([checkpoint, *seen, "--split", "val"], "--split does not go with it"),
        ([checkpoint, "--given", str(tmp_path / "none.npz")], "none.npz: no such file"),
        ([generator, *seen], "--given needs a conditional model"),
    ):
        assert main(["sample", *words, *out]) == 2
        assert message in capsys.readouterr().err
