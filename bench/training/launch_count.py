"""How many kernels a step launches on a GPU, counted without one: `python -m bench.training.launch_count`.

A step of training, and one of sampling. It runs on the CPU but for its Triton kernels, which are counted and not run;
what its CUDA graph would hold is counted: one launch for every kernel and for every operation of torch that writes a
tensor. It is a lower bound: some of torch's operations launch more. At W-nbody's size launches cost more than most
kernels' work: a test holds their number down.
"""

import argparse
import os
import sys
from collections import Counter
from collections.abc import Callable
from typing import Any
from unittest import mock

os.environ.setdefault("TRITON_INTERPRET", "1")  # before triton is imported

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from bench.common.workloads import Workload, make_workload
from bench.training.trainers import OurTrainer, dataset_of
from geotdm_fast import GeoTDM, LossType, ModelMeanType, ModelVarType, Sampler, backend
from geotdm_fast.diffusion.noise import TrajectoryNoise
from geotdm_fast.runtime.cuda_graphs import CaptureCache
from geotdm_fast.scores.tables import text_table

# Kernels of a call on CUDA, up to 32 frames: csrc/cuda/forward.cuh and backward.cuh, whose weights one kernel prepares.
COMPILED = {
    "geotdm_fast.temporal_attention_forward.default": 2,
    "geotdm_fast.temporal_attention_backward.default": 9,
}


class CountLaunches(TorchDispatchMode):
    """Counts by name what would be launched on a GPU while it is entered."""

    def __init__(self):
        super().__init__()
        self.launches: Counter[str] = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.launches[str(func)] += COMPILED.get(str(func), int(_writes(func)))
        return func(*args, **(kwargs or {}))

    def record(self, call: Callable[[], Any]) -> tuple[Any, Callable[[], None]]:
        """In the place of a recorder of CUDA graphs (`Captured`): counts the call; a replay does nothing."""
        from triton.runtime.interpreter import GridExecutor

        def launch(executor, *args, **kwargs) -> None:
            self.launches[executor.fn.__name__] += 1

        # No launch depends on what a kernel computes, so none is run.
        with mock.patch.object(GridExecutor, "__call__", launch):
            call()  # what is made once is made here
            self.launches.clear()
            with self:
                results = call()
        return results, lambda: None


def _writes(func: torch._ops.OpOverload) -> bool:
    """Whether the operation computes numbers: it is no view, and gives no memory as it is."""
    name = func.overloadpacket.__name__
    is_view = any(out.alias_info is not None and not out.alias_info.is_write for out in func._schema.returns)
    return func.namespace != "profiler" and not is_view and "empty" not in name and name not in _NOTHING


# Of these, too, nothing reaches the GPU.
_NOTHING = {"_unsafe_view", "is_same_size", "promote_types", "set_"}


def of_training(name: str, precision: str) -> Counter[str]:
    """The launches of a captured step of `geotdm train`, by name: of workload `name`, one narrow graph of it."""
    workload, count = _narrow(name), CountLaunches()
    with backend("triton"):
        OurTrainer(workload, dataset_of(workload), precision, "cpu", record=count.record).train()
    return count.launches


def of_sampling(name: str, precision: str) -> Counter[str]:
    """The launches of a captured step of ancestral sampling, by name, its noise drawn by counter."""
    workload, count = _narrow(name), CountLaunches()
    network = workload.network().set_precision(precision)
    kinds = ModelMeanType.EPSILON, ModelVarType.FIXED_LARGE, LossType.MSE
    diffusion = GeoTDM(network, "linear", 100, *kinds, "cpu")
    diffusion.captures = CaptureCache(record=count.record)
    model_kwargs = workload.inputs()
    model_kwargs.pop("diffusion_t")
    x, who = model_kwargs.pop("x"), torch.zeros(workload.batch.num_graphs, dtype=torch.int64)
    noise = TrajectoryNoise(0, who, who, model_kwargs["batch"], *x.shape[1:], x.dtype)
    with backend("triton"):
        Sampler(diffusion, num_steps=2).draw(x.shape, model_kwargs, noise=noise)
    return count.launches


def _narrow(name: str) -> Workload:
    return make_workload(name, num_graphs=1, num_frames=6, hidden_dim=16)


COUNTS = {"training": of_training, "sampling": of_sampling}


def main(arguments: list[str] | None = None) -> int:
    """Print a table for each step: W-nbody in bf16, in training a chunk of edges for each layer."""
    parser = argparse.ArgumentParser(prog="python -m bench.training.launch_count", description=__doc__.split("\n\n")[0])
    parser.add_argument("--step", nargs="+", choices=COUNTS, default=[*COUNTS], help="default: both")
    for step in parser.parse_args(arguments).step:
        launches = COUNTS[step]("nbody", "bf16")
        rows = [[name.removesuffix(".default"), count] for name, count in launches.most_common() if count]
        print(text_table([f"launches of a {step} step", "nbody bf16"], [*rows, ["all", launches.total()]]), end="\n\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
