"""Configuration files: read, filled in from one table of settings, and checked key by key.

A training file has the sections `data` (`train`, perhaps `val` and `test`), `denoise_model`, `diffusion` and `train`;
a sampling file has `data` and `eval`. The official project's files are read as they are. `wandb` is accepted and
ignored: training writes its own log.
"""

import os
import pathlib
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from geotdm_fast.keys import check_choice, check_keys, nearest

REQUIRED = object()


@dataclass(frozen=True)
class Setting:
    """One setting of a section: its kind, what it is when left out, and what it means.

    kind: `int`, `float`, `bool`, `str`, `ranges` (list of [first, last + 1] frame pairs) or `name` (string or integer)
    default: the value when the key is left out, or REQUIRED; None also allows an explicit null
    least: the smallest value allowed, for numbers
    """

    kind: str
    default: Any
    doc: str
    choices: tuple[str, ...] = ()
    least: float | None = None


DENOISE_MODEL = {
    "n_layers": Setting("int", REQUIRED, "pairs of a spatial and a temporal layer", least=1),
    "node_dim": Setting("int", REQUIRED, "node features F", least=0),
    "edge_dim": Setting("int", REQUIRED, "edge features A", least=0),
    "hidden_dim": Setting("int", REQUIRED, "hidden width H", least=1),
    "time_emb_dim": Setting("int", REQUIRED, "width of the diffusion step's embedding", least=4),
    "act_fn": Setting("str", "silu", "activation", choices=("silu",)),
    "learn_ref_frame": Setting("bool", REQUIRED, "learn the prior's mean with a second small network"),
    "n_layers_ref": Setting("int", 2, "layers of the prior network", least=0),
    "num_w": Setting("int", REQUIRED, "frames to predict (the learned prior has one weight each)", least=1),
    "scale": Setting("float", 1.0, "positions are multiplied by this inside the network"),
    "pre_norm": Setting("bool", False, "distances instead of squared distances, coordinates not normalised"),
}

DIFFUSION = {
    "beta_schedule_name": Setting("str", "linear", "noise schedule, by name"),
    "num_timesteps": Setting("int", REQUIRED, "diffusion steps S", least=1),
    "mode": Setting("str", "cond", "forecast or interpolate given frames, or generate", choices=("cond", "uncond")),
    "rescale_timesteps": Setting("bool", None, "tell the network steps on a scale of 1000 (pedestrians: true)"),
    "prior": Setting(
        "str", None, "prior's mean (null: as learn_ref_frame says)",
        choices=("learned", "com", "com_last", "last_frame", "none"),
    ),
    "model_mean_type": Setting(
        "str", "epsilon", "what the network predicts", choices=("epsilon", "start_x", "previous_x")
    ),
    "model_var_type": Setting(
        "str", "fixed_large", "the reverse steps' variance", choices=("fixed_large", "fixed_small")
    ),
}  # fmt: skip

