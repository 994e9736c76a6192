"""Configurations of models of Align Your Structures: ours, and the official files turned into them.

Ours have the sections of every configuration; the key `denoise_model.type` says that the model is one of these, and
which. Which frames are given follows from `denoise_model.conditioning` and the frames of a window.
"""

import math
import os
import re
import warnings
from collections.abc import Mapping
from typing import Any

from geotdm_fast.config.ays_tables import DENOISER, OUR_DIFFUSION, without_empty
from geotdm_fast.config.diffusion_rules import MEAN_TYPES
from geotdm_fast.config.files import (
    RECOMMENDED,
    SPLITS,
    add_recommended,
    check_schedule,
    check_sections,
    check_train,
    data_sections,
)
from geotdm_fast.config.settings import TRAIN, as_section, fill, tables_as_text
from geotdm_fast.runtime.choices import check_choice
from geotdm_fast.runtime.shown import shown

SECTION, FAMILY = "denoise_model", "type"
# Conditionings with which frame 0 is given in one half of the batches, by a coin.
BY_COIN = ("unconditional_forward", "forward_uncond", "unconditional_forward_autoreg")
# Settings of a training that these models do not have.
_ABSENT = ("context_noise", "context_noise_told", "block_history")
_EVERY_ELEMENT = 100


def is_ays(config: Mapping) -> bool:
    """Whether a configuration, raw or normal, describes a model of Align Your Structures."""
    section = config.get(SECTION)
    return isinstance(section, Mapping) and section.get(FAMILY) is not None


def normalise_ays(raw: Mapping, where: str = "config") -> dict:
    """As `config.files.normalise_config`, of a configuration with `denoise_model.type`.

    Every data section has `features`, `project: frames` (these models know frames that are centred one by one) and no
    box. `diffusion.mode`, `train.cond_mask` and `train.tot_len` follow from `denoise_model.conditioning` and
    data.train.span, and are checked where they are given. Raises ValueError naming the section and the key.
    """
    check_sections(raw, ("data", SECTION, "diffusion", "train"), where, (RECOMMENDED,))
    network = fill(without_empty(raw[SECTION], DENOISER), DENOISER, f"{where}: {SECTION}")
    _check_network(network, f"{where}: {SECTION}")
    data = {split: _data_section(value, f"{where}: data.{split}") for split, value in _given(raw, where).items()}
    config: dict[str, Any] = {"data": data, SECTION: network}
    about = dict(as_section(raw["diffusion"], f"{where}: diffusion"))
    told = dict(as_section(raw["train"], f"{where}: train"))
    given = _given_ranges(network["conditioning"], data["train"], f"{where}: data.train")
    _agree(about, "mode", "cond" if given else "uncond", f"{where}: diffusion")
    _agree(told, "cond_mask", given or None, f"{where}: train")
    _agree(told, "tot_len", None if given else _span(data["train"], f"{where}: data.train"), f"{where}: train")
    config["diffusion"] = fill(about, OUR_DIFFUSION, f"{where}: diffusion")
    if config["diffusion"]["model_mean_type"] is None:
        config["diffusion"]["model_mean_type"] = MEAN_TYPES["gaussian"][0]
    config["train"] = fill(told, TRAIN, f"{where}: train")
    _check_ays_train(config, where)
    add_recommended(config, raw, where)
    return config


def ays_manual() -> str:
    """All settings of these models as text, for `geotdm train --keys`; those of `train` are everybody's."""
    tables = {SECTION: DENOISER, "diffusion": {key: value for key, value in OUR_DIFFUSION.items() if key != "mode"}}
    about = "models of Align Your Structures have these instead, and the data keys features, molecule and ratio:"
    return f"{about}\n\n{tables_as_text(tables)}"


def free_share(config: Mapping) -> float:
    """The share of training steps in which nothing is given, by a coin, although frame 0 is given elsewhere."""
    return 0.5 if fill(config[SECTION], DENOISER, SECTION)["conditioning"] in BY_COIN else 0.0


