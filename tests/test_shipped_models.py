"""The models that come with the package."""

import json
import math
import pathlib

import numpy as np
import pytest
import torch
from molecule_frames import ETHANOL, ETHANOL_BONDS, ETHANOL_Z
from places import ROOT

import geotdm_fast
from geotdm_fast.cli import main
from geotdm_fast.config.files import load_config, read_yaml
from geotdm_fast.families import load_checkpoint
from geotdm_fast.paper.simulations import SIMULATIONS

FOLDER = pathlib.Path(geotdm_fast.__file__).parent / "checkpoints"
CONFIGS = ROOT / "configs"
MODELS = sorted(FOLDER.glob("*.safetensors"))
AYS = "ays_ethanol_small"  # check-equivariance is for GeoTDM alone; tests/ays turns its networks
each = pytest.mark.parametrize("path", MODELS, ids=lambda path: path.stem)


def test_there_is_one_for_each_domain():
    kinds = {read_yaml(path.with_suffix(".yaml"))["data"]["test"]["kind"] for path in MODELS}
    assert kinds == {"nbody", "md17", "pedestrian", "npz"}


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


@pytest.mark.parametrize("path", [path for path in MODELS if path.stem != AYS], ids=lambda path: path.stem)
def test_as_symmetric_as_float64_is(path, capsys):
    """Network, loss and a short chain."""
    options = ["--precision", "float64", "--steps", "2", "--num-graphs", "2", "--quiet"]
    assert main(["check-equivariance", str(path), *options]) == 0
    assert "equivariant: all" in capsys.readouterr().out


def test_align_your_structures_draws_ethanol():
    """From one frame near the minimum: bonds stay bonds, and atoms move."""
    given = torch.from_numpy(ETHANOL).float()[None]  # [1, atoms, 3]
    model = geotdm_fast.load(AYS, device="cpu")
    samples = model.forecast(given.numpy(), z=ETHANOL_Z, num_samples=3, method="dpmpp_2m", steps=20, seed=0)
    x = samples.forecasts()[..., 1:]  # [3, atoms, 3, 31]
    first, second = ETHANOL_BONDS.T
    length = np.linalg.norm(x[:, first] - x[:, second], axis=2)
    reference = np.linalg.norm(ETHANOL[first] - ETHANOL[second], axis=1)[None, :, None]
    assert (np.abs(length / reference - 1) < 0.25).all(axis=1).mean() > 0.8
    assert np.linalg.norm(x[..., -1] - x[..., 0], axis=2).mean() > 0.1


# The configurations of models like those that come with the package.
LIKE_SHIPPED = {
    "nbody_charged_small": "nbody_charged_small",
    "md_small": "md_ethanol_small",
    "md_file": "md_ethanol_small",
    "ays_interpolator_small": AYS,
}


@pytest.mark.parametrize("config", LIKE_SHIPPED)
def test_a_configuration_recommends_what_the_shipped_model_like_it_does(config):
    own, shipped = (
        load_config(CONFIGS / f"{config}.yaml"),
        load_checkpoint(FOLDER / f"{LIKE_SHIPPED[config]}.safetensors")[1],
    )
    assert own["sampling"] == shipped["sampling"]
    alike = {
        "denoise_model": ("n_layers", "hidden_dim", "learn_ref_frame", "num_w", "type", "conditioning"),
        "diffusion": ("beta_schedule_name", "num_timesteps", "mode", "model_mean_type"),
        "train": ("cond_mask",),
    }
    for section, keys in alike.items():
        assert [own[section].get(key) for key in keys] == [shipped[section].get(key) for key in keys]


def test_other_configurations_recommend_what_is_known():
    """Liquid argon as its experiment; the rest nothing: the paper draws by all steps, and others are not measured."""
    found = {path.stem: load_config(path).get("sampling") for path in CONFIGS.glob("*.yaml")}
    assert {stem for stem in found if stem in {path.stem for path in MODELS}} <= set(LIKE_SHIPPED)
    assert {stem for stem, section in found.items() if section is not None} == {*LIKE_SHIPPED, "liquid_argon"}
    argon = {"method": "dpmpp_2m", "steps": SIMULATIONS["argon"].steps, "spacing": "uniform"}
    assert found["liquid_argon"] == argon


@pytest.mark.parametrize(
    "name, experiment",
    [
        ("nbody_charged_small", "charged"),
        ("md_ethanol_small", "md:ethanol"),
        ("pedestrian_zara1_small", "zara1"),
        (AYS, "ays:ethanol"),
    ],
)
def test_each_is_drawn_as_its_scores_were(name, experiment):
    """What `geotdm reproduce --preset small` draws by."""
    method, steps = ("dpmpp_2m", SIMULATIONS[experiment].steps if name == AYS else 5)
    model = geotdm_fast.load(name, device="cpu")
    assert model.recommended == {"method": method, "steps": steps, "spacing": "uniform"}
    sampler = model.sampler()
    assert (sampler.method, sampler.num_steps) == (method, steps)
