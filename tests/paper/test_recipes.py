"""What each experiment of `geotdm reproduce` is: settings, data and draws by request, and what is refused."""

import numpy as np
import pytest
from straight_walkers import write_recordings
from tiny_models import write_ethanol

from geotdm_fast.config.files import normalise_config
from geotdm_fast.data.pedestrian import pedestrian_windows
from geotdm_fast.paper import Request, recipe


def test_another_option_is_another_request():
    """Else the table, which shows the newest row of a request, would hide one of them."""
    assert Request("charged").changes == ()
    how = {"every": 5, "num_samples": 3, "method": "ddim", "steps": 7, "spacing": "log_snr"}
    options = ("--every 5", "--num-samples 3", "--method ddim", "--steps 7", "--spacing log_snr")
    assert Request("charged", seed=2).changes == ("--seed 2",)
    assert Request("md:uracil", overrides=("train.lr=1",), **how).changes == ("train.lr=1", *options)


def test_pedestrians_are_validated_on_other_scenes(tmp_path):
    write_recordings(tmp_path, validation=True)
    section = recipe(Request("zara1", data=str(tmp_path))).config["data"]["val"]
    assert (section["phase"], section["dataset"], section["traj_scale"]) == ("validation", "zara1", 1)
    windows = lambda phase: pedestrian_windows(tmp_path, "zara1", phase)[0]
    assert len(windows("validation")) == 12, "of a_val.txt alone, not of the scene itself"
    assert not np.array_equal(windows("validation"), windows("training"))
    (tmp_path / "val" / "a_val.txt").unlink()
    assert "val" not in recipe(Request("zara1", data=str(tmp_path))).config["data"]


def test_the_papers_settings(tmp_path):
    for system in ("charged", "springs", "gravity"):
        config = recipe(Request(system)).config
        network, train = config["denoise_model"], config["train"]
        assert (network["n_layers"], network["hidden_dim"], network["time_emb_dim"]) == (6, 128, 32)
        assert (train["batch_size"], train["lr"], train["clip"], train["num_epochs"]) == (128, 1e-4, 1.0, 4000)
        assert (train["optimizer"], train["weight_decay"]) == ("adam", 0.0)
        assert train["ema_decay"] == 0 and config["diffusion"]["num_timesteps"] == 1000
        assert config["diffusion"]["model_mean_type"] == "epsilon"
        assert [config["data"][split]["num_systems"] for split in ("train", "test")] == [3000, 2000]
    write_recordings(tmp_path)
    plan = recipe(Request("eth", data=str(tmp_path)))
    config = plan.config
    assert (config["denoise_model"]["n_layers"], config["denoise_model"]["hidden_dim"]) == (4, 64)
    assert config["denoise_model"]["pre_norm"] and config["diffusion"]["rescale_timesteps"]
    assert (config["train"]["lr"], config["train"]["lr_decay"], config["train"]["lr_decay_every"]) == (5e-4, 0.8, 10)
    assert (config["train"]["batch_size"], config["train"]["num_epochs"]) == (100, 100)
    assert config["data"]["test"]["traj_scale"] == 1.4 and config["data"]["train"]["traj_scale"] == 1
    assert [(draw.num_samples, draw.kmeans) for draw in plan.draws] == [(20, None), (60, 20)]
    np.savez(tmp_path / "md17_uracil.npz", R=np.zeros((3, 2, 3)), z=np.ones(2))
    config = recipe(Request("md:uracil", task="unconditional", data=str(tmp_path))).config
    assert config["data"]["train"]["down_sample_every"] == 10 and config["train"]["num_epochs"] == 8000
    assert config["data"]["train"]["project"] and not config["denoise_model"]["learn_ref_frame"]
    assert recipe(Request("md:uracil", data=str(tmp_path))).data == "md17_uracil.npz, by its name MD17"


def test_the_small_presets_settings():
    """What bench/NOTES.md found: Adam at a small rate where systems are learnt by heart, few steps of sampling.

    Forecasts of bodies learn by Muon, from all windows of a system.
    """
    settings = lambda plan: (plan.config["train"]["optimizer"], plan.config["train"]["lr"], plan.method, plan.steps)
    small = lambda *request: recipe(Request(*request, preset="small"))
    assert settings(small("charged", "interpolation")) == ("adam", 1e-3, "dpmpp_2m", 5)
    assert settings(small("charged")) == settings(small("springs")) == ("muon", 3e-3, "dpmpp_2m", 5)
    assert settings(small("charged", "unconditional")) == ("muon", 3e-3, "dpmpp_2m_sde", 100)
    gravity = small("gravity")
    assert settings(gravity) == ("muon", 5e-3, "dpmpp_2m", 2)
    strides = lambda plan: [plan.config["data"][split].get("stride") for split in ("train", "val", "test")]
    assert strides(small("charged")) == strides(gravity) == [1, None, None]
    assert strides(small("gravity", "interpolation")) == strides(recipe(Request("charged"))) == [None] * 3
    assert gravity.num_graphs is None and small("charged").num_graphs == 200, "gravity: all test systems"
    assert small("charged", "unconditional").num_graphs is None and small("springs", "unconditional").num_graphs == 500


