"""Launches the noise by counter on the current stream of its tensors' device."""

import math
from collections.abc import Sequence

import torch
import triton
from torch import Tensor

from geotdm_fast.kernels.egcl_launch import on_device
from geotdm_fast.kernels.trajectory_noise import trajectory_noise_kernel
from geotdm_fast.reference import Counters

BLOCK = 128


def trajectory_noise(counters: Counters, draws: Tensor, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """`geotdm_fast.reference.trajectory_noise` by one kernel; all tensors contiguous int64."""
    block, graph, sample, key = counters
    num_nodes, blocks = block.shape
    out = torch.empty(len(draws), num_nodes, *shape, dtype=dtype, device=block.device)
    if out.numel():
        with on_device(block):
            trajectory_noise_kernel[(triton.cdiv(block.numel(), BLOCK), len(draws))](
                block, graph, sample, key, draws, out, block.numel(), blocks, math.prod(shape),
                BLOCK=BLOCK, num_warps=4,
            )  # fmt: skip
    return out
