"""Checkpoints: ours are safetensors with the configuration inside; official `state_dict` files are read as well."""

import json
import mmap
import pathlib
import pickle
import pickletools
import struct
import zipfile
import zlib
from collections.abc import Mapping
from typing import IO, cast

import torch
from torch import Tensor

from geotdm_fast.config.diffusion_rules import MEAN_TYPES, SIGMA, check_keys_of_kind
from geotdm_fast.config.settings import DENOISE_MODEL, DIFFUSION, Setting, as_section, converted
from geotdm_fast.diffusion import Flow, GeoTDM, LossType, ModelMeanType, ModelVarType
from geotdm_fast.nn import EGTN
from geotdm_fast.nn.plain import bare
from geotdm_fast.runtime.choices import check_choice, check_keys, require_sections
from geotdm_fast.runtime.files import PathLike
from geotdm_fast.runtime.parsing import parse_json
from geotdm_fast.runtime.shown import plain, shown
from geotdm_fast.runtime.tensor_files import load_tensors, read_metadata, save_tensors
from geotdm_fast.state_dicts import check_is_geotdm, is_safetensors, plain_state_dict

CONFIG_KEY = "geotdm_fast_config"
# What torch.load raises for a file that is cut short, not a pickle, or refused.
UNREADABLE = (
    pickle.UnpicklingError,
    RuntimeError,
    EOFError,
    ValueError,
    LookupError,
    AssertionError,
    AttributeError,
    TypeError,
    struct.error,
    OSError,
    zipfile.BadZipFile,
    zlib.error,
    RecursionError,
)


def build_network(config: Mapping) -> EGTN:
    """The `EGTN` of `config['denoise_model']`, whose keys are the arguments of its constructor, on the CPU."""
    require_sections("build_network: config", config, "denoise_model")
    # Whatever torch.set_default_device says: a network on "meta" has no numbers to move.
    with torch.device("cpu"):
        return EGTN(**config["denoise_model"])


def build_network_for(tensors: Mapping[str, Tensor], config: Mapping, source: PathLike) -> EGTN:
    """The network of `config`, once its names and shapes are known to be those of `tensors`.

    Nothing of its size is allocated before: `config` may come from a damaged file. Raises ValueError naming `source`.
    """
    check_is_geotdm(tensors, source)
    try:
        section = config["denoise_model"]
        for name in ("n_layers", "n_layers_ref"):
            layers = section.get(name, 0)
            if isinstance(layers, int) and layers > len(tensors):
                raise ValueError(f"{name} must be at most {len(tensors)}, the tensors there, got {shown(layers)}")
        with torch.device("meta"):
            plan = EGTN(**section)
        # Texts where numbers or flags should be, which the constructor lets through.
        section = converted(section, DENOISE_MODEL, "denoise_model")
    except (KeyError, TypeError, ValueError, RuntimeError, OverflowError, AttributeError) as error:
        raise ValueError(
            f"{source}: the config inside must describe an EGTN, got {type(error).__name__}: {plain(error)}"
        ) from error
    check_state_dict(plan, tensors, source)
    return build_network({"denoise_model": section})


def build_diffusion(network: torch.nn.Module, config: Mapping, device: torch.device | str = "cpu") -> GeoTDM | Flow:
    """The `GeoTDM` of `config['diffusion']`, or its `Flow` where `kind` says so.

    num_timesteps is required, and beta_schedule_name for a `GeoTDM`; raises as `checked_diffusion` does.
    """
    section = checked_diffusion(config, DIFFUSION)
    kind, mean_type, var_type = section["kind"], section["model_mean_type"], section["model_var_type"]
    mode, prior = section.get("mode", "cond"), section.get("prior")
    rescale_timesteps = bool(section.get("rescale_timesteps", False))
    if kind == "flow":
        sigma = section.get("sigma")
        return Flow(
            network,
            section["num_timesteps"],
            device,
            prediction=mean_type,
            rescale_timesteps=rescale_timesteps,
            mode=mode,
            prior=prior,
            sigma=SIGMA if sigma is None else sigma,
            calls=section.get("calls"),
        )
    return GeoTDM(
        network,
        section["beta_schedule_name"],
        section["num_timesteps"],
        ModelMeanType[mean_type.upper()],
        ModelVarType[var_type.upper()],
        LossType.MSE,
        device,
        rescale_timesteps=rescale_timesteps,
        mode=mode,
        prior=prior,
        calls=section.get("calls"),
        call_step=section.get("call_step"),
    )


