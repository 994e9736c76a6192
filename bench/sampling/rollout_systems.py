"""What `bench.sampling.rollout` trains: four systems, and what each arm changes of a training."""

import copy
import pathlib
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from geotdm_fast.checkpoint import load_checkpoint, save_checkpoint
from geotdm_fast.checkpoint_paths import checkpoint_file
from geotdm_fast.config.files import normalise_config

ARMS = {
    "without": "the same further steps, nothing changed",
    "noise": "train.context_noise",
    "told": "train.context_noise, and the network is told the level",
    "history": "train.block_history: 1",
    "near": "train.block_history: 1, its level 0.1: the given frames stay near the truth",
}


@dataclass(frozen=True)
class System:
    """What the arms of a system share.

    start: the model that every arm begins with: one that comes with the package, or a checkpoint
    steps: further steps of each arm
    level: train.context_noise, in the data's unit
    train, test: data sections; longer: what history changes in `train`, None where its windows cannot be longer
    optimizer: keys of the section train
    method, calls: of the sampler
    """

    start: str
    steps: int
    level: float
    train: dict
    test: dict
    longer: dict | None
    optimizer: dict
    method: str = "dpmpp_2m"
    calls: int = 5


def systems(files: Mapping[str, pathlib.Path]) -> dict[str, System]:
    """The systems whose files are given; `charged`, which is simulated, always.

    files: ethanol, alanine: an .npz of positions; pedestrians: the folder of the recordings; alanine_start: a model of
        alanine dipeptide that is given one frame of 32, as `geotdm reproduce geotdm:alanine_dipeptide` trains it
    """
    muon = {"optimizer": "muon", "lr": 1e-3}
    found = {
        "charged": System(
            start="nbody_charged_small",
            steps=500,
            level=0.05,
            # The windows of the arm with history end there too: all arms see the same frames.
            train=_charged("train", 3000, 30) | {"frames": [20, 50]},
            test=_charged("test", 20, 410),
            longer={"frames": None, "num_frames": 50},
            optimizer={"optimizer": "adam", "lr": 5e-4},
        )
    }
    if "ethanol" in files:
        section = {"kind": "npz", "path": str(files["ethanol"])}
        found["ethanol"] = System(
            start="md_ethanol_small",
            steps=200,
            level=0.02,
            train=section | {"split": "train", "span": 30, "stride": 2},
            test=section | {"split": "test", "span": 410, "stride": 30},
            longer={"span": 50},
            optimizer=muon,
        )
    if "alanine" in files:
        section = {"kind": "npz", "path": str(files["alanine"]), "project": "frames"}
        found["alanine"] = System(
            start=str(files["alanine_start"]),
            steps=300,
            level=0.05,
            train=section | {"split": "train", "span": 32, "stride": 4},
            test=section | {"split": "test", "span": 621, "stride": 620},
            longer={"span": 63},
            optimizer=muon,
            # Frames 1 ps apart hardly follow from one another: five calls leave one frame of twelve valid, these 97 %.
            method="dpmpp_2m_sde",
            calls=50,
        )
    if "pedestrians" in files:
        section = {"kind": "pedestrian", "root": str(files["pedestrians"]), "dataset": "zara1"}
        found["pedestrians"] = System(
            start="pedestrian_zara1_small",
            steps=300,
            level=0.03,
            train=section | {"phase": "training"},
            test=section | {"phase": "testing"},
            longer=None,
            optimizer=muon,
        )
    return found


def _charged(split: str, num_systems: int, num_frames: int) -> dict:
    return {
        "kind": "nbody", "system": "charged", "split": split, "num_systems": num_systems, "num_frames": num_frames
    }  # fmt: skip


def config_of(system: System, arm: str, start: pathlib.Path) -> dict:
    """The configuration of an arm, normalised. start: the weights that it begins with."""
    _, told = load_checkpoint(checkpoint_file(system.start))
    config = copy.deepcopy(told)
    section = dict(system.train)
    if arm in ("history", "near"):
        section = {key: value for key, value in (section | system.longer).items() if value is not None}
    config["data"] = {"train": section, "test": dict(system.test)}
    config["train"] |= system.optimizer | {
        "exp_name": f"rollout_{arm}",
        "num_steps": system.steps,
        "batch_size": 16,
        "schedule": "cosine",
        "lr_min": 1e-5,
        "warmup_steps": 20,
        "ema_decay": 0.99,
        "precision": "fp32",
        "eval_graphs": 16,
        "eval_every_epoch": 10**6,
        "checkpoint_every_minutes": 0.5,
        "start_from": str(start),
    }
    if arm in ("noise", "told"):
        config["train"]["context_noise"] = system.level
    if arm == "told":
        config["train"]["context_noise_told"] = True
        config["denoise_model"]["node_dim"] += 1
    if arm in ("history", "near"):
        config["train"]["block_history"] = 1
    if arm == "near":
        config["train"]["block_history_level"] = 0.1
    return normalise_config(config)


def widened(path: pathlib.Path, out: pathlib.Path) -> pathlib.Path:
    """The network of `path` with weights 0 for one more node feature, the level that it is told, written to `out`."""
    network, config = load_checkpoint(path)
    features, state = network.node_dim, network.state_dict()
    for name in ("input_linear.weight", "input_linear_ref.weight"):
        if name in state:
            weight = state[name]
            column = weight.new_zeros(len(weight), 1)
            state[name] = torch.cat([weight[:, :features], column, weight[:, features:]], dim=1)
    config = copy.deepcopy(config)
    config["denoise_model"]["node_dim"] = features + 1
    wide = type(network)(**config["denoise_model"])
    wide.load_state_dict(state)
    out.parent.mkdir(parents=True, exist_ok=True)
    save_checkpoint(out, wide, config)
    return out
