"""Configurations of Align Your Structures: the official shapes of file, their defaults, and what is refused."""

import copy
import warnings

import pytest
import torch
import yaml

from geotdm_fast import ays
from geotdm_fast.ays.config import build_network, from_yaml, load_config, normalise_config

SIZES = {"n_layers": 2, "node_dim": 6, "ft_dim": 42, "edge_dim": 4, "hidden_dim": 16, "time_emb_dim": 8}
NAMES = ["aromatic", "hybridization", "partial_charge", "implicit_valence", "degree", "formal_charge", "ring_size"]
NAMES += ["chirality"]


def conformers() -> dict:
    """The shape of the files of structure models."""
    return {
        "dataset": {
            "type": "conformer",
            "dataset": "DRUGS",
            "train_conf_path": "${DATA_ROOT}/train.pkl",
            "val_traj_dir": "${DATA_ROOT}/val",
            "features": NAMES,
            "transforms": ["edge_order|3"],
            "remove_hs": True,
            "filter_data": True,
            "num_frames": 1,
            "seed": 42,
        },
        "denoiser": {"type": "basic_es", **SIZES, "act_fn": "silu", "scale": 1, "pre_norm": False}
        | {"conditioning": "none"},
        "diffusion": {"beta_schedule_name": "linear", "num_timesteps": 1000, "use_kabsch_alignment": True},
        "optim": {"lr": 1.0e-4, "weight_decay": 0},
        "train": {"max_epochs": 1000, "batch_size": 32, "resume_from_checkpoint": ""},
        "eval": {"batch_size": 32, "num_sample_batches": 2, "samples_output_dir": "./samples"},
        "test": {"batch_size": 512, "ratio": 2, "subsample": None},
        "wandb": {"entity": "e", "project": "p", "name": "n"},
    }


def trajectories(kind: str = "interpolator") -> dict:
    """The shape of the files of trajectory models."""
    raw = conformers()
    raw["dataset"] |= {"type": "trajectory", "expected_time_dim": 251, "num_frames": 3263, "frame_rate": 13}
    raw["dataset"] |= {"start_frame": None, "random_frame": True, "subsample": 0.25}
    raw["denoiser"] |= {"type": kind, "conditioning": "forward", "pretrain_ckpt": None}
    if kind != "egtn":
        raw["denoiser"] |= {"freeze_spatial": True, "use_kabsch": False, "use_norm": True, "num_heads": 8}
    if kind.startswith("interpolator"):
        flags = {"use_mha": False, "use_extra": True, "use_double": True, "sigmoid_init": True}
        raw["denoiser"] |= flags
    raw["train"] |= {"accum_grad": 2, "check_val_every_n_epoch": 5}
    raw["num_blocks"] = 16
    return raw


def two_sets() -> dict:
    raw = trajectories()
    raw["dataset"] |= {"type": "both_trajectory", "datasets": ["DRUGS", "QM9"], "train_traj_dir_drugs": "a"}
    raw["dataset"] |= {"mixing": {"ratio": {"DRUGS": 0.5, "QM9": 0.5}}, "test_on_drugs": False}
    del raw["dataset"]["dataset"]
    return raw


