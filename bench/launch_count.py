"""How many kernels a training step launches on a GPU, counted without one: `python -m bench.launch_count`.

The step runs on the CPU, its Triton kernels in Triton's interpreter; what its CUDA graph would hold is counted: one
launch for every kernel and for every operation of torch that writes a tensor. It is a lower bound: some of torch's
operations launch more. At W-nbody's size launches cost more than most kernels' work: a test holds their number down.
"""

import os
import sys
from collections import Counter
from collections.abc import Callable
from typing import Any
from unittest import mock

os.environ.setdefault("TRITON_INTERPRET", "1")  # before triton is imported

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from bench.trainers import OurTrainer, dataset_of
from bench.workloads import make_workload
from geotdm_fast import backend
from geotdm_fast.tables import text_table

# Kernels of a call on CUDA, up to 32 frames: csrc/cuda/forward.cuh and backward.cuh, whose weights one kernel prepares.
COMPILED = {
    "geotdm_fast.temporal_attention_forward.default": 2,
    "geotdm_fast.temporal_attention_backward.default": 9,
}


class CountLaunches(TorchDispatchMode):
    """Counts by name what would be launched on a GPU while it is entered; `paused` within an interpreted kernel."""

    def __init__(self):
        super().__init__()
        self.launches: Counter[str] = Counter()
        self.paused = False

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if not self.paused:
            self.launches[str(func)] += COMPILED.get(str(func), int(_writes(func)))
        return out

    def kernel(self, call: Callable) -> Callable:
        """`GridExecutor.__call__`, counted."""

        def counted(executor, *args, **kwargs):
            self.launches[executor.fn.__name__] += 1
            self.paused = True
            try:
                return call(executor, *args, **kwargs)
            finally:
                self.paused = False

        return counted


def _writes(func: torch._ops.OpOverload) -> bool:
    """Whether the operation computes numbers: it is no view, and gives no memory as it is."""
    name = func.overloadpacket.__name__
    is_view = any(out.alias_info is not None and not out.alias_info.is_write for out in func._schema.returns)
    return func.namespace != "profiler" and not is_view and "empty" not in name and name not in _NOTHING


# Of these, too, nothing reaches the GPU.
_NOTHING = {"_unsafe_view", "is_same_size", "promote_types", "set_"}


def of_training(name: str, precision: str) -> Counter[str]:
    """The launches of a captured step of `geotdm train`, by name: of workload `name`, one narrow graph of it."""
    from triton.runtime.interpreter import GridExecutor

    workload = make_workload(name, num_graphs=1, num_frames=6, hidden_dim=16)
    count = CountLaunches()

    def record(call: Callable[[], Any]) -> tuple[Any, Callable[[], None]]:
        call()  # what is made once is made here
        with mock.patch.object(GridExecutor, "__call__", count.kernel(GridExecutor.__call__)), count:
            results = call()
        return results, lambda: None

    with backend("triton"):
        OurTrainer(workload, dataset_of(workload), precision, "cpu", record=record).train()
    return count.launches


def main() -> int:
    """Print the table: W-nbody in bf16, a chunk of edges for each layer."""
    launches = of_training("nbody", "bf16")
    rows = [[name.removesuffix(".default"), count] for name, count in launches.most_common() if count]
    print(text_table(["launches of a training step", "nbody bf16"], [*rows, ["all", launches.total()]]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
