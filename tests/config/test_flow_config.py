"""Keys of the section `diffusion`: defaults of each kind, and what does not go together, by name."""

import inspect

import pytest
from tiny_training import tiny_config

from geotdm_fast.checkpoint import build_diffusion, build_network
from geotdm_fast.config.diffusion_rules import MEAN_TYPES, PRIORS, SIGMA
from geotdm_fast.config.files import normalise_config
from geotdm_fast.config.settings import DIFFUSION, manual
from geotdm_fast.diffusion import Flow, ModelMeanType, priors
from geotdm_fast.diffusion.flow import PREDICTIONS
from geotdm_fast.diffusion.flow_priors import FLOW_PRIORS


def config_of(diffusion: dict, network: dict | None = None, **train) -> dict:
    config = tiny_config()
    config["diffusion"] = {"num_timesteps": 25} | diffusion
    config["denoise_model"] |= network or {}
    config["train"] |= train
    return normalise_config(config)


def test_defaults():
    gaussian = config_of({})["diffusion"]
    assert (gaussian["kind"], gaussian["model_mean_type"], gaussian["sigma"]) == ("gaussian", "epsilon", None)
    flow = config_of({"kind": "flow"})["diffusion"]
    assert (flow["model_mean_type"], flow["sigma"], flow["prior"]) == ("start_x", 1.0, None)
    assert config_of({"kind": "flow"}) == normalise_config(config_of({"kind": "flow"}))


def test_what_goes_with_each_kind_is_said_alike_everywhere():
    """By the keys, which import no torch, and by the classes that take the values."""
    assert set(MEAN_TYPES) == set(PRIORS) == set(DIFFUSION["kind"].choices)
    assert set(MEAN_TYPES["flow"]) == set(PREDICTIONS) and MEAN_TYPES["flow"][0] == PREDICTIONS[0]
    assert set(MEAN_TYPES["gaussian"]) == {member.name.lower() for member in ModelMeanType}
    assert set(PRIORS["flow"]) == set(FLOW_PRIORS)
    assert set(PRIORS["gaussian"]) == set(priors.PRIORS)
    every = lambda table: {name for names in table.values() for name in names}
    assert set(DIFFUSION["prior"].choices) == every(PRIORS)
    assert set(DIFFUSION["model_mean_type"].choices) == every(MEAN_TYPES)
    defaults = {name: value.default for name, value in inspect.signature(Flow).parameters.items()}
    assert (defaults["prediction"], defaults["sigma"]) == (MEAN_TYPES["flow"][0], SIGMA)


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"sigma": 0.1}, ": diffusion.sigma is of diffusion.kind flow, got it for kind gaussian"),
        (
            {"kind": "gaussian", "time_power": 2.0},
            ": diffusion.time_power is of diffusion.kind flow, got",
        ),
        (
            {"kind": "flow", "beta_schedule_name": "cosine"},
            ": diffusion.beta_schedule_name does not go with diffusion.kind flow, got cosine",
        ),
        (
            {"kind": "flow", "model_var_type": "fixed_small"},
            ": diffusion.model_var_type does not go with diffusion.kind flow, got fixed_small",
        ),
    ],
)
def test_a_key_of_the_other_kind_is_not_ignored_where_a_diffusion_is_built(section, message):
    """Of a configuration that nobody normalised."""
    config = config_of({})
    network, known = build_network(config), {"num_timesteps": 25, "beta_schedule_name": "linear"}
    with pytest.raises(ValueError, match=message):
        build_diffusion(network, {"diffusion": known | section})
    empty = {"sigma": None, "time_power": None}
    assert type(build_diffusion(network, {"diffusion": known | empty})).__name__ == "GeoTDM"


@pytest.mark.parametrize(("learned", "prior"), [(True, "learned"), (False, "walk")])
def test_the_prior_of_a_flow_follows_from_the_network(learned, prior):
    config = config_of({"kind": "flow", "num_timesteps": 3}, {"learn_ref_frame": learned})
    assert build_diffusion(build_network(config), config).prior == prior


@pytest.mark.parametrize(
    ("diffusion", "train", "message"),
    [
        ({"kind": "flux"}, {}, "diffusion.kind must be one of gaussian, flow; got 'flux'"),
        ({"sigma": 0.1}, {}, "diffusion.sigma is of diffusion.kind flow, got it for kind gaussian"),
        ({"time_power": 2.0}, {}, "diffusion.time_power is of diffusion.kind flow, got it for kind gaussian"),
        ({"kind": "flow", "time_power": 0}, {}, "diffusion.time_power must be above 0, got 0"),
        ({"prior": "walk"}, {}, "diffusion.prior must be one of learned, com, com_last, last_frame, none for"),
        ({"model_mean_type": "velocity"}, {}, "model_mean_type must be one of epsilon, start_x, previous_x for"),
        ({"kind": "flow", "model_mean_type": "epsilon"}, {}, "must be one of start_x, velocity, displacement for"),
        ({"kind": "flow", "prior": "com"}, {}, "must be one of learned, last_frame, walk, velocity for diffusion.kind"),
        ({"kind": "flow", "sigma": 0}, {}, "diffusion.sigma must be above 0, got 0"),
        ({"kind": "flow", "sigma": -1}, {}, "diffusion.sigma must be at least 0, got -1"),
        ({"kind": "flow", "beta_schedule_name": "cosine"}, {}, "beta_schedule_name does not go with"),
        ({"kind": "flow", "model_var_type": "fixed_small"}, {}, "model_var_type does not go with"),
        ({"kind": "flow"}, {"eval": "nll"}, "train.eval nll does not go with diffusion.kind flow"),
        ({"kind": "flow"}, {"nll_every_step": 5}, "train.nll_every_step does not go with diffusion.kind flow"),
        (
            {"kind": "flow", "mode": "uncond", "prior": "walk"}, {"cond_mask": None, "tot_len": 6},
            "diffusion.prior of a flow must be left out with diffusion.mode uncond",
        ),
        ({"num_timesteps": 3}, {}, "num_steps must be at least 21 for 'linear', got 3"),
    ],
)  # fmt: skip
def test_what_does_not_go_together(diffusion, train, message):
    with pytest.raises(ValueError) as error:
        config_of(diffusion, **train)
    assert message in str(error.value)


def test_a_flow_that_learns_its_prior_needs_the_network_for_it():
    with pytest.raises(ValueError, match=r"diffusion.prior learned needs denoise_model.learn_ref_frame true"):
        config_of({"kind": "flow", "prior": "learned"}, {"learn_ref_frame": False})


def test_the_manual_lists_the_keys():
    text = manual()
    assert "  kind " in text and "  sigma " in text and "walk" in text


@pytest.mark.parametrize(
    ("key", "value"), [("kind", "flux"), ("sigma", "wide"), ("sigma", -1.0), ("model_mean_type", "x")]
)
def test_a_damaged_checkpoint_is_refused_by_name(key, value):
    config = config_of({"kind": "flow"})
    config["diffusion"][key] = value
    with pytest.raises((ValueError, TypeError), match=key):
        build_diffusion(build_network(config), config)
