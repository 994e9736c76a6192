"""Checkpoints of Align Your Structures: ours, official state dicts and Lightning files, read without executing them."""

import json
import warnings
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from geotdm_fast.ays.config import NETWORKS, build_network
from geotdm_fast.ays.network import Network
from geotdm_fast.checkpoint import (
    CONFIG_KEY,
    check_state_dict,
    load_official_state_dict,
)
from geotdm_fast.config.ays_files import is_ays
from geotdm_fast.config.ays_tables import DENOISER
from geotdm_fast.config.settings import fill
from geotdm_fast.nn.plain import bare
from geotdm_fast.runtime.files import PathLike
from geotdm_fast.runtime.parsing import parse_json
from geotdm_fast.runtime.tensor_files import load_tensors, read_metadata, save_tensors
from geotdm_fast.state_dicts import is_safetensors, plain_state_dict

# Before the names of a network's tensors in a Lightning file.
PREFIX = "denoiser."


def save_checkpoint(path: PathLike, network: torch.nn.Module, config: Mapping) -> None:
    """Write the network's state dict and `config` to one safetensors file.

    config: with `denoise_model` and `diffusion`, or `denoiser` as official files have it
    """
    save_tensors(path, dict(bare(network).state_dict()), {CONFIG_KEY: json.dumps(config)})


def load_checkpoint(
    path: PathLike, device: torch.device | str = "cpu", config: Mapping | None = None
) -> tuple[Network, dict]:
    """The network of a checkpoint, in eval mode on `device`, and its configuration.

    path: a file that `save_checkpoint` wrote; or, with `config`, an official file (`load_tensors_of`)
    config: of the training's YAML file, by `geotdm_fast.config.load_config` or `geotdm_fast.ays.config.load_config`;
        our own files hold theirs
    Raises FileNotFoundError, or ValueError for a corrupt file, one without a configuration, and one of a GeoTDM model.
    """
    tensors, held = load_tensors_of(path)
    if held is not None and config is not None:
        raise ValueError(f"{path}: config must be left out for our own checkpoints, which hold theirs")
    if held is None and config is None:
        raise ValueError(f"{path}: an official checkpoint needs the config that it was trained with, got none")
    config = dict(held if isinstance(held, Mapping) else config or {})
    network = _network_for(tensors, config, path)
    load_state_dict(network, tensors, path)
    return network.to(device).eval(), config


def _network_for(tensors: Mapping[str, Tensor], config: Mapping, source: PathLike) -> Network:
    """The network of `config`, once its names and shapes are known to be those of `tensors`.

    Nothing of its size is allocated before: `config` may come from a damaged file. Raises ValueError naming `source`.
    """
    try:
        name = "denoise_model" if is_ays(config) else "denoiser"
        section = fill(config[name], DENOISER, name)
        if section["n_layers"] > len(tensors):
            raise ValueError(f"n_layers must be at most {len(tensors)}, the tensors there, got {section['n_layers']}")
        with torch.device("meta"):
            plan = NETWORKS[section["type"]](**section)
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        message = f"the config must describe a network of Align Your Structures, got {type(error).__name__}: {error}"
        raise ValueError(f"{source}: {message}") from error
    check_state_dict(plan, tensors, source)
    return build_network({"denoiser": section})


def load_tensors_of(path: PathLike) -> tuple[dict[str, Tensor], dict | None]:
    """Names and tensors of a network in a file, without `denoiser.` before them, and the configuration if it holds one.

    path: ours; a state dict of any suffix, bare or under `state_dict` and others; a Lightning file. Only tensors are
    read (`weights_only`): a file that would execute code is refused. Raises ValueError for a file of a GeoTDM model,
    and for one with a name both with and without `denoiser.`.
    """
    held: Any = None
    if is_safetensors(path):
        tensors, metadata = load_tensors(path)
        tensors = plain_state_dict(tensors, path)
        if CONFIG_KEY in metadata:
            try:
                held = parse_json(metadata[CONFIG_KEY])
            except ValueError as error:
                raise ValueError(f"{path}: the config inside must be JSON, got none ({error})") from error
    else:
        tensors = load_official_state_dict(path)
    if isinstance(held, Mapping) and "denoise_model" in held and not is_ays(held):
        raise ValueError(f"{path}: {_OF_GEOTDM}")
    for name in tensors:
        if PREFIX + name in tensors:
            raise ValueError(f"{path} must have one tensor of a name, got both {name} and {PREFIX}{name}")
    tensors = {name.removeprefix(PREFIX): value for name, value in tensors.items()}
    check_is_ays(tensors, path)
    return tensors, held


