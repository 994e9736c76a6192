"""Configuration files: read, filled in from one table of settings, and checked key by key.

A training file has the sections `data` (`train`, perhaps `val` and `test`), `denoise_model`, `diffusion` and `train`,
and perhaps `sampling`, which says how the model is best drawn; a sampling file has `data` and `eval`. The official
project's files are read as they are. `wandb` is accepted and ignored: training writes its own log.
"""

import copy
import glob
import os
import pathlib
import warnings
from collections.abc import Iterable, Mapping
from typing import Any

from geotdm_fast.config.diffusion_rules import check_student, derive_diffusion
from geotdm_fast.config.sampling_rules import SECTION as RECOMMENDED
from geotdm_fast.config.sampling_rules import recommended_sampling
from geotdm_fast.config.settings import DENOISE_MODEL, DIFFUSION, DISTILL, EVAL, TRAIN, as_section, describe, fill
from geotdm_fast.runtime.choices import check_keys
from geotdm_fast.runtime.parsing import parse_yaml
from geotdm_fast.runtime.shown import listed, plain, shown

SPLITS = ("train", "val", "test")
# The section of a student's training alone.
STUDENT = "distill"
IGNORED = "wandb"


def load_config(path: str | os.PathLike, overrides: Iterable[str] = ()) -> dict:
    """Read a training configuration (YAML) into the normal form, see `normalise_config`.

    overrides: `section.key=value` texts, the value in YAML (`train.lr=1e-3`, `data.train.root=/data`), in the sections
        that this returns
    Raises FileNotFoundError, or ValueError naming the file, the section, the key, what was expected and what came.
    """
    raw = read_training_file(path)
    override_training(raw, overrides)
    return normalise_config(raw, where=str(path))


def read_training_file(path: str | os.PathLike) -> dict:
    """The mapping in a training's YAML file; an official file of Align Your Structures as one of ours."""
    from geotdm_fast.config.ays_files import from_official, is_official

    raw = read_yaml(path)
    return from_official(raw, str(path)) if is_official(raw) else raw


def load_sampling_config(path: str | os.PathLike, overrides: Iterable[str] = ()) -> dict:
    """Read a sampling configuration: {'data': section with explicit kind, 'eval': settings of the table EVAL}."""
    raw = read_yaml(path)
    for text in overrides:
        override(raw, text)
    where = str(path)
    check_sections(raw, ("data", "eval"), where)
    return {"data": _data_section(raw["data"], f"{where}: data"), "eval": fill(raw["eval"], EVAL, f"{where}: eval")}


def normalise_config(raw: Mapping, where: str = "config") -> dict:
    """Check a training configuration and fill in every default; applied twice it changes nothing more.

    Returns {'data': {'train': ..., 'val': ..., 'test': ...}, 'denoise_model': ..., 'diffusion': ..., 'train': ...} of
    plain values; each data section has an explicit 'kind', and the sections `val`, `test` and `sampling` are there if
    they were given and not null.
    Raises ValueError naming the section and the key.
    """
    from geotdm_fast.config.ays_files import from_official, is_ays, is_official, normalise_ays

    if isinstance(raw, Mapping):
        raw = from_official(raw, where) if is_official(raw) else raw
        if is_ays(raw):
            return normalise_ays(raw, where)
    if isinstance(raw, Mapping) and "eval" in raw and "train" not in raw:
        raise ValueError(
            f"{where}: this is a sampling config (section 'eval'), which `geotdm sample` reads; training needs a "
            "section 'train'"
        )
    check_sections(raw, ("data", "denoise_model", "diffusion", "train"), where, (RECOMMENDED, STUDENT))
    given = data_sections(raw, where)
    config = {"data": {split: _data_section(section, f"{where}: data.{split}") for split, section in given.items()}}
    for name, table in (("denoise_model", DENOISE_MODEL), ("diffusion", DIFFUSION), ("train", TRAIN)):
        config[name] = fill(raw[name], table, f"{where}: {name}")
    if raw.get(STUDENT) is not None:
        config[STUDENT] = fill(raw[STUDENT], DISTILL, f"{where}: {STUDENT}")
    check_student(config, where)
    _derive(config, where)
    add_recommended(config, raw, where)
    return config


def add_recommended(config: dict, raw: Mapping, where: str) -> None:
    """Put the section `sampling` of `raw`, if it has one, into the normal form `config`. Raises ValueError."""
    recommended = recommended_sampling({**config, RECOMMENDED: raw.get(RECOMMENDED)}, where)
    if recommended is not None:
        config[RECOMMENDED] = recommended


def read_yaml(path: str | os.PathLike) -> dict:
    """The mapping in a YAML file. Nothing is executed. Raises FileNotFoundError, ValueError naming file and line."""
    path = pathlib.Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    try:
        value = parse_yaml(path.read_text(encoding="utf-8"))
    except UnicodeDecodeError:
        raise ValueError(
            f"{path} must be YAML, which is text in UTF-8, got other bytes; files of data are named by the option "
            "--data, or by path in a data section"
        ) from None
    except ValueError as error:
        raise ValueError(f"{path} must be YAML: {error}") from error
    if not isinstance(value, dict):
        raise ValueError(f"{path} must be YAML with sections, got {describe(value)}")
    return value


