"""The demonstration, with a tiny model in place of the shipped one."""

import json

import pytest
from PIL import Image
from tiny_models import charged_config, write_checkpoint

from geotdm_fast.cli import demo
from geotdm_fast.config.files import normalise_config


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """Ten given frames and twenty to predict, as the demonstration has them."""
    config = charged_config(cond_mask=[[0, 10]])
    for section in config["data"].values():
        section["num_frames"] = 30
    config["denoise_model"]["num_w"] = 20
    return write_checkpoint(tmp_path_factory.mktemp("demo") / "tiny.safetensors", normalise_config(config))


def run(checkpoint, out, *more):
    return demo.main(["--checkpoint", checkpoint, "--num-systems", "3", "--num-samples", "2", "--out", str(out), *more])


def test_files_and_table(checkpoint, tmp_path, capsys):
    code = run(checkpoint, tmp_path / "out", "--device", "cpu")
    text = capsys.readouterr().out
    scores = json.loads((tmp_path / "out" / "scores.json").read_text())
    forecast, velocity = scores["forecast"]["ade_mean"], scores["baselines"]["constant_velocity"]["ade"]
    assert code == (0 if forecast < velocity else 1)
    for words in ("forecast, mean of 2 samples", "standing still", "constant velocity", "0.110", "0.258", "together"):
        assert words in text
    assert "a bigger model, trained longer" in text
    assert "parameters, 25 steps" in text  # nothing is recommended, so all are drawn
    assert f"{forecast:.3f}" in text and f"{velocity:.3f}" in text
    with Image.open(tmp_path / "out" / "forecast.png") as picture:
        assert picture.size == (1395, 600)
    with Image.open(tmp_path / "out" / "forecast.gif") as movie:
        assert movie.n_frames == 30
    assert (tmp_path / "out" / "forecast.html").stat().st_size > 10_000


def test_verdict(capsys):
    scores = lambda ours: {"forecast": {"ade_mean": ours}, "baselines": {"constant_velocity": {"ade": 0.5}}}
    assert demo._verdict(scores(0.2)) == 0
    assert demo._verdict(scores(0.6)) == 1
    assert "(ADE 0.600) does not beat constant velocity (0.500)" in capsys.readouterr().err


def test_errors_are_one_line(tmp_path, capsys):
    assert run(str(tmp_path / "none.safetensors"), tmp_path) == 2
    error = capsys.readouterr().err
    assert error.startswith("demo: error:") and "no such file" in error and error.count("\n") == 1