def _given(raw: Mapping, where: str) -> dict[str, Mapping]:
    """The data sections as they are, each a section of keys."""
    return {split: as_section(value, f"{where}: data.{split}") for split, value in data_sections(raw, where).items()}


def _data_section(section: Mapping, where: str) -> dict:
    """A data section in normal form, with the defaults of these models."""
    from geotdm_fast.data.chemistry.names import BY_DEFAULT, OFFICIAL
    from geotdm_fast.data.section_forms import normalise_section
    from geotdm_fast.data.section_keys import ATOM_KINDS, infer_kind, kind_keys

    kind = section.get("kind", infer_kind(section))
    check_choice(f"{where}: kind", kind, ATOM_KINDS)
    given = dict(section)
    if kind != "conformers":
        given.setdefault("features", list(OFFICIAL if given.get("molecule") is not None else BY_DEFAULT))
        if given.get("atom_types") is None:
            given.setdefault("num_types", _EVERY_ELEMENT)
    given.setdefault("project", "frames")
    if given["project"] != "frames":
        raise ValueError(f"{where}: project must be frames for {FAMILY} of {SECTION}, got {shown(given['project'])}")
    if "box" in kind_keys(kind) and given.setdefault("box", "no") not in ("no", False):
        raise ValueError(f"{where}: box must be no for {FAMILY} of {SECTION}, got {shown(given['box'])}")
    if given.get("graph") not in (None, "bonds"):
        raise ValueError(f"{where}: graph must be bonds for {FAMILY} of {SECTION}, got {shown(given['graph'])}")
    given.pop("graph", None)
    if given.get("conditions"):
        raise ValueError(f"{where}: conditions do not go with {FAMILY} of {SECTION}: its networks are told none")
    return normalise_section(given, where)


def _span(section: Mapping, where: str) -> int:
    """T: the frames of a window."""
    if section["kind"] == "conformers":
        return 1
    span = section.get("span")
    if not isinstance(span, int) or isinstance(span, bool) or span < 1:
        raise ValueError(
            f"{where}: span, the frames of a window, must be a whole number of at least 1, got {shown(span)}"
        )
    return span


def _given_ranges(conditioning: str, section: Mapping, where: str) -> list[list[int]]:
    """Frame ranges that are given, as train.cond_mask has them."""
    span = _span(section, where)
    if conditioning == "none":
        return []
    least = 3 if conditioning == "interpolation" else 2
    if span < least:
        raise ValueError(f"{where}: span must be at least {least} for the conditioning {conditioning}, got {span}")
    return [[0, 1], [span - 1, span]] if conditioning == "interpolation" else [[0, 1]]


def _agree(section: dict, key: str, value: Any, where: str) -> None:
    """Set what follows from other settings; ValueError where something else is given."""
    came = section.get(key)
    if came is not None and came != value:
        raise ValueError(
            f"{where}.{key} must be {shown(value)}, or left out, as {SECTION}.conditioning and data.train.span say, "
            f"got {shown(came)}"
        )
    section[key] = value


def _check_network(network: Mapping, where: str) -> None:
    if network["type"] == "basic_es" and network["conditioning"] != "none":
        came = shown(network["conditioning"])
        raise ValueError(f"{where}.conditioning must be left out for type basic_es, got {came}")
    if network["freeze_spatial"] and network["pretrain_ckpt"] is None:
        raise ValueError(f"{where}.freeze_spatial needs {where}.pretrain_ckpt, whose weights it keeps")


