"""The models that come with the package."""

import json
import math
import pathlib

import pytest

import geotdm_fast
from geotdm_fast.checkpoint import load_checkpoint
from geotdm_fast.cli import main
from geotdm_fast.config.files import read_yaml

FOLDER = pathlib.Path(geotdm_fast.__file__).parent / "checkpoints"
MODELS = sorted(FOLDER.glob("*.safetensors"))
each = pytest.mark.parametrize("path", MODELS, ids=lambda path: path.stem)


def test_there_is_one_for_each_domain():
    kinds = {read_yaml(path.with_suffix(".yaml"))["data"]["test"]["kind"] for path in MODELS}
    assert kinds == {"nbody", "md17", "pedestrian"}


@each
def test_small_complete_and_described(path):
    assert path.stat().st_size < 4e6
    config = load_checkpoint(path)[1]
    assert config == read_yaml(path.with_suffix(".yaml"))
    assert f"`{path.name}`" in (FOLDER / "README.md").read_text()
    losses = [
        row["loss"] for row in map(json.loads, path.with_suffix(".jsonl").read_text().splitlines()) if "loss" in row
    ]
    assert len(losses) > 100 and all(map(math.isfinite, losses))
    assert math.fsum(losses[-20:]) < 0.8 * math.fsum(losses[:20])


@each
def test_as_symmetric_as_float64_is(path, capsys):
    """Network, loss and a short chain."""
    options = ["--precision", "float64", "--steps", "2", "--num-graphs", "2", "--quiet"]
    assert main(["check-equivariance", str(path), *options]) == 0
    assert "equivariant: all" in capsys.readouterr().out
