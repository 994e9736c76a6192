"""Launches the step of a diffusion sampler on the current stream of its tensors' device."""

import triton
from torch import Tensor

from geotdm_fast.kernels.diffusion_step import diffusion_step_kernel
from geotdm_fast.kernels.egcl_launch import on_device

# Elements of a program: few enough that 40,000 of them, a small batch, occupy every multiprocessor.
BLOCK = 256


def diffusion_step(
    x: Tensor,
    before: Tensor,
    positions: Tensor | None,
    output: Tensor,
    noise: Tensor | None,
    x_ref: Tensor | None,
    first: Tensor | None,
    coefficients: Tensor,
    step: Tensor,
) -> None:
    """`geotdm_fast.reference.diffusion_step` for float32; x, before, positions, noise and coefficients contiguous.

    A graph is one program for each axis, so its sums have an order: the same bits in every run.
    """
    num_nodes, dim, num_frames = x.shape
    num_places = num_nodes * num_frames
    if num_places == 0:
        return
    programs = triton.cdiv(num_places, BLOCK) if first is None else first.numel() - 1
    ref_strides = (0, 0, 0)
    if x_ref is not None:
        ref_strides = (*x_ref.stride()[:2], x_ref.stride(2) if x_ref.shape[2] > 1 else 0)
    with on_device(x):
        diffusion_step_kernel[(programs, dim)](
            x, before, x if positions is None else positions, output, x if noise is None else noise,
            x if x_ref is None else x_ref, step if first is None else first, coefficients, step,
            num_places, num_frames, *output.stride(), *ref_strides,
            DIM=dim, HAS_NOISE=noise is not None, HAS_REF=x_ref is not None, HAS_GRAPHS=first is not None, BLOCK=BLOCK,
            num_warps=4,
        )  # fmt: skip