def _check_ays_train(config: dict, where: str) -> None:
    train = config["train"]
    check_train(config, where)
    for key in _ABSENT:
        if train[key] != TRAIN[key].default:
            raise ValueError(f"{where}: train.{key} does not go with {SECTION}.{FAMILY}, got {shown(train[key])}")
    if train["start_from"] is not None and config[SECTION]["pretrain_ckpt"] is not None:
        raise ValueError(
            f"{where}: train.start_from does not go with {SECTION}.pretrain_ckpt, whose weights it would replace, got "
            f"{shown(train['start_from'])}"
        )
    if train["weight_decay"] and config[SECTION]["freeze_spatial"]:
        raise ValueError(
            f"{where}: train.weight_decay does not go with freeze_spatial: frozen weights stay as they are"
        )
    check_schedule(config["diffusion"], where)


# --- official files ---------------------------------------------------------------------------------------------------


def is_official(raw: Mapping) -> bool:
    """Whether a raw configuration is an official file, by its section `denoiser`."""
    return isinstance(raw, Mapping) and "denoiser" in raw


def from_official(raw: Mapping, where: str = "config") -> dict:
    """An official file as a configuration of ours, not yet normalised.

    A pickle of molecules `X.pkl` is read as `X.sdf`, and a folder of runs as `*/*/traj.xtc` with `system.pdb` and
    `mol.sdf` beside each: nothing in a data file is executed. What has no counterpart is said in a warning.
    Environment variables in paths get their values where they are set; who opens a path with another says so, as for
    data that come in no form that is read: the file is all that a checkpoint needs.
    """
    from geotdm_fast.config.ays_official import normalise_config

    config = normalise_config(raw, where)
    dataset, train = config["dataset"], config["train"]
    for name, section in (("dataset", dataset), ("train", train)):
        if section is None:
            raise ValueError(f"{where}: section '{name}' is missing, which a training needs")
    found = {split: _official_paths(dataset, split) for split in SPLITS}
    data = {split: _official_data(dataset, paths, split) for split, paths in found.items() if paths}
    if "train" not in data:
        raise ValueError(f"{where}: dataset must name the training data (train_conf_path or train_traj_dir), got none")
    network = dict(config["denoiser"])
    if network["freeze_spatial"] and network["pretrain_ckpt"] is None:
        network["freeze_spatial"] = False
    wandb = raw.get("wandb")
    name = wandb.get("name") if isinstance(wandb, Mapping) else None
    _say_left_out(raw, config, where)
    settings = {
        "exp_name": name or "align_your_structures",
        "seed": dataset["seed"],
        "num_epochs": train["max_epochs"],
        "epoch": "windows" if _is_of_conformers(dataset) else "runs",
        "batch_size": train["batch_size"] * train["accum_grad"],
        "accumulate": train["accum_grad"],
        "eval_every_epoch": train["check_val_every_n_epoch"],
        "lr": config["optim"]["lr"],
        "weight_decay": config["optim"]["weight_decay"],
    }
    if isinstance(config["eval"].get("batch_size"), int):
        settings["eval_batch_size"] = config["eval"]["batch_size"]
    return {"data": data, SECTION: network, "diffusion": dict(config["diffusion"]), "train": settings}


def _is_of_conformers(dataset: Mapping) -> bool:
    return dataset["type"] in ("conformer", "both", "tetrapeptide", "tetrapeptide_drugs")


def _official_paths(dataset: Mapping, split: str) -> dict[str, str]:
    """The path of each set of a split, by its key: `train_traj_dir_drugs`, or without an end where there is one set."""
    words = ("conf_path",) if _is_of_conformers(dataset) else ("traj_dir", "split")
    kinds = tuple(f"{split}_{word}" for word in words)
    return {k: os.path.expandvars(path) for k, path in dataset["paths"].items() if path and k.startswith(kinds)}


def _name_of_set(key: str) -> str:
    """DRUGS of `train_traj_dir_drugs`, by which the shares are named; nothing where there is one set."""
    return re.sub("^[a-z]+_(conf_path|traj_dir|split)_?", "", key).upper()


def _is_list_of_runs(key: str) -> bool:
    """Whether a key names a list of runs (`train_split`, `train_split_drugs`), no folder of them."""
    return re.match("[a-z]+_split(_|$)", key) is not None


