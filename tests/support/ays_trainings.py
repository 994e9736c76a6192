"""Trainings of tiny models of Align Your Structures, for tests of several folders: their data and set-up."""

import copy
import warnings

import torch
from tiny_ays import interpolator_config, structure_config, write_runs

from geotdm_fast.config.ays_files import free_share
from geotdm_fast.data import open_dataset
from geotdm_fast.families import build_diffusion
from geotdm_fast.runtime.processes import Processes
from geotdm_fast.task import Task
from geotdm_fast.training import train
from geotdm_fast.training.batches import BatchSource
from geotdm_fast.training.device_data import DeviceData
from geotdm_fast.training.ema import WeightAverage
from geotdm_fast.training.flat_weights import FlatWeights
from geotdm_fast.training.initial_weights import initial_network
from geotdm_fast.training.objective import Objective
from geotdm_fast.training.step import TrainingStep


def folder_of_runs(tmp_path_factory):
    """A new folder with what `write_runs` writes."""
    made = tmp_path_factory.mktemp("ays")
    write_runs(made)
    return made


def positions_config(folder, conditioning, network, **train) -> dict:
    """Of a network that predicts positions; conditioning None: a structure model, of which `network` is not read."""
    if conditioning is None:
        config = structure_config(folder, **train)
    else:
        config = interpolator_config(folder, conditioning, network, **train)
    config["diffusion"]["model_mean_type"] = "start_x"
    return config


def trained_structure(folder):
    """The folder of a structure model's training on the conformers of `folder`."""
    run(structure_config(folder), folder / "structure")
    return folder / "structure"


def run(config, output):
    """Train on the CPU, without a word about bonds by distance."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return train(config, output_dir=output, device="cpu", progress=False)


def source_of(config, **more) -> BatchSource:
    """The batches of a training of this configuration."""
    data = DeviceData(open_dataset(config["data"]["train"]))
    about = {"seed": 3, "batch_size": 4, "num_timesteps": 25, "by_nodes": True}
    return BatchSource(data, num_noisy=Task.of_config(config).num_noisy(data.num_frames), **about | more)


def step_of(config, record=None, device="cpu", dataset=None, **source) -> TrainingStep:
    """The step of a training of this configuration, with an average of the weights; `lines`: what it said.

    source: further arguments of `BatchSource`
    """
    settings = config["train"]
    data = DeviceData(open_dataset(config["data"]["train"]) if dataset is None else dataset, device)
    task = Task.of_config(config)
    batches = BatchSource(
        data,
        seed=3,
        batch_size=settings["batch_size"],
        num_timesteps=config["diffusion"]["num_timesteps"],
        num_noisy=task.num_noisy(data.num_frames),
        accumulate=settings["accumulate"],
        rotate=settings["rotate"],
        by_nodes=True,
        free_share=free_share(config),
        **source,
    )
    network = initial_network(config).to(device)
    network.set_precision(settings["precision"])
    copied = copy.deepcopy(network)
    weights = FlatWeights(network)
    average = WeightAverage(copied, weights, 0.9)
    objective = Objective(build_diffusion(network, config, device), task)
    ours, lines = Processes(0, 1, torch.device(device)), []
    made = TrainingStep(settings, objective, weights, average, batches, ours, say=lines.append, record=record)
    made.lines = lines
    return made