@pytest.mark.parametrize(
    ("request_", "error", "message"),
    [
        (Request("chargd"), ValueError, r"experiment \(or md:<molecule>\) must be one of .*did you mean 'charged'"),
        (Request("md:"), ValueError, "md: must name a molecule, as in md:ethanol"),
        (Request("ethanol"), ValueError, "experiment must be md:ethanol for the molecule of that name"),
        (
            Request("charged", task="forecast"),
            ValueError,
            "task must be one of conditional, unconditional, interpolation",
        ),
        (Request("charged", preset="tiny"), ValueError, "preset must be one of paper, small; got 'tiny'"),
        (Request("eth", task="unconditional", data="d"), ValueError, "pedestrians have the task conditional alone"),
        (Request("eth"), ValueError, "eth needs data: the folder of the recordings"),
        (Request("md:ethanol"), ValueError, "md:ethanol needs data: a folder with md17_ethanol.npz, or an .npz"),
        (Request("md:ethanol", data="nowhere"), FileNotFoundError, "neither nowhere/md17_ethanol.npz nor nowhere/eth"),
        (Request("charged", data="nowhere"), FileNotFoundError, "nowhere must hold loc_train_charged5_initvel1.npy"),
        (Request("charged", every=2), ValueError, "every is of molecules alone"),
        (Request("charged", method="euler"), ValueError, "method must be one of ddpm, ddim, .* got 'euler'"),
        (Request("charged", spacing="even"), ValueError, "spacing must be one of uniform, .* got 'even'"),
        (Request("charged", overrides=("train.lrr=1",)), ValueError, "unknown key 'lrr'"),
    ],
)
def test_requests_that_are_wrong(request_, error, message):
    with pytest.raises(error, match=message):
        recipe(request_)


def test_small_presets_draw_in_few_steps(tmp_path):
    write_recordings(tmp_path)
    drawn = lambda **changes: recipe(Request(**({"experiment": "charged", "preset": "small"} | changes)))[4:6]
    assert drawn() == ("dpmpp_2m", 5) and drawn(task="unconditional") == ("dpmpp_2m_sde", 100)
    assert drawn(experiment="eth", data=str(tmp_path)) == ("dpmpp_2m", 5)
    assert drawn(preset="paper") == ("ddpm", None) and drawn(method="ddim", steps=7) == ("ddim", 7)
    assert drawn(steps=10) == ("dpmpp_2m", 10)
    assert drawn(overrides=("diffusion.num_timesteps=4", "diffusion.beta_schedule_name=cosine")) == ("dpmpp_2m", 4)
    with pytest.raises(ValueError, match=r"steps must be in 1..100, the model's steps, got 101"):
        drawn(steps=101)


def test_small_presets_say_how_they_are_drawn(tmp_path):
    """The checkpoint recommends what its scores are made with; the paper's has nothing to say."""
    said = lambda **changes: recipe(Request(**({"experiment": "charged", "preset": "small"} | changes))).config.get(
        "sampling"
    )
    assert said() == {"method": "dpmpp_2m", "steps": 5, "spacing": "uniform"}
    assert said(experiment="gravity")["steps"] == 2
    assert said(task="unconditional") == {"method": "dpmpp_2m_sde", "steps": 100, "spacing": "uniform"}
    assert said(method="ddim", spacing="quadratic") == {"method": "ddim", "steps": None, "spacing": "quadratic"}
    assert said(overrides=("diffusion.kind=flow", "diffusion.prior=walk")) == {
        "method": "euler", "steps": 5, "spacing": "early"
    }  # fmt: skip
    assert said(overrides=("diffusion.num_timesteps=4", "diffusion.beta_schedule_name=cosine"))["steps"] == 4
    assert said(preset="paper") is None
    for preset in ("small", "paper"):
        with pytest.raises(ValueError, match=r"by --method, --steps and --spacing, got 'sampling\.steps=3'"):
            said(overrides=("sampling.steps=3",), preset=preset)
    write_ethanol(tmp_path / "ethanol.npz")
    two_stages = recipe(Request("ays:ethanol", preset="small", data=str(tmp_path / "ethanol.npz")))
    assert two_stages.config["sampling"]["steps"] == 20 and "sampling" not in two_stages.structure
    for plan in (recipe(Request("charged", preset="small")), two_stages):
        assert normalise_config(plan.config) == plan.config


def test_flows_are_drawn_by_their_own_solvers():
    flow = ("diffusion.kind=flow", "diffusion.prior=walk")
    drawn = lambda **options: recipe(Request("charged", preset="small", overrides=flow, **options))[4:7]
    assert drawn() == ("euler", 5, "early") and drawn(method="heun", steps=7) == ("heun", 7, "uniform")
    assert drawn(spacing="quadratic") == ("euler", 5, "quadratic")
    config = recipe(Request("charged", preset="small", overrides=flow)).config
    assert not config["denoise_model"]["learn_ref_frame"] and config["diffusion"]["model_mean_type"] == "start_x"
    for options, message in (
        ({"method": "dpmpp_2m"}, "reproduce: method must be one of euler, heun, ab2; got 'dpmpp_2m'"),
        ({"spacing": "log_snr"}, "reproduce: spacing must be one of uniform, quadratic, early; got 'log_snr'"),
    ):
        with pytest.raises(ValueError, match=message):
            drawn(**options)
    uncond = recipe(Request("charged", "unconditional", "small", overrides=flow[:1]))
    assert uncond[4:7] == ("euler", 100, "uniform")
