"""Samples drawn in shards of a few graphs, each a file of its own, and put together at the end."""

import pathlib
import time

import numpy as np
import torch

from geotdm_fast.data.trajectory import Batch
from geotdm_fast.paper.progress import Pieces
from geotdm_fast.runtime.files import read_npz, write_npz
from geotdm_fast.sampling import sample, select_graphs
from geotdm_fast.task import Task

# Node-frames times steps in one shard: seconds of work for a small network on either device.
WORK_CPU = 2_000_000
WORK_CUDA = 500_000_000


def graphs_per_shard(batch: Batch, num_samples: int, num_steps: int, device: torch.device) -> int:
    """How many graphs of `batch` make a shard, at least one."""
    work_of_graph = batch.x.shape[0] * batch.x.shape[-1] / batch.num_graphs * num_samples * num_steps
    return max(1, int((WORK_CUDA if device.type == "cuda" else WORK_CPU) // work_of_graph))


def draw_shards(
    pieces: Pieces,
    folder: pathlib.Path,
    sampler,
    batch: Batch,
    task: Task,
    *,
    num_samples: int,
    seed: int,
    progress: bool,
) -> tuple[torch.Tensor, float]:
    """`num_samples` samples of every graph of `batch`, [K, N, D, T_noisy], and the seconds that drawing took in all.

    folder: of the shards, `shard_<number>.npz`; those that are there are not drawn again
    seed: shard i is drawn with the seed 2^32 seed + i, so that no two graphs share their noise
    Raises OutOfTime between two shards when the time is up.
    """
    from geotdm_fast.runtime.bars import progress_bar

    device = torch.device(sampler.diffusion.device)
    # The cut is kept: another device would cut otherwise, and a shard's noise follows from its place.
    cut = pieces.once(
        f"{folder.name}_shards",
        lambda: {"graphs": graphs_per_shard(batch, num_samples, sampler.num_steps, device)},
    )["graphs"]
    drawn, seconds = [], 0.0
    parts = torch.arange(batch.num_graphs).split(cut)
    for number, graphs in enumerate(
        progress_bar(parts, desc=f"shards {folder.name}", unit="shard", disable=not progress)
    ):
        path = folder / f"shard_{number:05}.npz"
        if not path.is_file():
            pieces.check(f"{folder.name}, shard {number + 1} of {len(parts)}")
            _draw(path, sampler, select_graphs(batch, graphs), task, num_samples, (seed << 32) + number)
        shard = read_npz(path, required=("samples", "seconds"))
        drawn.append(torch.from_numpy(shard["samples"]))
        seconds += float(shard["seconds"])
    return torch.cat(drawn, dim=1), seconds


def _draw(path: pathlib.Path, sampler, batch: Batch, task: Task, num_samples: int, seed: int) -> None:
    began = time.monotonic()
    samples = sample(sampler, batch, task, num_samples=num_samples, seed=seed, progress=False)
    write_npz(path, samples=samples.float().numpy(), seconds=np.asarray(time.monotonic() - began))
