"""Launches the first layer of the network on the current stream of its tensors' device."""

import triton
from torch import Tensor

from geotdm_fast.kernels.configurations import padded
from geotdm_fast.kernels.egcl_launch import on_device
from geotdm_fast.kernels.node_embedding import (
    node_embedding_backward_kernel,
    node_embedding_kernel,
    node_embedding_sum_kernel,
)

# Nodes and inputs of a product, and frames that a program writes: a small batch occupies every multiprocessor.
NODES, INPUTS, FRAMES = 16, 16, 8
SLOTS = 64
SLOTS_AT_ONCE = 16


def node_embedding(
    h: Tensor, step: Tensor | None, frequency: Tensor, weight: Tensor, bias: Tensor, num_frames: int, precision: str
) -> Tensor:
    """`geotdm_fast.reference.node_embedding` of h [N, F]: [N, T, H]. All contiguous, and float32 but for step.

    frequency: [E // 2] - of the sinusoids
    """
    width, num_inputs = weight.shape
    z = h.new_empty(h.shape[0], num_frames, width)
    if z.numel():
        with on_device(h):
            node_embedding_kernel[(triton.cdiv(h.shape[0], NODES), triton.cdiv(num_frames, FRAMES))](
                h, h if step is None else step, frequency, weight, bias, z,
                h.shape[0], num_frames, h.shape[1], frequency.numel(), num_inputs,
                BLOCK=NODES, FRAMES=FRAMES, **_shared(step, width, precision),
            )  # fmt: skip
    return z


def node_embedding_backward(
    grad_z: Tensor, h: Tensor, step: Tensor | None, frequency: Tensor, num_inputs: int, precision: str
) -> tuple[Tensor, Tensor]:
    """Gradients of weight [H, num_inputs] and bias, by two kernels; the same bits in every run."""
    num_nodes, num_frames, width = grad_z.shape
    slots = min(SLOTS, triton.cdiv(num_nodes, NODES))
    total = h.new_empty(slots, num_inputs + 1, padded(width))
    grad_weight, grad_bias = h.new_empty(width, num_inputs), h.new_empty(width)
    with on_device(h):
        if slots:
            node_embedding_backward_kernel[(slots, triton.cdiv(num_inputs + 1, INPUTS))](
                grad_z, h, h if step is None else step, frequency, total,
                num_nodes, num_frames, h.shape[1], frequency.numel(), num_inputs,
                BLOCK=NODES, **_shared(step, width, precision),
            )  # fmt: skip
        node_embedding_sum_kernel[(num_inputs + 1,)](
            total, grad_weight, grad_bias, slots, num_inputs,
            WIDTH=width, PADDED=padded(width), SLOTS=SLOTS_AT_ONCE, num_warps=4,
        )  # fmt: skip
    return grad_weight, grad_bias


def _shared(step: Tensor | None, width: int, precision: str) -> dict:
    # The products are float32, of numbers that are rounded before: never by the matrix units.
    rounding = precision if precision == "fp32" else f"{precision}_emulated"
    sizes = {"WIDTH": width, "PADDED": padded(width), "INPUTS": INPUTS}
    return sizes | {"HAS_STEP": step is not None, "PRECISION": rounding, "num_warps": 4 if padded(width) <= 128 else 8}