def _official_data(dataset: Mapping, found: Mapping[str, str], split: str) -> dict:
    """The data section of these paths."""
    paths = list(found.values())
    one = lambda values: values[0] if len(values) == 1 else values
    about: dict[str, Any] = {"with_h": not dataset["remove_hs"], "max_hops": dataset["order"]}
    about |= {"features": dataset["features"], "project": "frames"}
    shares = [dataset["ratio"].get(_name_of_set(key)) for key in found]
    if len(shares) > 1 and None not in shares:
        about["ratio"] = shares
    if _is_of_conformers(dataset):
        as_sdf = [path.removesuffix(".pkl") + ".sdf" if path.endswith(".pkl") else path for path in paths]
        return {"kind": "conformers", "path": one(as_sdf), **about}
    rate = dataset["frame_rate"]
    span = dataset["expected_time_dim"] or math.ceil(dataset["num_frames"] / rate)
    runs = [path if _is_list_of_runs(key) else f"{path.rstrip('/')}/*/*/traj.xtc" for key, path in found.items()]
    files = {"path": one(runs), "topology": "{folder}/system.pdb", "molecule": "{folder}/mol.sdf"}
    if dataset["random_frame"] and split == "train":
        about["phases"] = rate > 1
    else:  # one window of each run
        start = dataset["start_frame"] or 0
        # num_frames may be those of a window, which reach over more of the run.
        about["frames"] = [start, start + max(dataset["num_frames"], (span - 1) * rate + 1)]
    return {"kind": "file", **files, "every": rate, "span": span, **about}


# Keys of `dataset` that say nothing here.
_PASSED_OVER = ("filter_data", "test_on_drugs", *(f"frames_per_example_{split}" for split in SPLITS))


def _say_left_out(raw: Mapping, config: Mapping, where: str) -> None:
    """One warning that names what of an official file is read elsewhere, means something else, and is passed over."""
    dataset, train, decay = config["dataset"], config["train"], config["optim"]["weight_decay"]
    told = []
    runs = [key for key, path in dataset["paths"].items() if path and "traj_dir" in key]
    if runs and not _is_of_conformers(dataset):
        told.append(
            f"{', '.join(runs)}: pickles are not read, files */*/traj.xtc with system.pdb and mol.sdf beside are"
        )
        if dataset["random_frame"] and any(not key.startswith("train") for key in runs):
            told.append("validation and tests take the first window of each run, not one from a random frame on")
    if any(path and path.endswith(".pkl") for path in dataset["paths"].values()) and _is_of_conformers(dataset):
        told.append("pickles are not read, files .sdf of the same names are")
    if any(map(_is_list_of_runs, dataset["paths"])):
        told.append("lists of runs (train_split, ...) are not read, --data names their files")
    for key in ("subsample", "subsample_drugs", "subsample_qm9", "drugs_subsample"):
        if dataset[key] not in (None, 1, 1.0):
            told.append(f"dataset.{key} is passed over: all data are read")
    own = raw["dataset"]
    passed = [f"dataset.{key}" for key in _PASSED_OVER if own.get(key) is not None]
    if dataset["start_frame"] is not None and dataset["random_frame"]:
        passed.append("dataset.start_frame (random_frame is true)")
    passed += [f"eval.{key}" for key in raw.get("eval") or {} if key != "batch_size"]
    passed += [name for name in ("test", "num_blocks") if raw.get(name) is not None]
    if passed:
        told.append(f"passed over: {', '.join(passed)}")
    if decay:
        told.append(
            f"optim.weight_decay {decay:g} is train.weight_decay, which shrinks matrices apart from the gradient; "
            "in the official code it is added to the gradient of every parameter"
        )
    if train["resume_from_checkpoint"]:
        told.append("train.resume_from_checkpoint is passed over: a run goes on from its own folder")
    if told:
        warnings.warn(f"{where}: {'; '.join(told)}", UserWarning, stacklevel=4)
