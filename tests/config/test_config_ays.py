"""Configurations of models of Align Your Structures: refusals, normal form, data sections of official files."""

import pytest
from places import ROOT
from tiny_ays import INTERPOLATOR, SIZES, SPAN, raw_config

from geotdm_fast.config.files import load_config, normalise_config
from geotdm_fast.diffusion import ModelMeanType
from geotdm_fast.families import build_diffusion, build_network

BAD = [
    (
        {"denoise_model": {"type": "basic_ess"}},
        r"denoise_model\.type must be one of basic_es, .*did you mean 'basic_es'",
    ),
    ({"denoise_model": {"conditioning": "forwards"}}, "did you mean 'forward'"),
    ({"denoise_model": {"freeze_spatial": True}}, r"freeze_spatial needs .*denoise_model\.pretrain_ckpt"),
    (
        {"denoise_model": {"pretrain_ckpt": "a"}, "train": {"start_from": "b"}},
        r"train\.start_from does not go with denoise_model\.pretrain_ckpt, whose weights it would replace, got 'b'",
    ),
    ({"denoise_model": {"type": "basic_es"}}, r"conditioning must be left out for type basic_es, got 'forward'"),
    ({"denoise_model": {"node_dims": 3}}, "unknown key 'node_dims'; did you mean 'node_dim'"),
    ({"data": {"train": {"span": 1}}}, r"data\.train: span must be at least 2 for the conditioning forward, got 1"),
    ({"data": {"train": {"span": None}}}, r"data\.train: span, the frames of a window, must be a whole number"),
    ({"data": {"train": {"project": True}}}, "project must be frames"),
    ({"data": {"train": {"box": "auto"}}}, "box must be no"),
    ({"data": {"train": {"graph": {"radius": 3}}}}, "graph must be bonds"),
    ({"data": {"train": {"conditions": {"t": 3}}}}, "conditions do not go with type"),
    ({"data": {"val": {"kind": "nbody"}}}, "kind must be one of md17, npz, file, conformers; got 'nbody'"),
    ({"diffusion": {"mode": "uncond"}}, r"diffusion\.mode must be 'cond', or left out, .* got 'uncond'"),
    ({"train": {"cond_mask": [[0, 2]]}}, r"train\.cond_mask must be \[\[0, 1\]\], or left out"),
    ({"train": {"tot_len": 3}}, r"train\.tot_len must be None, or left out"),
    ({"train": {"block_history": 1}}, r"train\.block_history does not go with denoise_model\.type"),
    ({"diffusion": {"beta_schedule_name": "lin"}}, r"diffusion\.beta_schedule_name"),
    (
        {"diffusion": {"model_mean_type": "velocity"}},
        r"model_mean_type must be one of epsilon, start_x, previous_x; got",
    ),
    (
        {"diffusion": {"model_mean_type": "displacement"}},
        r"model_mean_type must be one of epsilon, start_x, previous_x",
    ),
    ({"diffusion": {"kind": "flow"}}, "diffusion: unknown key 'kind'"),
    ({"diffusion": {"sigma": 1.0}}, "diffusion: unknown key 'sigma'"),
    ({"diffusion": {"time_power": 2}}, "diffusion: unknown key 'time_power'"),
    ({"diffusion": {"prior": "walk"}}, "diffusion: unknown key 'prior'"),
]


@pytest.mark.parametrize("change, message", BAD)
def test_bad_configurations(tmp_path, change, message):
    raw = raw_config(tmp_path)
    for name, section in change.items():
        for key, value in section.items():
            raw[name][key] = (raw[name][key] | value) if isinstance(value, dict) and key in raw[name] else value
    with pytest.raises(ValueError, match=message):
        normalise_config(raw, "here")


def test_a_normal_configuration_stays(tmp_path):
    config = normalise_config(raw_config(tmp_path))
    assert normalise_config(config) == config
    assert config["train"]["cond_mask"] == [[0, 1]] and config["diffusion"]["mode"] == "cond"
    raw = raw_config(tmp_path)
    raw["denoise_model"]["conditioning"] = "interpolation"
    assert normalise_config(raw)["train"]["cond_mask"] == [[0, 1], [SPAN - 1, SPAN]]
    raw["denoise_model"]["conditioning"] = "none"
    free = normalise_config(raw)
    assert free["train"]["tot_len"] == SPAN and free["diffusion"]["mode"] == "uncond"
    assert free["diffusion"]["model_mean_type"] == "epsilon"
    for given in (None, "epsilon", "start_x", "previous_x"):
        raw["diffusion"]["model_mean_type"] = given
        assert normalise_config(raw)["diffusion"]["model_mean_type"] == (given or "epsilon")
    raw["denoise_model"] |= {"freeze_spatial": True, "pretrain_ckpt": "a"}
    raw["train"]["weight_decay"] = 0.1
    with pytest.raises(ValueError, match=r"train\.weight_decay does not go with freeze_spatial"):
        normalise_config(raw)


