"""Draws systems by a shipped model, as often as it is told: `bench.sampling.small` starts one for each build.

Run as a file, with PYTHONPATH at the build to time. For every number on a line of its input it draws so often and
prints the seconds of each draw and the processor's seconds of all; the first line that it prints says that it is ready.
"""

import json
import sys
import time

import torch

import geotdm_fast
from geotdm_fast import Sampler
from geotdm_fast.data import collate, nbody_dataset
from geotdm_fast.model import Model


def main(checkpoint: str, num_systems: str, method: str, num_steps: str, threads: str) -> None:
    """Serve until the input ends."""
    torch.set_num_threads(int(threads))
    model = Model.load(checkpoint)
    data = nbody_dataset("charged", "test", num_systems=int(num_systems), progress=False)
    target, model_kwargs = model.task.split(collate([data[i] for i in range(len(data))]))
    sampler = Sampler(model.diffusion, method, int(num_steps))
    torch.manual_seed(0)
    first = sampler.draw(target.shape, model_kwargs)
    ready = {"package": geotdm_fast.__file__, "checksum": float(first.double().sum())}
    print(json.dumps(ready), flush=True)
    for line in sys.stdin:
        seconds, cpu = [], time.process_time()
        for _ in range(int(line)):
            start = time.perf_counter()
            sampler.draw(target.shape, model_kwargs)
            seconds.append(time.perf_counter() - start)
        print(json.dumps({"seconds": seconds, "cpu": time.process_time() - cpu}), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