def checked_diffusion(config: Mapping, table: Mapping[str, Setting]) -> dict:
    """`config['diffusion']`, checked, with `kind`, `model_mean_type` and `model_var_type` filled in.

    table: its settings, as a configuration has them
    Raises ValueError naming the key, what was expected and what came: for a section that is none, an unknown key, a
    value of another kind, a name that is none, a key of the other kind of diffusion, more steps than there may be, and
    a missing num_timesteps, or beta_schedule_name of kind gaussian.
    """
    where = "config section diffusion"
    require_sections("config", config, "diffusion")
    section = as_section(config["diffusion"], where)
    check_keys(where, section, table)
    section = converted(section, table, "diffusion")
    kind = section.get("kind", "gaussian")
    check_choice("diffusion.kind", kind, MEAN_TYPES)
    check_keys_of_kind(section, where)
    for key in ("num_timesteps", "beta_schedule_name") if kind == "gaussian" else ("num_timesteps",):
        if section.get(key) is None:
            raise ValueError(f"{where}: required key '{key}' ({table[key].doc}) is missing")
    most = table["num_timesteps"].most
    if section["num_timesteps"] > most:
        raise ValueError(f"diffusion.num_timesteps must be at most {most}, got {shown(section['num_timesteps'])}")
    filled = {
        "kind": kind,
        "model_mean_type": section.get("model_mean_type") or MEAN_TYPES[kind][0],
        "model_var_type": section.get("model_var_type", "fixed_large"),
    }
    check_choice("diffusion.mode", section.get("mode", "cond"), table["mode"].choices)
    check_choice("diffusion.model_mean_type", filled["model_mean_type"], MEAN_TYPES[kind])
    check_choice("diffusion.model_var_type", filled["model_var_type"], [m.name.lower() for m in ModelVarType])
    return section | filled


def save_checkpoint(path: PathLike, network: torch.nn.Module, config: Mapping) -> None:
    """Write the network's state dict and `config` (with `denoise_model` and `diffusion`) to one safetensors file."""
    save_tensors(path, dict(bare(network).state_dict()), {CONFIG_KEY: json.dumps(config)})


def replace_section(path: PathLike, name: str, section: Mapping | None) -> bool:
    """Put `section` in place of the section `name` of the configuration in one of our checkpoints; None: leave it out.

    The weights stay the same bits. Returns whether the file had another section: else it is not written.
    Raises FileNotFoundError, ValueError for a damaged file and one without our configuration, OSError if it cannot be
    written; the earlier file stays.
    """
    metadata = read_metadata(path)
    if CONFIG_KEY not in metadata:
        raise ValueError(f"{path} must be a geotdm_fast checkpoint, got a file without '{CONFIG_KEY}' in its metadata")
    config = as_section(parse_json(metadata[CONFIG_KEY]), f"{path}: the config inside")
    if config.get(name) == section:
        return False
    tensors, metadata = load_tensors(path)
    config = {key: value for key, value in config.items() if key != name}
    if section is not None:
        config[name] = dict(section)
    save_tensors(path, tensors, metadata | {CONFIG_KEY: json.dumps(config)})
    return True