TRAIN = {
    "exp_name": Setting("name", REQUIRED, "name of the run; the output folder is output_base_path/exp_name"),
    "output_base_path": Setting("str", "outputs", "folder of all runs"),
    "seed": Setting("int", 0, "weights, data order, diffusion steps and noise all follow from it", least=0),
    "cond_mask": Setting("ranges", None, "conditional: frame ranges [first, last + 1] that are given"),
    "tot_len": Setting("int", None, "unconditional: the first frames that are generated", least=1),
    "num_epochs": Setting("int", None, "passes over the training data", least=1),
    "num_steps": Setting("int", None, "stop after so many steps (the first of all limits counts)", least=1),
    "max_minutes": Setting("float", None, "stop cleanly, with a checkpoint, after so many minutes", least=0),
    "batch_size": Setting("int", 128, "graphs per step, over all processes", least=1),
    "eval_batch_size": Setting("int", 256, "graphs per validation batch", least=1),
    "lr": Setting("float", 1e-4, "Adam's learning rate", least=0),
    "schedule": Setting("str", None, "learning rate over time (null: step if lr_decay_every is given, else none)",
                        choices=("none", "step", "cosine")),
    "lr_decay_every": Setting("int", None, "schedule step: epochs between two decays", least=1),
    "lr_decay": Setting("float", 0.8, "schedule step: the factor of a decay", least=0),
    "lr_min": Setting("float", 0.0, "schedule cosine: the last learning rate", least=0),
    "warmup_steps": Setting("int", 0, "steps of linear growth of the learning rate from 0", least=0),
    "clip": Setting("float", 1.0, "largest norm of the gradient; 0: no limit", least=0),
    "ema_decay": Setting("float", 0.0, "decay of the averaged weights that are saved for use; 0: off", least=0),
    "precision": Setting("str", "fp32", "arithmetic of the network", choices=("fp32", "tf32", "bf16")),
    "eval": Setting("str", "loss", "validation by the loss with fixed noise, or by the NLL (S times dearer)",
                    choices=("loss", "nll")),
    "eval_every_epoch": Setting("int", 1, "epochs between two validations", least=1),
    "log_every_step": Setting("int", 20, "steps between two lines of log.jsonl", least=1),
    "checkpoint_every_steps": Setting("int", None, "steps between two checkpoints", least=1),
    "checkpoint_every_minutes": Setting("float", 5.0, "minutes between two checkpoints; null: by steps only", least=0),
    "save_model": Setting("bool", True, "keep epoch_<n>.safetensors every save_every_epoch epochs"),
    "save_every_epoch": Setting("int", None, "epochs between two kept checkpoints; null: none are kept", least=1),
    "final_test": Setting("bool", False, "for `geotdm evaluate`; training never looks at the test data"),
    "final_test_ckpt": Setting("name", "best", "for `geotdm evaluate`: best, last or an epoch"),
    "K": Setting("int", 5, "for `geotdm evaluate`: samples per trajectory", least=1),
    "cluster": Setting("bool", False, "for `geotdm evaluate`: keep 20 cluster centres of the samples"),
}  # fmt: skip

EVAL = {
    "train_exp_name": Setting("name", REQUIRED, "name of the training run"),
    "model_ckpt": Setting("name", "best", "best, last or an epoch"),
    "eval_exp_name": Setting("name", None, "name of the results (null: train_exp_name + '_eval')"),
    "output_base_path": Setting("str", "outputs", "folder of all runs"),
    "cond_mask": Setting("ranges", None, "frame ranges that are given (null: as in training)"),
    "cond": Setting("bool", None, "conditional sampling (null: as in training)"),
    "seed": Setting("int", 0, "the samples follow from it", least=0),
    "model": Setting("str", "GeoTDM", "the model", choices=("GeoTDM",)),
    "batch_size": Setting("int", 128, "graphs per batch", least=1),
    "sampling_timesteps": Setting("int", None, "diffusion steps (null: as in training)", least=1),
    "K": Setting("int", 1, "samples per trajectory", least=1),
}

SPLITS = ("train", "val", "test")
IGNORED = "wandb"


def load_config(path: str | os.PathLike, overrides: Iterable[str] = ()) -> dict:
    """Read a training configuration (YAML) into the normal form, see `normalise_config`.

    overrides: `section.key=value` texts, the value in YAML (`train.lr=1e-3`, `data.train.root=/data`)
    Raises FileNotFoundError, or ValueError naming the file, the section, the key, what was expected and what came.
    """
    raw = read_yaml(path)
    for text in overrides:
        override(raw, text)
    return normalise_config(raw, where=str(path))


def load_sampling_config(path: str | os.PathLike, overrides: Iterable[str] = ()) -> dict:
    """Read a sampling configuration: {'data': section with explicit kind, 'eval': settings of the table EVAL}."""
    raw = read_yaml(path)
    for text in overrides:
        override(raw, text)
    where = str(path)
    _check_sections(raw, ("data", "eval"), where)
    return {"data": _data_section(raw["data"], f"{where}: data"), "eval": _fill(raw["eval"], EVAL, f"{where}: eval")}


