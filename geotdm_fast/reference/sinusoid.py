"""Sinusoidal embedding of a scalar."""

import math

import torch
from torch import Tensor


def sinusoid(tau: Tensor, dim: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """[sin(tau f_0..f_n-1) | cos(tau f_0..f_n-1)] with f_k = 10000^(-k / (n - 1)), n = dim // 2 (Vaswani et al. 2017).

    tau: [M] any number type, may be negative - a diffusion step or a difference of frames
    dim: width of the embedding; a zero column is appended when it is odd
    Returns [M, dim] in `dtype`.
    """
    # bfloat16 cannot tell step 999 from 1000.
    wide = torch.promote_types(dtype, torch.float32)
    angle = tau.to(wide)[:, None] * frequencies(dim, wide, tau.device)
    embedding = torch.cat([angle.sin(), angle.cos()], dim=-1).to(dtype)  # [M, 2 n]
    return torch.nn.functional.pad(embedding, (0, 1)) if dim % 2 else embedding


def frequencies(dim: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """[n]: the f_k of a sinusoid of width `dim`."""
    n = dim // 2
    exponent = torch.arange(n, dtype=dtype, device=device) * (-math.log(10000.0) / max(n - 1, 1))
    return exponent.exp()
