"""The two families of models, GeoTDM and Align Your Structures: networks, diffusion and checkpoints of either.

`denoise_model.type` of a configuration says which: it is there for models of Align Your Structures alone.
"""

from collections.abc import Mapping

import torch

from geotdm_fast import checkpoint as geotdm
from geotdm_fast.ays import checkpoint as ays
from geotdm_fast.ays.as_geotdm import AysDiffusion
from geotdm_fast.ays.config import build_network as build_ays_network
from geotdm_fast.ays.network import Network
from geotdm_fast.config.ays_files import is_ays
from geotdm_fast.config.settings import as_section
from geotdm_fast.diffusion import Flow, GeoTDM
from geotdm_fast.nn import EGTN
from geotdm_fast.nn.plain import bare
from geotdm_fast.runtime.choices import require_sections
from geotdm_fast.runtime.files import PathLike
from geotdm_fast.task import Task

__all__ = ["build_diffusion", "build_network", "is_ays", "load_checkpoint"]


def build_network(config: Mapping) -> EGTN | Network:
    """The network of `config['denoise_model']`, on the CPU."""
    if is_ays(config):
        return build_ays_network({"denoiser": config["denoise_model"]})
    return geotdm.build_network(config)


def build_diffusion(network: torch.nn.Module, config: Mapping, device: torch.device | str = "cpu") -> GeoTDM | Flow:
    """The diffusion of `config['diffusion']` with this network, bare or in a wrapper."""
    if not is_ays(config):
        return geotdm.build_diffusion(network, config, device)
    inner = bare(network)
    if not isinstance(inner, Network):
        raise TypeError(f"build_diffusion: network must be of Align Your Structures, got {type(inner).__name__}")
    require_sections("config", config, "diffusion", "train")
    for name in ("diffusion", "train"):
        as_section(config[name], f"config section {name}")
    return AysDiffusion(inner, config["diffusion"], device, Task.of_config(config).mode)


def load_checkpoint(
    path: PathLike, device: torch.device | str = "cpu", config: Mapping | None = None
) -> tuple[EGTN | Network, dict]:
    """The network of a checkpoint of either family, in eval mode on `device`, and its configuration.

    config: what `config.load_config` reads from the YAML file of an official checkpoint's training; ours hold theirs
    Raises as `checkpoint.load_checkpoint` and `ays.checkpoint.load_checkpoint` do, and ValueError for a file of one
    family given with a configuration of the other, and for a file whose configuration has the official section
    `denoiser`: it says neither what is given nor what data there were.
    """
    if config is not None:
        return (ays if is_ays(config) else geotdm).load_checkpoint(path, device, config)
    network, held = (ays if ays.holds_ays(path) else geotdm).load_checkpoint(path, device)
    if isinstance(network, Network) and not is_ays(held):
        raise ValueError(
            f"{path}: the config inside must have a section 'denoise_model', got 'denoiser', as official files have "
            "it; read it by geotdm_fast.ays.checkpoint.load_checkpoint"
        )
    return network, held