def holds_ays(path: PathLike) -> bool:
    """Whether a file is one of ours with a configuration of a model of Align Your Structures. Reads no tensors.

    Raises FileNotFoundError; a damaged file is none, and whoever reads it says what is wrong.
    """
    held = config_of(path)
    return held is not None and (is_ays(held) or "denoiser" in held)


def config_of(path: PathLike) -> Mapping | None:
    """The configuration in a file, or None where it holds none that can be read. Reads no tensors."""
    if not is_safetensors(path):
        return None
    try:
        held = parse_json(read_metadata(path).get(CONFIG_KEY, ""))
    except ValueError:
        return None
    return held if isinstance(held, Mapping) else None


def load_state_dict(network: torch.nn.Module, state: Mapping[str, Tensor], source: PathLike) -> None:
    """Copy `state` into `network`, strictly. Raises ValueError naming the first name or shape that does not fit."""
    check_is_ays(state, source)
    check_state_dict(network, state, source)
    network.load_state_dict(state)


def load_pretrained(network: torch.nn.Module, path: PathLike, *, freeze: bool) -> list[str]:
    """Copy a structure model into an interpolator: what both have, under the names of the file. Returns these names.

    freeze: every parameter whose name is in the file stops learning, as with the official `freeze_spatial`
    Raises ValueError for a file of which the network has nothing, one with tensors that the network lacks or has in
    other shapes, one of a GeoTDM model, and, with freeze, one that has all that could learn. Warns where the file has
    fewer spatial layers than the network, whose others keep their random weights and learn.
    """
    tensors, _ = load_tensors_of(path)
    own = network.state_dict()
    foreign = sorted(tensors.keys() - own.keys())
    if foreign:
        raise ValueError(
            f"{path} must hold a structure model of this network; unknown: {', '.join(foreign[:3])} "
            f"({len(foreign)} of {len(tensors)} tensors)"
        )
    for name, value in tensors.items():
        if own[name].shape != value.shape:
            raise ValueError(f"{path}: {name} must be {list(own[name].shape)}, got {list(value.shape)}")
    if freeze and all(name in tensors for name, _ in network.named_parameters()):
        raise ValueError(
            f"{path} must hold a structure model where freeze_spatial is true, got all {len(tensors)} tensors of the "
            "network: nothing would learn"
        )
    own_layers, layers = _spatial_layers(own), _spatial_layers(tensors)
    if layers < own_layers:
        warnings.warn(
            f"{path} has {len(layers)} spatial layers, the network {len(own_layers)}: the others keep their random "
            "weights and learn",
            stacklevel=3,
        )
    network.load_state_dict(tensors, strict=False)
    if freeze:
        for name, parameter in network.named_parameters():
            if name in tensors:
                parameter.requires_grad_(False)
    return sorted(tensors)


def _spatial_layers(names: Iterable[str]) -> set[str]:
    """The numbers of the layers in the list `s_modules`."""
    return {name.split(".")[1] for name in names if name.startswith("s_modules.")}


_OF_GEOTDM = (
    "this is a checkpoint of a GeoTDM model, whose layers have the same names and compute something else; "
    "geotdm_fast.load reads it"
)


def check_is_ays(state: Mapping[str, Tensor], source: PathLike) -> None:
    """Raise ValueError where the tensors are those of a GeoTDM model: without the embedding that every network has."""
    has_embedding = any(name.startswith("embedding.") for name in state)
    if not has_embedding and any(name.startswith(("s_modules.", "t_modules.")) for name in state):
        raise ValueError(f"{source}: {_OF_GEOTDM}")
