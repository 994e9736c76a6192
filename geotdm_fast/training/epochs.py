"""How many windows an epoch has."""

from collections.abc import Mapping

from geotdm_fast.data.replicas import chosen_files
from geotdm_fast.data.trajectory import TrajectoryDataset


def windows_of_epoch(config: Mapping, dataset: TrajectoryDataset) -> int:
    """The windows after which an epoch of `config` has ended: all, or with `train.epoch: runs` one for each file.

    What is drawn is the same: windows in an order in which each comes before one comes again.
    """
    if config["train"]["epoch"] == "windows":
        return len(dataset)
    paths = chosen_files("data.train", dict(config["data"]["train"]), ())["path"]
    return min(len(dataset), len(paths) if isinstance(paths, (list, tuple)) else 1)
