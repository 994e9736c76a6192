"""Launches the mean of the learned prior on the current stream of its tensors' device."""

import torch
from torch import Tensor

from geotdm_fast.kernels.configurations import padded
from geotdm_fast.kernels.egcl_launch import on_device
from geotdm_fast.kernels.reference_frame import reference_frame_backward_kernel, reference_frame_kernel

# Frames at a time.
FRAMES = 16


def reference_frame(y: Tensor, z: Tensor, ws: Tensor) -> tuple[Tensor, Tensor]:
    """`geotdm_fast.reference.reference_frame`, and the means of z [N, T]. All contiguous float32."""
    num_nodes, num_frames, dim = y.shape
    x_ref, mean = y.new_empty(num_nodes, dim, len(ws)), y.new_empty(num_nodes, num_frames)
    if num_nodes:
        with on_device(y):
            reference_frame_kernel[(num_nodes,)](
                y, z, ws, mean, x_ref, num_frames, len(ws),
                DIM=dim, WIDTH=z.shape[2], PADDED=padded(z.shape[2]), FRAMES=FRAMES, num_warps=4,
            )  # fmt: skip
    return x_ref, mean


def reference_frame_backward(
    grad: Tensor, y: Tensor, mean: Tensor, ws: Tensor, width: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of y, z [N, T, width] and ws, by a kernel and a sum; the same bits in every run."""
    num_nodes, num_frames, dim = y.shape
    grad_y, grad_z = torch.empty_like(y), y.new_empty(num_nodes, num_frames, width)
    grad_ws = y.new_empty(num_nodes, len(ws))
    if num_nodes:
        with on_device(y):
            reference_frame_backward_kernel[(num_nodes,)](
                grad, y, mean, ws, grad_y, grad_z, grad_ws, num_frames, len(ws),
                DIM=dim, WIDTH=width, PADDED=padded(width), FRAMES=FRAMES, num_warps=4,
            )  # fmt: skip
    return grad_y, grad_z, grad_ws.sum(0)
