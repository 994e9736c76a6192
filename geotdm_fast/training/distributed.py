"""One process or many under torchrun, with the few exchanges that training needs."""

import contextlib
import datetime
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Processes:
    """This process among those that train one model.

    rank: this process's number; 0 writes files and shows progress
    world_size: how many processes there are
    device: where this process computes
    host_group: the group for exchanges between hosts that must not wait for a device, None for one process
    """

    rank: int
    world_size: int
    device: torch.device
    host_group: Any = None

    @property
    def writes(self) -> bool:
        return self.rank == 0

    def sum(self, value: Tensor) -> Tensor:
        """The sum of `value` over all processes, on every process."""
        total = value.clone()
        self.add_up(total)
        return total

    def add_up(self, value: Tensor) -> None:
        """Replace `value` by its sum over all processes, the same bits on every one. Does not wait for a device."""
        if self.world_size > 1:
            import torch.distributed as dist

            dist.all_reduce(value)

    def agree(self, *numbers: int) -> tuple[int, ...]:
        """The largest of each number over all processes, on every process. Waits for the hosts, not for devices."""
        if self.world_size == 1:
            return numbers
        import torch.distributed as dist

        largest = torch.tensor(numbers)
        dist.all_reduce(largest, op=dist.ReduceOp.MAX, group=self.host_group)
        return tuple(largest.tolist())


@contextlib.contextmanager
def processes(device: torch.device | str | None = None) -> Iterator[Processes]:
    """The processes that torchrun started (gloo on CPU, nccl on CUDA), or this one alone.

    device: default `cuda` if there is one, else `cpu`; under torchrun a bare `cuda` means the local rank's own GPU
    A group that was already there is used and left; a new one is destroyed at the end.
    """
    device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError("train: device must be cpu on this machine (no CUDA device found), got cuda")
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    if world_size == 1:
        yield Processes(0, 1, device)
        return

    import torch.distributed as dist

    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")) if device.index is None else device.index)
        torch.cuda.set_device(device)
    ours = not dist.is_initialized()
    if ours:
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=datetime.timedelta(minutes=30))
    try:
        host_group = dist.new_group(backend="gloo") if device.type == "cuda" else None
        yield Processes(dist.get_rank(), dist.get_world_size(), device, host_group)
    finally:
        if ours:
            dist.destroy_process_group()