def write_yaml(path: str | os.PathLike, config: Mapping) -> None:
    """Write a configuration as YAML, atomically."""
    import yaml

    from geotdm_fast.runtime.files import atomic_path

    with atomic_path(path) as aside:
        aside.write_text(yaml.safe_dump(dict(config), sort_keys=False), encoding="utf-8")


def portable_config(config: Mapping) -> dict:
    """A copy of a configuration in normal form without what is of one machine: folders of data, a cache, the time
    limit.

    A file or folder of data, or each of a list of files, keeps its own name, and so do the weights to start from. A
    path with `{folder}` and a pattern of files stay as they are; a pattern from the root of the file system on begins
    with its first part that has a wildcard.
    """
    portable = copy.deepcopy(dict(config))
    for section in portable["data"].values():
        for key in ("path", "root", "topology", "molecule", "recordings"):
            value = section.get(key)
            if value is not None:
                section[key] = [_own_name(p) for p in value] if isinstance(value, (list, tuple)) else _own_name(value)
        section.pop("cache", None)
    train = portable["train"]
    named = [(train, "start_from"), (portable["denoise_model"], "pretrain_ckpt"), (portable.get(STUDENT, {}), "pairs")]
    for weights, key in named:
        if weights.get(key) is not None:
            weights[key] = _own_name(weights[key])
    train["max_minutes"] = None
    return portable


def _own_name(path: str) -> str:
    """What is left of the path of a file, a folder or a pattern on another machine."""
    if "{folder}" in str(path):  # beside each file of a pattern
        return str(path)
    whole = pathlib.PurePath(path)
    if not glob.has_magic(str(path)):
        return whole.name
    wild = next(number for number, part in enumerate(whole.parts) if glob.has_magic(part))
    return pathlib.PurePath(*whole.parts[wild:]).as_posix() if whole.is_absolute() else str(path)


def override(raw: dict, text: str) -> None:
    """Set one value in a raw configuration: `section.key=value`, the value in YAML. The key is checked later."""
    key, equals, value = text.partition("=")
    names = key.strip().split(".")
    if not equals or len(names) < 2 or not all(names):
        raise ValueError(f"override must be section.key=value, got '{plain(text)}'")
    section = raw
    for i, name in enumerate(names[:-1]):
        section = section.setdefault(name, {})
        if not isinstance(section, dict):
            raise ValueError(f"override '{plain(text)}': {'.'.join(names[: i + 1])} is not a section")
    try:
        section[names[-1]] = parse_yaml(value)
    except ValueError as error:
        raise ValueError(f"override '{plain(text)}': the value must be YAML ({error})") from error


def override_training(raw: dict, texts: Iterable[str]) -> None:
    """Set values in a raw training configuration, in turn, as `override` does.

    Where they make another diffusion of it (`diffusion.kind`, `diffusion.mode`) and have no key of `sampling`, its own
    section `sampling` is left out, with a warning: it recommends how the other one is drawn.
    """
    texts = list(texts)
    before = _which_diffusion(raw)
    for text in texts:
        override(raw, text)
    is_asked = any(text.strip().startswith(f"{RECOMMENDED}.") for text in texts)
    if raw.get(RECOMMENDED) is not None and not is_asked and _which_diffusion(raw) != before:
        del raw[RECOMMENDED]
        warnings.warn(
            "config section sampling is left out: it is of another diffusion.kind or mode than is asked for; "
            "sampling.method, steps and spacing say how the model is drawn",
            stacklevel=2,
        )


def _which_diffusion(raw: Mapping) -> tuple:
    """What a section `sampling` is right for: kind and mode, with their defaults."""
    section = raw.get("diffusion")
    section = section if isinstance(section, Mapping) else {}
    return tuple(section.get(key) or DIFFUSION[key].default for key in ("kind", "mode"))


def check_sections(raw: Mapping, required: tuple[str, ...], where: str, optional: tuple[str, ...] = ()) -> None:
    """ValueError for a section that is missing or not known; a warning for one that is ignored."""
    raw = as_section(raw, where)
    check_keys(where, raw, (*required, *optional, IGNORED))
    missing = [name for name in required if name not in raw]
    if missing:
        raise ValueError(f"{where}: section '{missing[0]}' is missing; found {listed(raw)}")
    if IGNORED in raw:
        # A fixed text: Python shows the same warning from the same line once.
        warnings.warn(
            "config section 'wandb' is ignored: train.logger=wandb sends the numbers of log.jsonl there", stacklevel=2
        )


def data_sections(raw: Mapping, where: str) -> dict[str, Any]:
    """The sections `train`, and where they are given `val` and `test`, of a raw configuration. Raises ValueError."""
    data = as_section(raw["data"], f"{where}: data")
    check_keys(f"{where}: section data", data, SPLITS)
    if "train" not in data:
        raise ValueError(f"{where}: section data must have the key 'train', got {listed(data)}")
    return {split: data[split] for split in SPLITS if data.get(split) is not None or split == "train"}


