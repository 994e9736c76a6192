"""Noise by counter: `geotdm_fast.reference.trajectory_noise` by the fastest implementation."""

from collections.abc import Sequence

import torch
from torch import Tensor

from geotdm_fast import reference
from geotdm_fast.ops import kernels
from geotdm_fast.ops.backend import current_backend
from geotdm_fast.reference import Counters


def trajectory_noise(counters: Counters, draws: Tensor, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """Equal to `geotdm_fast.reference.trajectory_noise` but for the last bit of float64's log, sqrt, cos and sin.

    On CUDA one Triton kernel in place of two hundred small ones; a CUDA graph can hold it. Raises ValueError where
    `backend("triton")` is asked for and Triton cannot run here.
    """
    if kernels.take_search("trajectory_noise", draws, current_backend()) and current_backend() != "reference":
        from geotdm_fast.kernels.trajectory_noise_launch import trajectory_noise as launch

        return launch(counters, draws, shape, dtype)
    return reference.trajectory_noise(counters, draws, shape, dtype)
