"""Trainings of tiny models of Align Your Structures, for tests of several folders: their data and set-up."""

import warnings

from tiny_ays import structure_config, write_runs

from geotdm_fast.data import open_dataset
from geotdm_fast.task import Task
from geotdm_fast.training import train
from geotdm_fast.training.batches import BatchSource
from geotdm_fast.training.device_data import DeviceData


def folder_of_runs(tmp_path_factory):
    """A new folder with what `write_runs` writes."""
    made = tmp_path_factory.mktemp("ays")
    write_runs(made)
    return made


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
