"""The first layer of the network: features of nodes and the diffusion step to the features of every row."""

import torch
from torch import Tensor

from geotdm_fast.reference.linear import linear
from geotdm_fast.reference.sinusoid import sinusoid


def node_embedding(
    h: Tensor, step: Tensor | None, weight: Tensor, bias: Tensor, num_frames: int, precision: str = "fp32"
) -> Tensor:
    """z_it = W_h h_it + W_s psi(step_i) + b with W = [W_h, W_s] and psi of `geotdm_fast.reference.sinusoid`.

    h: [N, F], or [N, T, F] where features change from frame to frame
    step: [N] any number type, or None: W is W_h alone
    weight: [H, F + E], bias: [H]; num_frames: T; precision: of the products' inputs
    Returns [N, T, H] in the dtype of h, an expanded view where the frames are alike.
    """
    rows = h[:, None] if h.dim() == 2 else h  # [N, 1 or T, F]
    z = part_of_layer(rows, weight[:, : h.shape[-1]], bias, precision)
    if step is not None:
        psi = sinusoid(step, weight.shape[1] - h.shape[-1], h.dtype)
        z = z + part_of_layer(psi, weight[:, h.shape[-1] :], None, precision)[:, None]
    return z.to(h.dtype).expand(-1, num_frames, -1)


def part_of_layer(inputs: Tensor, weight: Tensor, bias: Tensor | None, precision: str) -> Tensor:
    """A part of a layer, [..., I] to [..., H]: float32 for bfloat16, since parts are summed, then rounded."""
    if inputs.dtype == torch.bfloat16:
        inputs, weight, bias = inputs.float(), weight.float(), None if bias is None else bias.float()
    return linear(inputs, weight, bias, precision)
