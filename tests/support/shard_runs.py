"""Requests of a blink into a folder of shards, for the tests of sampling: in this process, and in ones that die."""

import pathlib

from tiny_models import charged_config, tiny_diffusion

from geotdm_fast.data import collate, open_dataset
from geotdm_fast.diffusion import Sampler
from geotdm_fast.sampling import sample_to_folder
from geotdm_fast.task import Task

CONFIG = charged_config()
TASK = Task.of_config(CONFIG)
NUM_SAMPLES, SHARD_SIZE = 3, 4
# Six graphs of three samples, at most four trajectories a shard: one graph each.
NUM_SHARDS = 6

# `geotdm sample` that dies by kill -9 in the n-th call of a function: just before it, halfway through, or after it.
RUN = """
import os, signal, sys
import numpy as np
import torch
from geotdm_fast.cli import main

torch.set_num_threads(1)
module, name, moment, count, rank, *command = sys.argv[1:]
calls = 0
owner = {"os": os, "np": np}[module]
real = getattr(owner, name)

def deadly(*args, **kwargs):
    global calls
    calls += 1
    dies = calls == int(count) and os.environ.get("RANK", "0") == rank
    if dies and moment == "before":
        os.kill(os.getpid(), signal.SIGKILL)
    result = real(*args, **kwargs)
    if dies and moment == "halfway":
        path = args[0]
        with open(path, "r+b") as file:
            file.truncate(os.path.getsize(path) // 2)
    if dies:
        os.kill(os.getpid(), signal.SIGKILL)
    return result

setattr(owner, name, deadly)
sys.exit(main(command))
"""


def into(folder, *, diffusion=None, config=CONFIG, **options):
    """`sample_to_folder` of the request that `command` asks for."""
    diffusion = diffusion or tiny_diffusion(config)
    dataset = open_dataset(config["data"]["test"], progress=False)
    batch = collate([dataset[i] for i in range(len(dataset))])
    sampler = Sampler(diffusion, options.pop("method", "ddpm"), options.pop("num_steps", None))
    options = {"num_samples": NUM_SAMPLES, "shard_size": SHARD_SIZE, "seed": 0, "progress": False} | options
    options = {"checkpoint": "charged.safetensors"} | options
    return sample_to_folder(folder, sampler, batch, dataset, Task.of_config(config), **options)


def command(checkpoint, folder, *more: str) -> list[str]:
    """The same request as arguments of `geotdm`."""
    return [
        "sample", str(checkpoint), "--num-samples", str(NUM_SAMPLES), "--shard-size", str(SHARD_SIZE),
        "--device", "cpu", "--quiet", "--out", str(folder), *more,
    ]  # fmt: skip


def content(folder: pathlib.Path) -> dict[str, bytes]:
    """The files of a folder, but for the lock."""
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.name != ".lock"}