def normalise_config(raw: Mapping, where: str = "config") -> dict:
    """Check a training configuration and fill in every default; applied twice it changes nothing more.

    Returns {'data': {'train': ..., 'val': ..., 'test': ...}, 'denoise_model': ..., 'diffusion': ..., 'train': ...} of
    plain values; each data section has an explicit 'kind', and sections `val` and `test` are there if they were given.
    Raises ValueError naming the section and the key.
    """
    if isinstance(raw, Mapping) and "eval" in raw and "train" not in raw:
        raise ValueError(f"{where}: this is a sampling config (section 'eval'); training needs a section 'train'")
    _check_sections(raw, ("data", "denoise_model", "diffusion", "train"), where)
    data = _mapping(raw["data"], f"{where}: data")
    check_keys(f"{where}: section data", data, SPLITS)
    if "train" not in data:
        raise ValueError(f"{where}: section data must have the key 'train', got {', '.join(data) or 'nothing'}")
    config = {
        "data": {split: _data_section(data[split], f"{where}: data.{split}") for split in SPLITS if split in data}
    }
    for name, table in (("denoise_model", DENOISE_MODEL), ("diffusion", DIFFUSION), ("train", TRAIN)):
        config[name] = _fill(raw[name], table, f"{where}: {name}")
    _derive(config, where)
    return config


def read_yaml(path: str | os.PathLike) -> dict:
    """The mapping in a YAML file. Nothing is executed. Raises FileNotFoundError, ValueError naming file and line."""
    import yaml

    path = pathlib.Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    try:
        value = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} must be YAML: {' '.join(str(error).split())}") from error
    if not isinstance(value, dict):
        raise ValueError(f"{path} must be YAML with sections, got {_came(value)}")
    return value


def write_yaml(path: str | os.PathLike, config: Mapping) -> None:
    """Write a configuration as YAML, atomically."""
    import yaml

    from geotdm_fast.files import atomic_path

    with atomic_path(path) as aside:
        aside.write_text(yaml.safe_dump(dict(config), sort_keys=False), encoding="utf-8")


def override(raw: dict, text: str) -> None:
    """Set one value in a raw configuration: `section.key=value`, the value in YAML. The key is checked later."""
    import yaml

    key, equals, value = text.partition("=")
    names = key.strip().split(".")
    if not equals or len(names) < 2 or not all(names):
        raise ValueError(f"override must be section.key=value, got '{text}'")
    section = raw
    for i, name in enumerate(names[:-1]):
        section = section.setdefault(name, {})
        if not isinstance(section, dict):
            raise ValueError(f"override '{text}': {'.'.join(names[: i + 1])} is not a section")
    try:
        section[names[-1]] = yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise ValueError(f"override '{text}': the value must be YAML ({' '.join(str(error).split())})") from error


def _check_sections(raw: Mapping, required: tuple[str, ...], where: str) -> None:
    raw = _mapping(raw, where)
    check_keys(where, raw, (*required, IGNORED))
    missing = [name for name in required if name not in raw]
    if missing:
        raise ValueError(f"{where}: section '{missing[0]}' is missing; found {', '.join(map(str, raw)) or 'nothing'}")
    if IGNORED in raw:
        # A fixed text: Python shows the same warning from the same line once.
        warnings.warn("config section 'wandb' is ignored: training writes log.jsonl and loss.png", stacklevel=4)


def _data_section(section: Any, where: str) -> dict:
    from geotdm_fast.data.open import normalise_section

    return normalise_section(_mapping(section, where), where)


def _fill(section: Any, table: Mapping[str, Setting], where: str) -> dict:
    section = _mapping(section, where)
    check_keys(f"{where}", section, table)
    filled = {}
    for key, setting in table.items():
        if key in section:
            filled[key] = _checked(section[key], setting, f"{where}.{key}")
        elif setting.default is REQUIRED:
            raise ValueError(f"{where}: required key '{key}' ({setting.doc}) is missing")
        else:
            filled[key] = setting.default
    return filled


def _checked(value: Any, setting: Setting, where: str) -> Any:
    if value is None:
        if setting.default is not None:
            raise ValueError(f"{where} must be {_expected(setting)}, got nothing")
        return None
    value = _converted(value, setting, where)
    if setting.choices:
        check_choice(where, value, setting.choices)
    if setting.least is not None and not value >= setting.least:
        raise ValueError(f"{where} must be at least {setting.least:g}, got {value:g}")
    return value


