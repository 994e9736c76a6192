"""From a configuration to a network and its diffusion; the official YAML files are read by `config.ays_official`."""

import os
from collections.abc import Iterable, Mapping

import torch

from geotdm_fast.ays.diffusion import OurDiffusion
from geotdm_fast.ays.egtn import EGTN
from geotdm_fast.ays.interpolator import EGInterpolator
from geotdm_fast.ays.network import Network
from geotdm_fast.ays.simple import EGInterpolatorSimple
from geotdm_fast.ays.stack import EGStack
from geotdm_fast.ays.structure import BasicES
from geotdm_fast.config.ays_official import load_config, normalise_config
from geotdm_fast.runtime.choices import check_choice

__all__ = ["NETWORKS", "build_diffusion", "build_network", "from_yaml", "load_config", "normalise_config"]

NETWORKS: dict[str, type[Network]] = {
    "basic_es": BasicES,
    "interpolator": EGInterpolator,
    "interpolator_simple": EGInterpolatorSimple,
    "stack": EGStack,
    "egtn": EGTN,
}


def build_network(config: Mapping) -> Network:
    """The network of `config['denoiser']`, on the CPU."""
    section = dict(config["denoiser"])
    check_choice("denoiser.type", section.get("type"), NETWORKS)
    with torch.device("cpu"):
        return NETWORKS[section["type"]](**section)


def build_diffusion(config: Mapping) -> OurDiffusion:
    """The `OurDiffusion` of `config['diffusion']`."""
    return OurDiffusion(**config["diffusion"])


def from_yaml(path: str | os.PathLike, overrides: Iterable[str] = ()) -> tuple[Network, OurDiffusion, dict]:
    """Network, diffusion and normal configuration of an official file, which needs none of the files that it names."""
    config = load_config(path, overrides)
    return build_network(config), build_diffusion(config), config