def _data_section(section: Any, where: str) -> dict:
    from geotdm_fast.data.section_forms import normalise_section

    return normalise_section(as_section(section, where), where)


def _graph(config: dict, where: str) -> dict | None:
    """The graph that the network is made for: its own key, or that of the data, which must agree in all sections."""
    found = {f"data.{split}.graph": section["graph"] for split, section in config["data"].items() if "graph" in section}
    found |= {"denoise_model.graph": config["denoise_model"]["graph"]} if config["denoise_model"]["graph"] else {}
    if not found:
        return None
    from geotdm_fast.graphs import GraphSpec

    specs = {key: GraphSpec.parse(value, f"{where}: {key}") for key, value in found.items()}
    (first, spec), *others = specs.items()
    for key, other in others:
        if other != spec:
            raise ValueError(f"{where}: {key} must be what {first} is, {shown(found[first])}, got {shown(found[key])}")
    return None if spec is None else spec.as_config()


def _check_history(config: dict, where: str) -> None:
    train, diffusion = config["train"], config["diffusion"]
    if not train["block_history"]:
        return
    if diffusion["mode"] != "cond":
        raise ValueError(f"{where}: train.block_history does not go with diffusion.mode uncond: no frame is given")
    given = sorted({t for first, last in train["cond_mask"] for t in range(first, last)})
    if given != list(range(len(given))):
        raise ValueError(
            f"{where}: train.block_history needs a train.cond_mask of frames at the beginning, as [[0, 10]], got "
            f"{train['cond_mask']}"
        )
    if config["data"]["train"]["kind"] == "pedestrian":
        raise ValueError(
            f"{where}: train.block_history needs longer windows than those of 20 frames of data.train.kind pedestrian"
        )


def check_train(config: Mapping, where: str) -> None:
    """Set the schedule that follows from other settings of a training; ValueError for those that do not agree."""
    train, kind = config["train"], config["data"]["train"]["kind"]
    if train["epoch"] == "runs" and kind not in ("npz", "file"):
        raise ValueError(
            f"{where}: train.epoch runs needs data.train.kind npz or file, whose files are runs, got {kind}"
        )
    if train["schedule"] is None:
        train["schedule"] = "none" if train["lr_decay_every"] is None else "step"
    if train["schedule"] == "step" and train["lr_decay_every"] is None:
        raise ValueError(f"{where}: train.schedule step needs train.lr_decay_every (epochs)")
    if train["nll_every_step"] is not None and train["eval"] == "nll":
        raise ValueError(f"{where}: train.nll_every_step goes with train.eval loss; eval_every_step says when for nll")
    if train["ema_decay"] >= 1:
        raise ValueError(f"{where}: train.ema_decay must be below 1, got {train['ema_decay']:g}")
    if train["num_epochs"] is None and train["num_steps"] is None:
        if train["max_minutes"] is None:
            raise ValueError(f"{where}: train must have one of num_epochs, num_steps, max_minutes, got none")
        if train["schedule"] == "cosine":
            raise ValueError(f"{where}: train.schedule cosine needs train.num_epochs or train.num_steps")


def _derive(config: dict, where: str) -> None:
    """Settings that follow from others, and those that must agree."""
    from geotdm_fast.reference import check_cutoff

    diffusion, train, network = config["diffusion"], config["train"], config["denoise_model"]
    check_cutoff(f"{where}: denoise_model", network["cutoff"], network["envelope"])
    network["graph"] = _graph(config, where)
    if diffusion["rescale_timesteps"] is None:
        diffusion["rescale_timesteps"] = config["data"]["train"]["kind"] == "pedestrian"
    check_train(config, where)
    needed, unused = ("cond_mask", "tot_len") if diffusion["mode"] == "cond" else ("tot_len", "cond_mask")
    if train[needed] is None:
        raise ValueError(f"{where}: diffusion.mode {diffusion['mode']} needs train.{needed}")
    if train[unused] is not None:
        raise ValueError(f"{where}: train.{unused} does not go with diffusion.mode {diffusion['mode']}")
    if train["context_noise"] > 0 and diffusion["mode"] != "cond":
        raise ValueError(f"{where}: train.context_noise does not go with diffusion.mode uncond: no frame is given")
    if train["context_noise_told"] and not train["context_noise"] > 0:
        raise ValueError(f"{where}: train.context_noise_told needs train.context_noise above 0")
    _check_history(config, where)
    derive_diffusion(config, where)
    if diffusion["kind"] == "gaussian":
        check_schedule(diffusion, where)


def check_schedule(diffusion: Mapping, where: str) -> None:
    """ValueError where the section's `beta_schedule_name` is none, or none of `num_timesteps` steps."""
    from geotdm_fast.diffusion.schedules import get_named_beta_schedule

    try:
        get_named_beta_schedule(diffusion["beta_schedule_name"], diffusion["num_timesteps"])
    except ValueError as error:
        raise ValueError(f"{where}: diffusion.beta_schedule_name, diffusion.num_timesteps: {error}") from error
