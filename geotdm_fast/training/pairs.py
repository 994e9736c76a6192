"""What a student learns from: its teacher's draws, and the noise that each was made of."""

import pathlib
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from geotdm_fast.conditioning import frames_of
from geotdm_fast.data.trajectory import Trajectory, TrajectoryDataset
from geotdm_fast.diffusion.noise import TrajectoryNoise
from geotdm_fast.runtime.shown import shown
from geotdm_fast.samples.manifest import read_manifest
from geotdm_fast.samples.record import Samples
from geotdm_fast.samples.shards import read_shards
from geotdm_fast.task import Task

# What a student's checkpoint says of its teacher: of the request in the manifest of the pairs.
_TOLD = ("checkpoint", "weights_sha256", "method", "num_steps", "spacing", "seed", "num_graphs", "num_samples")


@dataclass(frozen=True)
class Pairs:
    """The noise of a data set of draws, in the order graph by graph and sample by sample.

    dataset: num_graphs x num_samples trajectories whose drawn frames are the teacher's
    seed, num_samples: of the request that drew them. The noise is not stored: it follows from them, see
        `TrajectoryNoise`
    """

    dataset: TrajectoryDataset
    seed: int
    num_samples: int

    def noise(self, items: Tensor, batch: Tensor, dim: int, num_noisy: int) -> Tensor:
        """[N, dim, num_noisy] float32: what the draws `items` [B] int64 began with, batch [N] being the draw of a node.

        The same bits as the teacher had on this device.
        """
        graph, sample = items // self.num_samples, items % self.num_samples
        return TrajectoryNoise(self.seed, graph, sample, batch, dim, num_noisy, torch.float32).alone(0)


# Methods that add noise on the way, in more than one step.
_RANDOM = ("ddpm", "dpmpp_2m_sde")


def adds_noise(name: object, method: str) -> str:
    """What is said of draws by a method that adds noise: they do not follow from the noise that they begin with.

    name: what the message calls the method
    """
    return (
        f"{name} must add no noise on the way, so that a draw follows from the noise that it begins with, "
        f"got {shown(method)}"
    )


def open_pairs(folder: pathlib.Path, dataset: TrajectoryDataset, task: Task) -> Pairs:
    """The pairs in a finished folder of shards, drawn of trajectories of `dataset`, evenly spaced.

    Raises FileNotFoundError for no such folder, ValueError for one that lacks shards, of another task, of a method that
    adds noise, or whose frames are not those of `dataset`.
    """
    request = read_manifest(folder).request
    if request["num_steps"] > 1 and (request["method"] in _RANDOM or request["eta"] > 0):
        raise ValueError(adds_noise(f"{folder}: the teacher's method", request["method"]))
    task_there = request.get("cond_mask", request.get("tot_len"))
    own_task = [list(frames) for frames in task.given] if task.is_conditional else task.num_frames
    if task_there != own_task:
        raise ValueError(f"{folder} must hold draws of a teacher that is given {own_task}, got {task_there}")
    graphs, samples = dataset.spread(request["num_graphs"]), read_shards(folder)
    if len(graphs) != samples.num_graphs:
        raise ValueError(f"{folder} must hold draws of {dataset.name}, got {samples.num_graphs} for {len(graphs)}")
    items = [item for g, graph in enumerate(graphs) for item in _drawn(folder, graph, samples, g, task)]
    name = f"{dataset.name}, drawn by {request['checkpoint']}"
    drawn = TrajectoryDataset(items, name=name, unit=dataset.unit, scale=dataset.scale)
    return Pairs(drawn, request["seed"], request["num_samples"])


def about_teacher(folder: pathlib.Path) -> dict:
    """Where the draws in a folder are from, as a student's checkpoint tells it."""
    request = read_manifest(folder).request
    return {name: request[name] for name in _TOLD if name in request}


def pairs_of(config: Mapping, split: str, dataset: TrajectoryDataset) -> Pairs | None:
    """The pairs that a student learns from (split train) or is validated on (val); None for any other training.

    The section `distill` of the configuration gets to know the teacher.
    """
    section = config.get("distill")
    if section is None:
        return None
    folder = pathlib.Path(section["pairs"]) / split
    if split == "train":
        section["teacher"] = about_teacher(folder)
    return open_pairs(folder, dataset, Task.of_config(config))


def _drawn(folder: pathlib.Path, graph: Trajectory, samples: Samples, number: int, task: Task) -> list[Trajectory]:
    """`graph` once for each sample of it, with the frames that were drawn. ValueError where it is another graph."""
    own, num_frames = samples.nodes(number), graph.num_frames
    if task.is_conditional:
        frames = frames_of(task.mask(num_frames))
        given, noisy = list(frames.given), list(frames.noisy)
    else:
        given, noisy = [], list(range(task.num_noisy(num_frames)))
    there = samples.x_given[own], samples.target[own]
    expected = (graph.x[..., index].float().numpy() for index in (given, noisy))
    if not all(np.array_equal(a, b) for a, b in zip(there, expected, strict=True)):
        raise ValueError(f"{folder}: trajectory {number} must be that of data, got another; draw the pairs anew")
    drawn = []
    for sample in samples.samples[:, own]:
        x = graph.x.float().clone()
        x[..., noisy] = torch.from_numpy(sample).float()
        drawn.append(replace(graph, x=x))
    return drawn
