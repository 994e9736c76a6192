"""Checkpoints: ours are safetensors with the configuration inside; official `state_dict` files are read as well."""

import json
import pickle
import struct
from collections.abc import Mapping

import torch
from torch import Tensor

from geotdm_fast.diffusion import GeoTDM, LossType, ModelMeanType, ModelVarType
from geotdm_fast.files import PathLike, atomic_path
from geotdm_fast.keys import check_choice, check_keys
from geotdm_fast.nn import EGTN
from geotdm_fast.nn.plain import bare
from geotdm_fast.state_dicts import is_safetensors, plain_state_dict

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
)
DIFFUSION_KEYS = (
    "beta_schedule_name",
    "num_timesteps",
    "mode",
    "rescale_timesteps",
    "prior",
    "model_mean_type",
    "model_var_type",
)


def build_network(config: Mapping) -> EGTN:
    """The `EGTN` of `config['denoise_model']`, whose keys are the arguments of its constructor."""
    return EGTN(**config["denoise_model"])


def build_diffusion(network: torch.nn.Module, config: Mapping, device: torch.device | str = "cpu") -> GeoTDM:
    """The `GeoTDM` of `config['diffusion']`: `DIFFUSION_KEYS`, of which the first two are required."""
    section = config["diffusion"]
    check_keys("config section diffusion", section, DIFFUSION_KEYS)
    mean_type = section.get("model_mean_type", "epsilon")
    var_type = section.get("model_var_type", "fixed_large")
    check_choice("diffusion.model_mean_type", mean_type, [member.name.lower() for member in ModelMeanType])
    check_choice("diffusion.model_var_type", var_type, [member.name.lower() for member in ModelVarType])
    return GeoTDM(
        network,
        section["beta_schedule_name"],
        section["num_timesteps"],
        ModelMeanType[mean_type.upper()],
        ModelVarType[var_type.upper()],
        LossType.MSE,
        device,
        rescale_timesteps=section.get("rescale_timesteps", False),
        mode=section.get("mode", "cond"),
        prior=section.get("prior"),
    )


def save_checkpoint(path: PathLike, network: torch.nn.Module, config: Mapping) -> None:
    """Write the network's state dict and `config` (with `denoise_model` and `diffusion`) to one safetensors file."""
    save_tensors(path, dict(bare(network).state_dict()), {CONFIG_KEY: json.dumps(config)})


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
        network = build_network(config)
        load_state_dict(network, load_official_state_dict(path), path)
        return network.to(device).eval(), dict(config)
    tensors, metadata = load_tensors(path)
    if CONFIG_KEY not in metadata and config is not None:
        network = build_network(config)
        load_state_dict(network, plain_state_dict(tensors, path), path)
        return network.to(device).eval(), dict(config)
    if config is not None:
        raise ValueError(f"{path}: config must be left out for our own checkpoints, which hold theirs")
    if CONFIG_KEY not in metadata:
        raise ValueError(
            f"{path} must be a geotdm_fast checkpoint, got a safetensors file without '{CONFIG_KEY}' in its metadata; "
            "weights alone need the config that they were trained with (--config FILE.yaml)"
        )
    try:
        config = json.loads(metadata[CONFIG_KEY])
        network = build_network(config)
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"{path}: the config inside must describe an EGTN, got {error!r}") from error
    load_state_dict(network, tensors, path)
    return network.to(device).eval(), config


def load_official_state_dict(path: PathLike) -> dict[str, Tensor]:
    """The `state_dict` of an official file, with the prefixes `module.` (DistributedDataParallel) and `_orig_mod.`
    (torch.compile) removed; it may lie under `model` or `state_dict` beside other entries (`state_dicts.ENTRIES`).

    Only tensors are read (`weights_only`): a file that would execute code is refused.
    Use: `load_state_dict(network, load_official_state_dict(path), path)`.
    """
    try:
        # Opened here: torch takes a path that ends in .safetensors for such a file.
        with open(path, "rb") as file:
            state = torch.load(file, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise FileNotFoundError(f"{path}: no such file") from None
    except UNREADABLE as error:
        first_line = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"{path} must be a PyTorch file of tensors, got an unreadable one ({first_line})") from error
    return plain_state_dict(state, path)


def load_state_dict(network: torch.nn.Module, state: Mapping[str, Tensor], source: PathLike) -> None:
    """Copy `state` into `network`, strictly. Raises ValueError naming the first name or shape that does not fit."""
    own = network.state_dict()
    missing = sorted(own.keys() - state.keys())
    foreign = sorted(state.keys() - own.keys())
    if missing or foreign:
        raise ValueError(
            f"{source} must hold the {len(own)} tensors of the network; "
            f"missing: {', '.join(missing[:3]) or 'none'}; unknown: {', '.join(foreign[:3]) or 'none'}"
        )
    for name, value in own.items():
        if value.shape != state[name].shape:
            raise ValueError(f"{source}: {name} must be {list(value.shape)}, got {list(state[name].shape)}")
    network.load_state_dict(state)


def save_tensors(path: PathLike, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write named tensors and text metadata as safetensors, atomically."""
    from safetensors.torch import save

    # Copies: safetensors refuses tensors that share memory or are not contiguous.
    copy = lambda tensor: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
    plain = {name: copy(tensor) for name, tensor in tensors.items()}
    # As bytes: safetensors' own writer makes files that only their owner can read, and hides the cause of a failure.
    with atomic_path(path) as aside:
        aside.write_bytes(save(plain, metadata=dict(metadata)))


def load_tensors(path: PathLike) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors (on the CPU) and the metadata of a safetensors file.

    Raises FileNotFoundError, or ValueError for a file that is not whole.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            names = file.keys()
            return {name: file.get_tensor(name) for name in names}, file.metadata() or {}
    except FileNotFoundError:
        raise FileNotFoundError(f"{path}: no such file") from None
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} must be a safetensors file, got a corrupt or foreign one ({error})") from error
