"""Launches the gated feed-forward on the current stream of its tensors' device."""

from typing import NamedTuple

import torch
import triton
from torch import Tensor

from geotdm_fast.kernels.configurations import Configuration, padded, rows_backward_configuration, rows_configuration
from geotdm_fast.kernels.egcl_launch import capability, executed, on_device
from geotdm_fast.kernels.gv_ff import NUMBERS, gv_ff_backward_kernel, gv_ff_kernel
from geotdm_fast.reference import GVFFParams


class GVFFGradients(NamedTuple):
    """Gradients of k [R, H] and u [R, D], and of the parameters as in GVFFParams; None if nobody wants them."""

    k: Tensor
    u: Tensor
    params: tuple[Tensor, ...] | None


def gv_ff(k: Tensor, u: Tensor, params: GVFFParams, precision: str) -> tuple[Tensor, Tensor]:
    """`geotdm_fast.reference.gv_ff` of k [R, H] and u [R, D], by one kernel; all float32, contiguous. Deterministic."""
    q, w = torch.empty_like(k), torch.empty_like(u)
    if len(k):
        rows = rows_configuration(padded(k.shape[1]), precision, capability(k))
        with on_device(k):
            gv_ff_kernel[(triton.cdiv(len(k), rows.block),)](
                k, u, *params, q, w, len(k), **_options(k, u, rows, precision)
            )  # fmt: skip
    return q, w


def gv_ff_backward(
    grad_q: Tensor, grad_w: Tensor, k: Tensor, u: Tensor, q: Tensor, params: GVFFParams, precision: str, wanted: bool
) -> GVFFGradients:
    """The gradients, by one kernel, and by torch's products over rows those of the weights where they are wanted.

    Its products are of float32 whatever the precision: in bfloat16 Triton put what they read behind its fence on sm_90.
    Deterministic where torch's products are, which round as `torch.set_float32_matmul_precision` says.
    """
    precision = "fp32"
    grad_k, grad_u = torch.empty_like(k), torch.empty_like(u)
    p, grad_out, grad_z = (torch.empty_like(k) for _ in range(3))
    numbers = k.new_empty(len(k), NUMBERS.value)
    if len(k):
        rows = rows_backward_configuration(padded(k.shape[1]), precision, capability(k))
        with on_device(k):
            gv_ff_backward_kernel[(triton.cdiv(len(k), rows.block),)](
                grad_q, grad_w, k, u, q, *params, grad_k, grad_u, p, grad_out, grad_z, numbers, len(k),
                **_options(k, u, rows, precision),
            )  # fmt: skip
    if not wanted:
        return GVFFGradients(grad_k, grad_u, None)
    return GVFFGradients(grad_k, grad_u, _of_weights(k, p, grad_out, grad_z, numbers, params))


def _of_weights(
    k: Tensor, p: Tensor, grad_out: Tensor, grad_z: Tensor, numbers: Tensor, params: GVFFParams
) -> tuple[Tensor, ...]:
    """From what the kernel left of every row (`geotdm_fast.kernels.gv_ff`)."""
    width = k.shape[1]
    r, grad_last, grad_sum = numbers[:, 0], numbers[:, 1], numbers[:, 2]
    length, grad_gate, grad_inner, gated, grad_mixed, inner = numbers[:, 4:28].split(4, dim=1)
    a, length_weight1 = params.vector_w1[:, 0], params.feature_w1[:, width:]
    by_r = r @ grad_z  # [H]
    by_c = grad_mixed.sum(0)
    grad_a = by_c @ params.mix_w1 + a.sign() * (by_r @ length_weight1)
    grad_feature1 = torch.cat([grad_z.T @ k, by_r[:, None] * a.abs()], dim=1)
    grad_feature2 = torch.cat([grad_out.T @ p, grad_out.T @ length], dim=1)
    # sum_r grad_last q: q is the second layer of p and lengths, so of their sums.
    sums = torch.cat([grad_last @ p, grad_last @ length])
    grad_gate2 = params.feature_w2 @ sums + params.feature_b2 * grad_last.sum()
    return (
        grad_a[:, None],
        by_c[:, None] * a,
        grad_feature1,
        grad_z.sum(0),
        grad_gate.T @ p,
        grad_gate.sum(0),
        grad_inner.T @ gated,
        (grad_sum @ inner)[None],
        grad_feature2,
        grad_out.sum(0),
        grad_gate2[None],
        grad_last.sum()[None],
    )


def _options(k: Tensor, u: Tensor, rows: Configuration, precision: str) -> dict:
    width = k.shape[1]
    sizes = {"DIM": u.shape[1], "WIDTH": width, "PADDED": padded(width), "BLOCK": rows.block, "SLICE": rows.slice}
    return sizes | {
        "PRECISION": executed(precision, k),
        "num_warps": rows.num_warps,
        "num_stages": rows.num_stages,
    }