KINDS = {
    "basic_es": ays.BasicES,
    "interpolator": ays.EGInterpolator,
    "interpolator_simple": ays.EGInterpolatorSimple,
    "stack": ays.EGStack,
    "egtn": ays.EGTN,
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_gives_network_and_diffusion(kind, tmp_path):
    raw = conformers() if kind == "basic_es" else trajectories(kind)
    path = tmp_path / "official.yaml"
    path.write_text(yaml.safe_dump(raw))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore" if kind == "basic_es" else "error")
        network, diffusion, config = from_yaml(path)
    assert type(network) is KINDS[kind]
    assert diffusion.num_timesteps == 1000 and diffusion.use_kabsch_alignment and not diffusion.rescale_timesteps
    assert network.conditioning == ("none" if kind == "basic_es" else "forward")
    assert config["num_blocks"] == (4 if kind == "basic_es" else 16)
    assert config["dataset"]["order"] == 3 and config["dataset"]["features"] == NAMES


def test_official_numbers_of_parameters():
    """Of the official sizes, as counted in the official code."""
    sizes = {"n_layers": 6, "node_dim": 30, "ft_dim": 42, "edge_dim": 4, "hidden_dim": 128, "time_emb_dim": 32}

    def count(raw, **more):
        raw["denoiser"] |= sizes | more
        with torch.device("meta"):
            network = KINDS[raw["denoiser"]["type"]](**raw["denoiser"])
        return sum(p.numel() for p in network.parameters())

    assert count(conformers()) == 918_434
    assert count(conformers(), n_layers=8) == 1_220_094
    assert count(trajectories()) == 3_267_301
    assert count(trajectories(), n_layers=8) == 4_351_917
    assert count(trajectories("interpolator_simple")) == 3_267_277
    assert count(trajectories("stack")) == 3_267_266
    assert count(trajectories("egtn")) == 1_432_474


def test_what_the_official_code_stops_for_is_said_in_one_line(tmp_path):
    path = tmp_path / "official.yaml"
    path.write_text(yaml.safe_dump(conformers()))
    with pytest.warns(UserWarning) as said:
        config = load_config(path)
    assert len(said) == 1
    expected = "train.accum_grad is taken as 1, train.check_val_every_n_epoch is taken as 2, dataset.subsample is taken"
    assert expected in str(said[0].message) and str(path) in str(said[0].message)
    assert config["train"]["accum_grad"] == 1 and config["dataset"]["subsample"] is None
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        normalise_config(trajectories())


@pytest.mark.filterwarnings("ignore:.*the file does not say")
@pytest.mark.parametrize("raw", [conformers(), trajectories(), two_sets()])
def test_twice_is_once(raw):
    once = normalise_config(copy.deepcopy(raw))
    assert normalise_config(once) == once


def test_two_sets_keep_their_shares_and_paths():
    dataset = normalise_config(two_sets())["dataset"]
    assert dataset["ratio"] == {"DRUGS": 0.5, "QM9": 0.5} and dataset["datasets"] == ["DRUGS", "QM9"]
    assert dataset["paths"]["train_traj_dir_drugs"] == "a"
    assert dataset["paths"]["val_traj_dir"] == "${DATA_ROOT}/val"


@pytest.mark.parametrize(
    ("section", "key", "value", "message"),
    [
        ("denoiser", "type", "gnn", "denoiser.type must be one of basic_es"),
        ("denoiser", "use_norms", True, "denoiser: unknown key 'use_norms'; did you mean 'use_norm'"),
        ("denoiser", "n_layers", 0, "denoiser.n_layers must be at least 1, got 0"),
        ("denoiser", "hidden_dim", "wide", "denoiser.hidden_dim must be"),
        ("denoiser", "conditioning", "back", "denoiser.conditioning must be one of"),
        ("diffusion", "steps", 4, "diffusion: unknown key 'steps'"),
        ("train", "batch_size", 0, "train.batch_size must be at least 1"),
        ("dataset", "frame_rat", 2, "dataset: unknown key 'frame_rat'; did you mean 'frame_rate'"),
        ("dataset", "features", ["colour"], "dataset.features must be one of"),
        ("dataset", "features", "aromatic", "dataset.features must be a list of names"),
        ("dataset", "transforms", ["edges|3"], r"dataset.transforms must be \['edge_order\|N'\]"),
        ("dataset", "transforms", [3], r"dataset.transforms must be \['edge_order\|N'\].*got \[3\]"),
        ("dataset", "transforms", 3, r"dataset.transforms must be \['edge_order\|N'\].*got 3"),
        ("dataset", "features", [3], "dataset.features must be a list of names, got \\[3\\]"),
        ("dataset", "datasets", 3, "dataset.datasets must be a list of names, got 3"),
        ("dataset", "datasets", "DRUGS", "dataset.datasets must be a list of names, got 'DRUGS'"),
        ("dataset", "mixing", 3, "dataset.mixing must be a section"),
        ("dataset", "mixing", {"ratio": 3}, "dataset.mixing.ratio must be a section of keys and values"),
        (
            "dataset",
            "mixing",
            {"ratio": {"A": "x"}},
            "dataset.mixing.ratio must have names and numbers.*got 'x' for 'A'",
        ),
        ("dataset", "ratio", {"A": -1}, "dataset.ratio must have names and numbers of at least 0, got -1 for 'A'"),
        ("dataset", "ratio", 3, "dataset.ratio must be a section of keys and values"),
        ("dataset", "order", "x", "dataset.order must be a whole number"),
        ("dataset", "order", 0, "dataset.order must be at least 1, got 0"),
        ("dataset", "paths", 3, "dataset.paths must be a section of keys and values"),
        ("dataset", "paths", {"val_split": 3}, "dataset.val_split must be a path, got 3"),
        ("dataset", "train_traj_dir", 3, "dataset.train_traj_dir must be a path, got 3"),
    ],
)
def test_errors_name_section_and_key(section, key, value, message):
    raw = trajectories()
    raw[section][key] = value
    with pytest.raises(ValueError, match=message):
        normalise_config(raw, "file.yaml")


def test_missing_and_unknown_sections():
    raw = trajectories()
    del raw["diffusion"]
    with pytest.raises(ValueError, match=r"file\.yaml: section 'diffusion' is missing"):
        normalise_config(raw, "file.yaml")
    with pytest.raises(ValueError, match="unknown key 'optimizer'"):
        normalise_config(trajectories() | {"optimizer": {}})


def test_overrides(tmp_path):
    path = tmp_path / "official.yaml"
    path.write_text(yaml.safe_dump(trajectories()))
    config = load_config(path, ["denoiser.n_layers=3", "train.batch_size=1"])
    assert build_network(config).n_layers == 3 and config["train"]["batch_size"] == 1