def _converted(value: Any, setting: Setting, where: str) -> Any:
    kind = setting.kind
    if kind == "bool" and isinstance(value, bool):
        return value
    if kind in ("int", "float") and not isinstance(value, bool):
        if isinstance(value, str):
            # YAML 1.1 reads 1e-4 (no point) as text.
            try:
                value = float(value)
            except ValueError:
                value = None
        if kind == "float" and isinstance(value, (int, float)) and abs(value) < float("inf"):
            return float(value)
        if kind == "int" and isinstance(value, int):
            return value
        if kind == "int" and isinstance(value, float) and value.is_integer():
            return int(value)
    if kind in ("str", "name") and isinstance(value, str) and value:
        return value
    if kind == "name" and isinstance(value, int) and not isinstance(value, bool):
        return value
    if kind == "ranges" and _are_ranges(value):
        return [list(pair) for pair in value]
    raise ValueError(f"{where} must be {_expected(setting)}, got {_came(value)}")


def _are_ranges(value: Any) -> bool:
    whole = lambda i: isinstance(i, int) and not isinstance(i, bool)
    return (
        isinstance(value, (list, tuple))
        and len(value) > 0
        and all(isinstance(pair, (list, tuple)) and len(pair) == 2 and all(map(whole, pair)) for pair in value)
        and all(0 <= first < last for first, last in value)
    )


def _derive(config: dict, where: str) -> None:
    """Settings that follow from others, and those that must agree."""
    diffusion, train, network = config["diffusion"], config["train"], config["denoise_model"]
    if diffusion["rescale_timesteps"] is None:
        diffusion["rescale_timesteps"] = config["data"]["train"]["kind"] == "pedestrian"
    if train["schedule"] is None:
        train["schedule"] = "none" if train["lr_decay_every"] is None else "step"
    if train["schedule"] == "step" and train["lr_decay_every"] is None:
        raise ValueError(f"{where}: train.schedule step needs train.lr_decay_every (epochs)")
    if train["ema_decay"] >= 1:
        raise ValueError(f"{where}: train.ema_decay must be below 1, got {train['ema_decay']:g}")
    if train["num_epochs"] is None and train["num_steps"] is None:
        if train["max_minutes"] is None:
            raise ValueError(f"{where}: train must have one of num_epochs, num_steps, max_minutes, got none")
        if train["schedule"] == "cosine":
            raise ValueError(f"{where}: train.schedule cosine needs train.num_epochs or train.num_steps")
    needed, unused = ("cond_mask", "tot_len") if diffusion["mode"] == "cond" else ("tot_len", "cond_mask")
    if train[needed] is None:
        raise ValueError(f"{where}: diffusion.mode {diffusion['mode']} needs train.{needed}")
    if train[unused] is not None:
        raise ValueError(f"{where}: train.{unused} does not go with diffusion.mode {diffusion['mode']}")
    if diffusion["prior"] == "learned" and not network["learn_ref_frame"]:
        raise ValueError(f"{where}: diffusion.prior learned needs denoise_model.learn_ref_frame true")


def _mapping(value: Any, where: str) -> Mapping:
    if not isinstance(value, Mapping):
        raise ValueError(f"{where} must be a section of keys and values, got {_came(value)}")
    return value


def _expected(setting: Setting) -> str:
    words = {
        "int": "a whole number",
        "float": "a number",
        "bool": "true or false",
        "str": "a text",
        "name": "a name or a number",
        "ranges": "a list of frame ranges [[first, last + 1], ...]",
    }
    return f"one of {', '.join(setting.choices)}" if setting.choices else words[setting.kind]


def _came(value: Any) -> str:
    return "nothing" if value is None else f"{type(value).__name__} {value!r}"


__all__ = [
    "DENOISE_MODEL", "DIFFUSION", "EVAL", "TRAIN", "Setting", "load_config", "load_sampling_config", "nearest",
    "normalise_config", "override", "read_yaml", "write_yaml",
]  # fmt: skip
