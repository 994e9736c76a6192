"""What samples depend on, so that a folder of them is gone on with by the same request alone."""

import json

import torch
from torch import Tensor

from geotdm_fast.conditions import Conditions
from geotdm_fast.data.trajectory import Batch, TrajectoryDataset
from geotdm_fast.diffusion.sampler import Sampler
from geotdm_fast.nn.plain import bare
from geotdm_fast.runtime.digest import tensors_sha256
from geotdm_fast.sampling.rollout_blocks import Rollout
from geotdm_fast.task import Task


def describe(
    sampler: Sampler,
    batch: Batch,
    dataset: TrajectoryDataset,
    task: Task,
    *,
    num_samples: int,
    seed: int,
    checkpoint: str,
    rollout: Rollout | None = None,
) -> dict:
    """Everything that samples depend on, but for the machine's rounding, as plain values; tensors by their SHA-256."""
    diffusion = sampler.diffusion
    network = bare(diffusion.denoise_network)
    weights = network.state_dict()
    described = diffusion.described()
    tables = {name: torch.from_numpy(table) for name, table in described.pop("tables").items()}
    fields = {name: value for name, value in vars(batch).items() if isinstance(value, Tensor)}
    conditioning = task.given if task.is_conditional else task.num_frames
    request: dict[str, object] = {
        "checkpoint": checkpoint,
        "weights_sha256": tensors_sha256(weights),
        "diffusion_sha256": tensors_sha256(tables),
        **described,
        "dtype": str(diffusion.dtype).removeprefix("torch."),
        "precision": network.precision,
        "data": dataset.name,
        "data_sha256": tensors_sha256(fields),
        "scale": float(dataset.scale),
        "cond_mask" if task.is_conditional else "tot_len": conditioning,
        "num_graphs": batch.num_graphs,
        "num_samples": num_samples,
        "seed": seed,
        "method": sampler.method,
        "num_steps": sampler.num_steps,
        "spacing": sampler.spacing,
        "eta": float(sampler.eta),
    }
    if task.tells_noise:
        request["told_level"] = float(task.told_level)
    if batch.conditions is not None:  # their numbers are among the digests of the data
        request["conditions"] = Conditions.of(batch.condition_names, batch.conditions).as_config()
    if rollout is not None:
        request["rollout"] = {
            "num_frames": rollout.num_frames,
            "window": rollout.window,
            "overlap": rollout.overlap,
            "bound": str(rollout.bound),  # JSON has no inf
            "recentres": rollout.recentres,
        }
    return json.loads(json.dumps(request))  # as it will be read back: a tuple becomes a list