def load_checkpoint(
    path: PathLike, device: torch.device | str = "cpu", config: Mapping | None = None
) -> tuple[EGTN, dict]:
    """The network of a checkpoint, in eval mode on `device`, and its config.

    path: a file that `save_checkpoint` wrote; or, with `config`, an official `state_dict` file of any suffix (see
        `load_official_state_dict`), or safetensors without a configuration
    config: what `geotdm_fast.config.load_config` reads from the YAML file of the official checkpoint's training; our
        own files hold theirs
    Raises FileNotFoundError, or ValueError for a corrupt file, one without our config, or one whose tensors do not fit.
    """
    if not is_safetensors(path):
        if config is None:
            raise ValueError(
                f"{path} must be a geotdm_fast checkpoint, which holds its config; an official checkpoint needs the "
                "config that it was trained with, got none (--config FILE.yaml)"
            )
        tensors = load_official_state_dict(path)
        network = build_network_for(tensors, config, path)
        load_state_dict(network, tensors, path)
        return network.to(device).eval(), dict(config)
    tensors, metadata = load_tensors(path)
    if CONFIG_KEY not in metadata and config is not None:
        tensors = plain_state_dict(tensors, path)
        network = build_network_for(tensors, config, path)
        load_state_dict(network, tensors, path)
        return network.to(device).eval(), dict(config)
    if config is not None:
        raise ValueError(f"{path}: config must be left out for our own checkpoints, which hold theirs")
    if CONFIG_KEY not in metadata:
        raise ValueError(
            f"{path} must be a geotdm_fast checkpoint, got a safetensors file without '{CONFIG_KEY}' in its metadata; "
            "weights alone need the config that they were trained with (--config FILE.yaml)"
        )
    try:
        held = parse_json(metadata[CONFIG_KEY])
    except ValueError as error:
        raise ValueError(f"{path}: the config inside must describe an EGTN, got no JSON ({error})") from error
    network = build_network_for(tensors, held, path)
    load_state_dict(network, tensors, path)
    return network.to(device).eval(), held


def load_official_state_dict(path: PathLike) -> dict[str, Tensor]:
    """The `state_dict` of an official file, with the prefixes `module.` (DistributedDataParallel) and `_orig_mod.`
    (torch.compile) removed; it may lie under `model` or `state_dict` beside other entries (`state_dicts.ENTRIES`).

    Only tensors are read (`weights_only`): a file that would execute code is refused.
    Use: `load_state_dict(network, load_official_state_dict(path), path)`.
    """
    try:
        _check_whole(path)
        # Opened here: torch takes a path that ends in .safetensors for such a file.
        with open(path, "rb") as file:
            state = torch.load(file, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise FileNotFoundError(f"{path}: no such file") from None
    except UNREADABLE as error:
        why = str(error).splitlines()[0] if str(error) else type(error).__name__
        if isinstance(error, pickle.UnpicklingError) and "weights_only" in str(error).lower().replace(" ", "_"):
            # torch goes on with advice to read the file all the same, and to trust it.
            why = "it holds more than tensors, which is refused"
        raise ValueError(f"{path} must be a PyTorch file of tensors, got an unreadable one ({plain(why)})") from error
    return plain_state_dict(state, path)


def _check_whole(path: PathLike) -> None:
    """ValueError for a zip archive, as torch.save writes it, of which a part is not what was written.

    torch does not look at the archive's checksums. Files of torch before 1.6 are no archives and have none.
    """
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            if any(member.compress_type != zipfile.ZIP_STORED for member in archive.infolist()):
                raise ValueError("its parts are compressed, which torch.save does not do")
            damaged = archive.testzip()
        if damaged is not None:
            raise ValueError(f"its part {damaged} is damaged")
        return
    # The older format is pickles: magic number, version, machine, what was saved, and the names of its parts. What they
    # say that follows is allocated before it is read. A map gives, and allocates, nothing beyond the end.
    size = pathlib.Path(path).stat().st_size
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        for part in range(5):
            for _, value, _ in pickletools.genops(cast("IO[bytes]", content)):
                if part == 3 and isinstance(value, int) and abs(value) > size:
                    raise ValueError(f"it holds the number {shown(value)}, more than its own {size} bytes")


def load_state_dict(network: torch.nn.Module, state: Mapping[str, Tensor], source: PathLike) -> None:
    """Copy `state` into `network`, strictly. Raises ValueError naming the first name or shape that does not fit."""
    check_state_dict(network, state, source)
    network.load_state_dict(state)


def check_state_dict(network: torch.nn.Module, state: Mapping[str, Tensor], source: PathLike) -> None:
    """Raise ValueError naming the first name or shape of `state` that is not the network's."""
    own = network.state_dict()
    missing = sorted(own.keys() - state.keys())
    foreign = sorted(state.keys() - own.keys())
    if missing or foreign:
        raise ValueError(
            f"{source} must hold the {len(own)} tensors of the network; "
            f"missing: {plain(', '.join(missing[:3])) or 'none'}; unknown: {plain(', '.join(foreign[:3])) or 'none'}"
        )
    for name, value in own.items():
        if value.shape != state[name].shape:
            raise ValueError(f"{source}: {name} must be {list(value.shape)}, got {list(state[name].shape)}")
