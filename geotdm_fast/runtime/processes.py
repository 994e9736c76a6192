"""One process or many under torchrun, with the few exchanges that training and sampling need."""

import contextlib
import datetime
import os
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from geotdm_fast.runtime.memory import is_out_of_memory
from geotdm_fast.runtime.shown import plain


class ProcessDied(ConnectionError):
    """Another process of the group has ended, or cannot be reached."""


@contextlib.contextmanager
def _exchange(rank: int) -> Iterator[None]:
    """An exchange with the others; a lost connection is told in words of ours."""
    try:
        yield
    except RuntimeError as error:
        if is_out_of_memory(error):
            raise
        # gloo begins with a place in its code and goes on with what might be the cause.
        said = re.sub(r"^\[[^]]*:\d+\]\s*", "", str(error)).split(". ")[0]
        raise ProcessDied(f"process {rank}: another process has died (see its message; {plain(said)})") from error


@dataclass(frozen=True)
class Processes:
    """This process among those that do one piece of work.

    Every exchange raises ProcessDied, an OSError, when another process has died.

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
    def alone(self) -> bool:
        return self.world_size == 1

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

            with _exchange(self.rank):
                dist.all_reduce(value)

    def agree(self, *numbers: int) -> tuple[int, ...]:
        """The largest of each number over all processes, on every process. Waits for the hosts, not for devices."""
        if self.world_size == 1:
            return numbers
        import torch.distributed as dist

        largest = torch.tensor(numbers)
        with _exchange(self.rank):
            dist.all_reduce(largest, op=dist.ReduceOp.MAX, group=self.host_group)
        return tuple(largest.tolist())

    def from_first(self, function: Callable[[], Any]) -> Any:
        """What `function` returns on process 0, on every process; an error that it raises there is raised on all."""
        if self.world_size == 1:
            return function()
        import torch.distributed as dist

        said: list[Any] = [None, None]
        if self.rank == 0:
            try:
                said[0] = function()
            except Exception as error:
                said[1] = error
        with _exchange(self.rank):
            dist.broadcast_object_list(said, group=self.host_group)
        if said[1] is not None:
            raise said[1]
        return said[0]

    def wait_for_all(self, meanwhile: Callable[[], object]) -> None:
        """Return when every process has come here; `meanwhile` is called a few times a second until then."""
        if self.world_size == 1:
            return
        import torch.distributed as dist

        with _exchange(self.rank):
            arrival = dist.all_reduce(torch.zeros(1), group=self.host_group, async_op=True)
        while not arrival.is_completed():
            meanwhile()
            time.sleep(0.2)
        with _exchange(self.rank):
            arrival.wait()


@contextlib.contextmanager
def processes(
    device: torch.device | str | None = None,
    *,
    hosts_only: bool = False,
    patience: datetime.timedelta = datetime.timedelta(minutes=30),
) -> Iterator[Processes]:
    """The processes that torchrun started (gloo on CPU, nccl on CUDA), or this one alone.

    device: default `cuda` if there is one, else `cpu`; under torchrun a bare `cuda` means the local rank's own GPU
    hosts_only: nothing is exchanged between devices, so gloo does on CUDA too
    patience: how long an exchange waits for the last process
    A group that was already there is used and left; a new one is destroyed at the end.
    """
    device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError("device must be cpu on this machine (no CUDA device found), got cuda")
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
        dist.init_process_group("gloo" if hosts_only or device.type != "cuda" else "nccl", timeout=patience)
    try:
        by_device = dist.get_backend() != "gloo"
        host_group = dist.new_group(backend="gloo", timeout=patience) if by_device else None
        yield Processes(dist.get_rank(), dist.get_world_size(), device, host_group)
    finally:
        if ours:
            dist.destroy_process_group()
