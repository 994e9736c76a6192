"""What the suites of single ops share: an op with its inputs, checked before it is timed."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from bench.common.correctness import FLOAT32
from bench.common.timing import synchronize
from geotdm_fast.ops import backend, status

BACKENDS = ("auto", "reference")
DIRECTIONS = ("forward", "backward")
# Seconds of a quick trial do not matter: the sizes are those of the workloads, one layer.
WORKLOADS = ("nbody", "md", "ped", "long")


@dataclass
class SingleOp:
    """An op as a function of nothing.

    call: () to (x_out, h_out); leaves: the tensors whose gradients backward gives; flop: of one forward call
    """

    name: str
    call: Callable[[], tuple[Tensor, Tensor]]
    leaves: list[Tensor]
    cotangents: tuple[Tensor, Tensor]
    flop: float
    device: torch.device

    def forward(self) -> list[Tensor]:
        """The outputs, without a graph."""
        with torch.no_grad():
            return list(self.call())

    def both(self) -> list[Tensor]:
        """Forward and backward: the gradients of all leaves."""
        return list(torch.autograd.grad(self.call(), self.leaves, self.cotangents, allow_unused=True))

    def run(self, direction: str) -> list[Tensor]:
        """`forward`, or `backward`, which is forward + backward."""
        found = self.forward() if direction == "forward" else self.both()
        synchronize(self.device)
        return found


def check(op: SingleOp, direction: str) -> None:
    """Raise ValueError unless `auto` gives what the reference gives, each tensor to 1e-4."""
    with backend("auto"):
        found = op.run(direction)
    with backend("reference"):
        expected = op.run(direction)
    whole = max(float(value.norm()) for value in expected if value is not None)
    for ours, theirs in zip(found, expected, strict=True):
        if ours is None and theirs is None:
            continue
        scale = max(float(theirs.norm()), 1e-3 * whole)
        error = float((ours - theirs).norm()) / scale
        if not error <= FLOAT32:
            raise ValueError(f"{op.name} {direction} is wrong, so it is not timed: error {error:.1e}")


def measure(benchmark, op: SingleOp, name: str, direction: str) -> None:
    """Time one backend of `op` with pytest-benchmark; the rate in operations a second stands in `extra_info`."""
    check(op, direction)
    with backend(name):
        benchmark(op.run, direction)
    active = {found.op: found.active for found in status()}[op.name] if name == "auto" else name
    flop = op.flop * (3 if direction == "backward" else 1)
    # Empty under --benchmark-disable.
    rate = flop / benchmark.stats["median"] / 1e9 if benchmark.stats else None
    benchmark.extra_info.update(active=active, gflop=flop / 1e9, gflops=rate)
