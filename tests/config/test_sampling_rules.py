"""The section `sampling`, how a model is best drawn: what it takes, and every refusal by name."""

import pytest
from places import ROOT
from tiny_ays import raw_config
from tiny_models import charged_config

from geotdm_fast.config.files import load_config, normalise_config, portable_config, write_yaml
from geotdm_fast.config.sampling_rules import METHODS, SPACINGS, recommended_sampling
from geotdm_fast.config.settings import manual
from geotdm_fast.diffusion.flow_solvers import FLOW_SOLVERS, FLOW_SPACINGS
from geotdm_fast.diffusion.methods import METHODS as GAUSSIAN_METHODS
from geotdm_fast.diffusion.step_subsets import SPACINGS as GAUSSIAN_SPACINGS

FLOW = {"kind": "flow", "num_timesteps": 25, "prior": "walk"}


def with_sampling(section, diffusion: dict | None = None) -> dict:
    config = charged_config() | {"sampling": section}
    return config | ({"diffusion": diffusion} if diffusion else {})


def test_methods_and_spacings_are_those_that_there_are():
    assert {"gaussian": tuple(GAUSSIAN_METHODS), "flow": tuple(FLOW_SOLVERS)} == METHODS
    assert {"gaussian": tuple(GAUSSIAN_SPACINGS), "flow": tuple(FLOW_SPACINGS)} == SPACINGS


def test_it_is_filled_in_and_kept(tmp_path):
    config = normalise_config(with_sampling({"method": "dpmpp_2m", "steps": 5}))
    assert config["sampling"] == {"method": "dpmpp_2m", "steps": 5, "spacing": "uniform"}
    assert normalise_config(config) == config and portable_config(config)["sampling"] == config["sampling"]
    write_yaml(tmp_path / "a.yaml", config)
    assert load_config(tmp_path / "a.yaml") == config
    changed = load_config(tmp_path / "a.yaml", ["sampling.steps=25", "sampling.spacing=log_snr"])
    assert changed["sampling"] == {"method": "dpmpp_2m", "steps": 25, "spacing": "log_snr"}
    assert "sampling:\n  method" in manual()


def test_it_may_be_left_out():
    assert "sampling" not in normalise_config(with_sampling(None))
    assert "sampling" not in normalise_config(charged_config())
    assert recommended_sampling(charged_config()) is None


def test_another_diffusion_that_is_asked_for_leaves_it_out(tmp_path):
    write_yaml(tmp_path / "a.yaml", with_sampling({"method": "dpmpp_2m", "steps": 5}))
    flow = ["diffusion.kind=flow", "diffusion.prior=walk", "diffusion.model_mean_type=start_x"]
    with pytest.warns(UserWarning, match=r"section sampling is left out: .* diffusion\.kind or mode"):
        assert "sampling" not in load_config(tmp_path / "a.yaml", flow)
    of_a_flow = load_config(tmp_path / "a.yaml", [*flow, "sampling.method=euler", "sampling.spacing=early"])
    assert of_a_flow["sampling"] == {"method": "euler", "steps": 5, "spacing": "early"}
    # What is the same by another name of it stays.
    assert load_config(tmp_path / "a.yaml", ["diffusion.kind=gaussian"])["sampling"]["steps"] == 5
    with pytest.raises(ValueError, match=r"sampling\.method \(of diffusion\.kind flow\) must be one of euler"):
        load_config(tmp_path / "a.yaml", [*flow, "sampling.steps=3"])


@pytest.mark.parametrize("name", ["nbody_charged_small", "md_small"])
def test_a_shipped_configuration_makes_a_flow_by_one_word(name):
    with pytest.warns(UserWarning, match="section sampling is left out"):
        assert "sampling" not in load_config(ROOT / "configs" / f"{name}.yaml", ["diffusion.kind=flow"])


def test_of_a_flow():
    config = normalise_config(with_sampling({"method": "euler", "steps": 5, "spacing": "early"}, FLOW))
    assert config["sampling"] == {"method": "euler", "steps": 5, "spacing": "early"}
    with pytest.raises(ValueError, match=r"here: sampling\.method \(of diffusion\.kind flow\) must be one of euler"):
        normalise_config(with_sampling({"method": "ddpm"}, FLOW), "here")
    with pytest.raises(ValueError, match=r"here: sampling\.spacing \(of diffusion\.kind flow\) must be one of uniform"):
        normalise_config(with_sampling({"method": "heun", "spacing": "log_snr"}, FLOW), "here")


@pytest.mark.parametrize(
    "section, message",
    [
        ("dpmpp_2m", "here: sampling must be a section of keys and values, got str 'dpmpp_2m'"),
        ({"steps": 5}, r"here: sampling: required key 'method'"),
        ({"method": "dpmpp"}, r"sampling\.method \(of diffusion\.kind gaussian\) must be .* did you mean 'dpmpp_2m'"),
        ({"method": "euler"}, r"sampling\.method \(of diffusion\.kind gaussian\) must be one of ddpm, .* got 'euler'"),
        ({"method": "ddim", "spacing": "early"}, r"sampling\.spacing .* must be one of uniform, .* got 'early'"),
        ({"method": "ddim", "steps": 26}, r"here: sampling\.steps must be in 1\.\.25, the model's steps, got 26"),
        ({"method": "ddim", "steps": 0}, r"here: sampling\.steps must be at least 1, got 0"),
        ({"method": "ddim", "step": 5}, "here: sampling: unknown key 'step'; did you mean 'steps'"),
    ],
)
def test_what_is_wrong_is_named(section, message):
    with pytest.raises(ValueError, match=message):
        normalise_config(with_sampling(section), "here")


def test_a_student_has_none():
    config = with_sampling({"method": "ddim", "steps": 1}) | {"distill": {"pairs": "pairs"}}
    config["diffusion"]["calls"] = 1
    with pytest.raises(ValueError, match=r"here: sampling must be left out of a student \(diffusion\.calls\)"):
        normalise_config(config, "here")


def test_of_align_your_structures(tmp_path):
    raw = raw_config(tmp_path) | {"sampling": {"method": "dpmpp_2m", "steps": 4}}
    config = normalise_config(raw)
    assert config["sampling"] == {"method": "dpmpp_2m", "steps": 4, "spacing": "uniform"}
    assert normalise_config(config) == config
    with pytest.raises(ValueError, match=r"here: sampling\.method \(of diffusion\.kind gaussian\) must be one of ddpm"):
        normalise_config(raw | {"sampling": {"method": "euler"}}, "here")
