"""The official YAML files of Align Your Structures: read unchanged into a normal form of their own sections."""

import math
import os
import re
import warnings
from collections.abc import Iterable, Mapping
from typing import Any

from geotdm_fast.config.ays_tables import DATASET, DENOISER, DIFFUSION, OPTIM, READ_ALWAYS, TRAIN, without_empty
from geotdm_fast.config.files import override, read_yaml
from geotdm_fast.config.settings import Setting, as_section, fill
from geotdm_fast.runtime.choices import check_choice, check_keys
from geotdm_fast.runtime.shown import shown

SECTIONS = ("dataset", "denoiser", "diffusion", "optim", "train", "eval", "test", "wandb", "num_blocks")
# Blocks of a rollout where the file does not say.
NUM_BLOCKS = 4
_PATH = re.compile(r"(train|val|test)_(traj_dir|conf_path|split)(_[a-z0-9]+)?")
_LISTS = ("features", "transforms", "datasets", "mixing")


def load_config(path: str | os.PathLike, overrides: Iterable[str] = ()) -> dict:
    """An official file, checked and filled in: `normalise_config` of its YAML.

    overrides: `section.key=value` texts, the value in YAML (`train.batch_size=4`)
    Raises FileNotFoundError, or ValueError naming the file, the section and the key.
    """
    raw = read_yaml(path)
    for text in overrides:
        override(raw, text)
    return normalise_config(raw, where=str(path))


def normalise_config(raw: Mapping, where: str = "config") -> dict:
    """Sections `dataset`, `denoiser`, `diffusion`, `optim`, `train`, `eval`, `test` and the number `num_blocks`.

    Every setting of `geotdm_fast.config.ays_tables` is there. `dataset` has `paths` beside (the keys *_traj_dir,
    *_conf_path and *_split as they are, with their variables), `features`, `order` (of
    `transforms: ['edge_order|3']`), `datasets` and `ratio` (of `mixing`). `eval` and `test` are as in the file. `wandb`
    is accepted and left out. Applied twice it changes nothing more.
    A key that the official code reads and the file lacks is said in one warning, with the default taken.
    Raises ValueError naming the section and the key.
    """
    raw = as_section(raw, where)
    check_keys(where, raw, SECTIONS)
    missing = [name for name in ("denoiser", "diffusion") if raw.get(name) is None]
    if missing:
        raise ValueError(f"{where}: section '{missing[0]}' is missing")
    tables = {"denoiser": DENOISER, "diffusion": DIFFUSION, "optim": OPTIM, "train": TRAIN}
    given: dict[str, Any] = {name: raw.get(name) or {} for name in ("dataset", "eval", "test", *tables)}
    given["train"] = without_empty(given["train"], TRAIN)
    given["denoiser"] = without_empty(given["denoiser"], DENOISER)
    config: dict[str, Any] = {"dataset": _dataset(given["dataset"], f"{where}: dataset") if given["dataset"] else None}
    for name, table in tables.items():
        is_left_out = name == "train" and raw.get(name) is None
        config[name] = None if is_left_out else fill(given[name], table, f"{where}: {name}")
    for name in ("eval", "test"):
        config[name] = dict(as_section(given[name], f"{where}: {name}"))
    blocks = fill({"num_blocks": raw.get("num_blocks", NUM_BLOCKS)}, _BLOCKS, where)
    config["num_blocks"] = blocks["num_blocks"]
    _say_defaults(raw, config, where)
    return config


_BLOCKS = {"num_blocks": Setting("int", NUM_BLOCKS, "blocks of a rollout", least=1)}


def _dataset(section: Any, where: str) -> dict:
    from geotdm_fast.data.chemistry.names import COLUMNS, OFFICIAL

    section = as_section(section, where)
    paths = {key: value for key, value in section.items() if isinstance(key, str) and _PATH.fullmatch(key)}
    given = as_section(section.get("paths") or {}, f"{where}.paths")
    own = (*_LISTS, "paths", "order", "ratio")
    plain = {key: value for key, value in section.items() if key not in paths and key not in own}
    check_keys(where, plain, (*DATASET, *_LISTS))
    filled = fill(plain, DATASET, where)
    paths = given or paths
    for key, value in paths.items():
        if value is not None and not isinstance(value, str):
            raise ValueError(f"{where}.{key} must be a path, got {shown(value)}")
    features = section.get("features", list(OFFICIAL))
    for name in _names(features, f"{where}.features"):
        check_choice(f"{where}.features", name, COLUMNS)
    if "order" in section:
        order = fill({"order": section["order"]}, _ORDER, where)["order"]
    else:
        order = _order(section.get("transforms", ["edge_order|3"]), where)
    datasets = _names(section.get("datasets") or [], f"{where}.datasets")
    about = {"paths": dict(paths), "features": list(features), "order": order}
    return filled | about | {"datasets": list(datasets), "ratio": _ratio(section, where)}


_ORDER = {"order": Setting("int", 1, "bonds that an edge may be long", least=1)}


def _names(value: Any, where: str) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
        raise ValueError(f"{where} must be a list of names, got {shown(value)}")
    return value


def _ratio(section: Mapping, where: str) -> dict[str, float]:
    """The share of each set, by its name."""
    mixing = as_section(section.get("mixing") or {}, f"{where}.mixing")
    key, ratio = ("ratio", section["ratio"]) if section.get("ratio") else ("mixing.ratio", mixing.get("ratio"))
    ratio = as_section(ratio or {}, f"{where}.{key}")
    for name, share in ratio.items():
        is_number = isinstance(share, (int, float)) and not isinstance(share, bool)
        if not isinstance(name, str) or not is_number or not 0 <= share < math.inf:
            expected = "must have names and numbers of at least 0"
            raise ValueError(f"{where}.{key} {expected}, got {shown(share)} for {shown(name)}")
    return dict(ratio)


def _order(transforms: Any, where: str) -> int:
    """The number in ['edge_order|3']; 1 without transforms."""
    if not transforms:
        return 1
    is_text = isinstance(transforms, list) and len(transforms) == 1 and isinstance(transforms[0], str)
    found = re.fullmatch(r"edge_order\|(\d+)", transforms[0]) if is_text else None
    if found is None or int(found[1]) < 1:
        raise ValueError(f"{where}.transforms must be ['edge_order|N'] with N of at least 1, got {shown(transforms)}")
    return int(found[1])


def _say_defaults(raw: Mapping, config: Mapping, where: str) -> None:
    """One line about what the official code would have stopped for."""
    lacking = [
        f"{section}.{key} is taken as {'null' if config[section][key] is None else config[section][key]}"
        for section, key in READ_ALWAYS
        if isinstance(raw.get(section), Mapping) and key not in raw[section] and config[section] is not None
    ]
    if lacking:
        warnings.warn(f"{where}: {', '.join(lacking)}: the file does not say", UserWarning, stacklevel=3)
