"""`geotdm reproduce` of molecules of which one frame is given, with tiny sizes: models, stages, rows."""

import json

import numpy as np
import pytest

from geotdm_fast.checkpoint_paths import checkpoint_file
from geotdm_fast.families import load_checkpoint
from geotdm_fast.paper import Request, recipe, reproduce
from geotdm_fast.paper.one_frame import MOLECULES
from geotdm_fast.paper.results import results_table
from geotdm_fast.samples.npz import read_samples
from tests.support.molecule_frames import ETHANOL_Z, motion

STEPS = ("train.num_steps=2", "train.warmup_steps=0", "train.eval_every_step=2", "train.eval_graphs=2")
TINY = ("denoise_model.n_layers=2", "denoise_model.hidden_dim=16", "diffusion.num_timesteps=25", *STEPS)


@pytest.fixture(autouse=True)
def no_pictures(monkeypatch):
    monkeypatch.setattr("geotdm_fast.training.output.Output._draw", lambda self: None)
    monkeypatch.setattr("geotdm_fast.paper.report.pictures", lambda *_, **__: None)


@pytest.fixture(scope="module")
def ethanol(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "ethanol.npz"
    np.savez(path, R=motion(600).astype("f4"), z=ETHANOL_Z.astype("u1"))
    return path


def request(model, path, **about):
    tiny = TINY if model == "geotdm" else (*TINY, *(f"structure.{text}" for text in TINY))
    return Request(f"{model}:ethanol", preset="small", data=str(path), overrides=tiny, num_samples=1, **about)


@pytest.fixture(scope="module")
def rows(ethanol, tmp_path_factory):
    """{model: its row and its folder}"""
    found = {}
    for model in ("ays", "geotdm"):
        out = tmp_path_factory.mktemp(model)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("geotdm_fast.training.output.Output._draw", lambda self: None)
            patch.setattr("geotdm_fast.paper.report.pictures", lambda *_, **__: None)
            found[model] = reproduce(request(model, ethanol), out=out, progress=False), out
    return found


def test_the_interpolator_is_trained_around_the_structure_model_of_its_folder(rows):
    row, out = rows["ays"]
    structure, _ = load_checkpoint(checkpoint_file(str(out / "structure")))
    interpolator, config = load_checkpoint(checkpoint_file(str(out / "train")))
    kept = structure.state_dict()
    found = interpolator.state_dict()
    shared = [name for name in kept if name in found]
    assert shared and all((kept[name] == found[name]).all() for name in shared), "frozen"
    assert config["denoise_model"]["type"] == "interpolator" and config["train"]["cond_mask"] == [[0, 1]]
    assert row["training"]["structure"]["steps"] == row["training"]["steps"] == 2
    assert row["structure"]["denoise_model"]["type"] == "basic_es"
    assert str(out) not in json.dumps(row), "no path of a machine"


def test_both_models_forecast_the_same_frames_and_share_a_table(rows):
    drawn = {model: read_samples(out / "samples_official.npz") for model, (_, out) in rows.items()}
    np.testing.assert_allclose(drawn["ays"].target, drawn["geotdm"].target, atol=1e-5)
    assert drawn["ays"].samples.shape == drawn["geotdm"].samples.shape and drawn["ays"].samples.shape[-1] == 31
    found = [row for row, _ in rows.values()]
    for row in found:
        (ours,) = row["scores"].values()
        assert set(ours["md"]) == {"bonds", "angles", "torsions", "rmsf", "validity"}
        assert set(row["baselines"]) == {"standing_still"}, "one frame has no velocity"
    text = results_table(found)
    assert text.count("## ethanol from one frame, conditional") == 1
    assert "angles (floor) | torsions (floor) | valid frames (floor)" in text
    assert "Align Your Structures, 2 layers of 16" in text and "GeoTDM, 2 layers of 16" in text
    assert "| 2 + 2 steps, " in text
    assert text.count("| standing still |") == 1, "the same frames"
    plain = results_table([row | {"changes": []} for row in found])
    assert "The ADE of ays:ethanol, preset small" in plain and "The ADE of geotdm:ethanol, preset small" in plain


@pytest.mark.parametrize("molecule", MOLECULES)
@pytest.mark.parametrize("model", ["ays", "geotdm"])
def test_the_recipe_of_every_molecule(model, molecule):
    found = recipe(Request(f"{model}:{molecule}", preset="small", data="x.npz"))
    assert found.config["data"]["train"]["span"] == 32 and found.config["data"]["train"]["project"] == "frames"
    assert (found.structure is None) == (model == "geotdm")
    if found.structure is not None:
        assert found.structure["data"]["train"]["span"] == 1
        assert found.structure["denoise_model"]["hidden_dim"] == found.config["denoise_model"]["hidden_dim"]


def test_what_changes_the_data_changes_them_in_both_stages():
    changes = ("data.train.every=3", "structure.data.train.stride=7", "data.test.stride=9")
    found = recipe(Request("ays:ethanol", preset="small", data="x.npz", overrides=changes))
    assert found.config["data"]["train"]["every"] == found.structure["data"]["train"]["every"] == 3
    assert found.config["data"]["train"]["stride"] == 2 and found.structure["data"]["train"]["stride"] == 7
    assert found.structure["data"]["test"]["stride"] == 9
    without = recipe(Request("ays:ethanol", preset="small", data="x.npz", overrides=("data.val=null",)))
    assert set(without.config["data"]) == set(without.structure["data"]) == {"train", "test"}


def test_requests_that_are_wrong(ethanol):
    with pytest.raises(ValueError, match=r"experiment .* got 'ays:water'"):
        recipe(Request("ays:water", preset="small", data=str(ethanol)))
    with pytest.raises(ValueError, match="structure"):
        recipe(Request("geotdm:ethanol", preset="small", data=str(ethanol), overrides=("structure.train.num_steps=2",)))
    with pytest.raises(ValueError, match=r"ays:ethanol needs data: an \.npz"):
        recipe(Request("ays:ethanol", preset="small"))
