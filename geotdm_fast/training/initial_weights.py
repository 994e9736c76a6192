"""The weights that a training begins with."""

import pathlib
import warnings
from collections.abc import Mapping

import torch

from geotdm_fast.ays import checkpoint as ays
from geotdm_fast.ays.network import Network
from geotdm_fast.checkpoint import load_official_state_dict, load_state_dict
from geotdm_fast.checkpoint_paths import checkpoint_file
from geotdm_fast.data.chemistry.keys import knows_bond_orders
from geotdm_fast.families import build_network
from geotdm_fast.nn import EGTN
from geotdm_fast.runtime.tensor_files import load_tensors
from geotdm_fast.state_dicts import check_is_geotdm, is_safetensors, plain_state_dict


def initial_network(config: Mapping) -> EGTN | Network:
    """The network on the CPU, with the weights that follow from `train.seed`. The global generator is left alone."""
    with torch.random.fork_rng(devices=[]):
        # Not torch.manual_seed: it would reseed every GPU.
        torch.default_generator.manual_seed(config["train"]["seed"])
        return build_network(config)


def load_structure_model(network: EGTN | Network, config: Mapping) -> None:
    """Copy the weights of the structure model `pretrain_ckpt` into the network, in place, on whatever device.

    With `denoise_model.freeze_spatial` the weights of the file do not learn. Raises FileNotFoundError, and ValueError
    for a file that is none; warns where that model knew bond orders which the data do not have.
    """
    section = config["denoise_model"]
    path = checkpoint_file(section["pretrain_ckpt"])
    try:
        ays.load_pretrained(network, path, freeze=section["freeze_spatial"])
    except ValueError as error:
        raise ValueError(f"denoise_model.pretrain_ckpt: {error}") from error
    _warn_of_bond_orders(config, path)


def _warn_of_bond_orders(config: Mapping, path: pathlib.Path) -> None:
    """Say where a structure model knew bond orders and the data of this training do not: its bonds are all single."""
    held = ays.config_of(path)
    data = None if held is None else held.get("data")
    learned = data.get("train") if isinstance(data, Mapping) else None
    if isinstance(learned, Mapping) and knows_bond_orders(learned) and not knows_bond_orders(config["data"]["train"]):
        warnings.warn(
            f"denoise_model.pretrain_ckpt: {path} was trained with the bond orders of its molecules, and data.train "
            "has none: every bond is taken as single; molecule: FILE.sdf in the data sections tells them",
            stacklevel=3,
        )


def load_initial_weights(network: EGTN | Network, start_from: str, directory: pathlib.Path) -> None:
    """Copy the weights of `train.start_from` into the network, in place, on whatever device.

    start_from: what `checkpoint_file` takes; ours or an official one; directory: of the run
    Raises FileNotFoundError where there is no such file, ValueError for weights of other names or shapes than the
    network's, and for a file in the folder of the run, whose files are replaced.
    """
    path = checkpoint_file(start_from)
    if path.resolve().parent == directory.resolve():
        raise ValueError(
            f"train.start_from must lie outside of the folder of the run, {directory}, whose files are replaced, got "
            f"{path}; train.exp_name names another folder"
        )
    where = f"train.start_from: {path}"
    if isinstance(network, Network):
        ays.load_state_dict(network, ays.load_tensors_of(path)[0], where)
        return
    state = plain_state_dict(load_tensors(path)[0], path) if is_safetensors(path) else load_official_state_dict(path)
    check_is_geotdm(state, where)
    load_state_dict(network, state, where)
