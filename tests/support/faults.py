"""Networks that break one symmetry each: what the stress test of equivariance must find."""

from collections.abc import Callable

import torch
from torch import Tensor, nn


def shifted(x: Tensor, x_out: Tensor) -> Tensor:
    """Adds a constant to every output: what a wrong bias would do."""
    return x_out + 0.01


def stretched(x: Tensor, x_out: Tensor) -> Tensor:
    """Knows the first axis."""
    return torch.cat([1.1 * x_out[:, :1], x_out[:, 1:]], dim=1)


def mirrored(x: Tensor, x_out: Tensor) -> Tensor:
    """Knows left from right: the cross product of two steps in time."""
    if x.shape[1] == 2:
        return x_out
    step = x.diff(dim=2)
    chiral = torch.linalg.cross(step, step.roll(1, dims=2), dim=1)
    return x_out + 0.3 * nn.functional.pad(chiral, (1, 0))


def numbered(x: Tensor, x_out: Tensor) -> Tensor:
    """Knows the first node of the batch."""
    scale = torch.ones(len(x_out), 1, 1, dtype=x_out.dtype)
    scale[0] = 1.5
    return x_out * scale


def anchored(x: Tensor, x_out: Tensor) -> Tensor:
    """Answers to how far from the origin it is."""
    return x_out * (1 + 1e-3 * x.norm(dim=1, keepdim=True))


def timed(x: Tensor, x_out: Tensor) -> Tensor:
    """Knows the number of a frame."""
    return x_out * (1 + 0.1 * torch.arange(x_out.shape[2], dtype=x_out.dtype))


def faulty(kind: type[nn.Module], fault: Callable[[Tensor, Tensor], Tensor]) -> type[nn.Module]:
    """`kind`, a class of networks, whose displacements x_out at positions x become fault(x, x_out)."""

    class Faulty(kind):
        def forward(self, diffusion_t, x, *args, **kwargs):
            result = super().forward(diffusion_t, x, *args, **kwargs)
            return result if torch.is_tensor(result) else (fault(x, result[0]), result[1])

    return Faulty
