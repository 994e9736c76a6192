"""The weights that a training begins with."""

from collections.abc import Mapping

import torch

from geotdm_fast.checkpoint import build_network, load_official_state_dict, load_state_dict
from geotdm_fast.checkpoint_paths import checkpoint_file
from geotdm_fast.nn import EGTN
from geotdm_fast.runtime.tensor_files import load_tensors
from geotdm_fast.state_dicts import is_safetensors, plain_state_dict


def initial_network(config: Mapping) -> EGTN:
    """The network on the CPU, with the weights of `train.start_from`, or else those that follow from `train.seed`.

    train.start_from: what `checkpoint_file` takes; ours or an official one
    The global generator is left alone. Raises FileNotFoundError where there is no such file, ValueError for weights of
    other names or shapes than the network's.
    """
    train = config["train"]
    with torch.random.fork_rng(devices=[]):
        # Not torch.manual_seed: it would reseed every GPU.
        torch.default_generator.manual_seed(train["seed"])
        network = build_network(config)
    if train["start_from"] is not None:
        path = checkpoint_file(train["start_from"])
        if is_safetensors(path):
            state = plain_state_dict(load_tensors(path)[0], path)
        else:
            state = load_official_state_dict(path)
        load_state_dict(network, state, f"train.start_from: {path}")
    return network