@pytest.mark.parametrize("name", ["ays_structure_small", "ays_interpolator_small"])
def test_the_configurations_that_come_along_have_a_diffusion(name):
    config = load_config(ROOT / "configs" / f"{name}.yaml")
    diffusion = build_diffusion(build_network(config), config)
    assert diffusion.model_mean_type is ModelMeanType.START_X and diffusion.num_timesteps == 1000
    config = load_config(ROOT / "configs" / f"{name}.yaml", ["diffusion.model_mean_type=null"])
    assert build_diffusion(build_network(config), config).model_mean_type is ModelMeanType.EPSILON


def test_official_shapes_of_data():
    raw = {"denoiser": {"type": "basic_es", **SIZES}, "diffusion": {"num_timesteps": 50}, "train": {"batch_size": 3}}
    raw["train"] |= {"accum_grad": 2, "check_val_every_n_epoch": 3, "max_epochs": 7}
    raw["dataset"] = {"type": "tetrapeptide_drugs", "subsample": None, "remove_hs": True}
    raw["dataset"] |= {"train_conf_path_drugs": "d.pkl", "train_conf_path_tetrapeptide": "t.pkl"}
    raw["dataset"] |= {"mixing": {"ratio": {"DRUGS": 0.25, "TETRAPEPTIDE": 0.75}}}
    with pytest.warns(UserWarning, match=r"pickles are not read, files \.sdf of the same names are"):
        config = normalise_config(raw)
    section = config["data"]["train"]
    assert section["path"] == ["d.sdf", "t.sdf"] and section["ratio"] == [0.25, 0.75] and not section["with_h"]
    train_section = config["train"]
    assert (train_section["batch_size"], train_section["accumulate"], train_section["num_epochs"]) == (6, 2, 7)
    raw["denoiser"] |= INTERPOLATOR | {"conditioning": "interpolation", "freeze_spatial": True}
    raw["dataset"] = {"type": "trajectory", "train_split": "a.csv", "subsample": 0.5, "expected_time_dim": 9}
    raw["dataset"] |= {"num_frames": 100, "frame_rate": 12, "start_frame": 3}
    with pytest.warns(UserWarning, match=r"lists of runs .* are not read.*subsample is passed over"):
        config = normalise_config(raw)
    section = config["data"]["train"]
    assert section["path"] == "a.csv" and section["frames"] == [3, 103] and section["every"] == 12
    assert config["train"]["cond_mask"] == [[0, 1], [8, 9]] and not config["denoise_model"]["freeze_spatial"]
    lists = {"train_split_drugs": "d.csv", "train_split_qm9": "q.csv", "ratio": {"QM9": 0.25, "DRUGS": 0.75}}
    one = {key: value for key, value in raw["dataset"].items() if key != "train_split"}
    with pytest.warns(UserWarning, match=r"lists of runs .* are not read.*subsample is passed over"):
        section = normalise_config(raw | {"dataset": one | lists})["data"]["train"]
    assert section["path"] == ["d.csv", "q.csv"] and section["ratio"] == [0.75, 0.25]
    raw["dataset"] |= {"start_frame": None, "random_frame": True, "train_traj_dir": "runs/"}
    del raw["dataset"]["train_split"]
    with pytest.warns(UserWarning, match="subsample"):
        config = normalise_config(raw)
    section = config["data"]["train"]
    assert section["path"] == "runs/*/*/traj.xtc" and section["phases"] and "frames" not in section
    assert config["train"]["epoch"] == "runs" and normalise_config(config) == config
    raw["dataset"] |= {"val_traj_dir": "more", "filter_data": False, "frames_per_example_train": 9, "start_frame": 5}
    raw |= {"eval": {"batch_size": 3, "num_sample_batches": 2}, "test": {"ratio": 2}, "num_blocks": 4}
    with pytest.warns(UserWarning, match="subsample") as said:
        sections = normalise_config(raw)["data"]
    assert len(said) == 1 and sections["val"]["frames"] == [5, 105] and not sections["val"].get("phases")
    assert "weight_decay" not in str(said[0].message)
    decay = r"optim\.weight_decay 0\.01 is train\.weight_decay, which shrinks matrices apart from the gradient; in"
    with pytest.warns(UserWarning, match=decay):
        assert normalise_config(raw | {"optim": {"weight_decay": 0.01}})["train"]["weight_decay"] == 0.01
    mdgen = raw | {"dataset": raw["dataset"] | {"expected_time_dim": 251, "num_frames": 251, "frame_rate": 100}}
    with pytest.warns(UserWarning, match="subsample"):
        section = normalise_config(mdgen)["data"]["val"]
    start, stop = section["frames"]
    assert (start, stop) == (5, 25006) and len(range(start, stop, section["every"])) == section["span"] == 251
    for words in (
        "train_traj_dir, val_traj_dir: pickles are not read, files */*/traj.xtc with system.pdb and mol.sdf beside are",
        "validation and tests take the first window of each run",
        "passed over: dataset.filter_data, dataset.frames_per_example_train, dataset.start_frame (random_frame is "
        "true), eval.num_sample_batches, test, num_blocks",
    ):
        assert words in str(said[0].message)
    del raw["dataset"]["val_traj_dir"]
    del raw["dataset"]["train_traj_dir"]
    with pytest.raises(ValueError, match="dataset must name the training data"):
        normalise_config(raw)
    with pytest.raises(ValueError, match="section 'dataset' is missing, which a training needs"):
        normalise_config(raw | {"dataset": None})
