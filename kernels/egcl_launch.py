"""Launches the EGCL kernels: tensors in, tensors out, on the current stream of their device."""

import contextlib
from collections.abc import Sequence
from typing import NamedTuple

import torch
import triton
from torch import Tensor

from geotdm_fast.kernels.configurations import edges_configuration, padded, rows_configuration
from geotdm_fast.kernels.egcl import egcl_edges_kernel, egcl_project_kernel, egcl_update_kernel


class Receivers(NamedTuple):
    """The receivers by falling degree, so that neighbouring rows end together and the longest start first.

    node, edge: [N] int32 - a receiver and the first of its sorted edges; degree: [N] float32; sender: [E] int32
    """

    node: Tensor
    edge: Tensor
    degree: Tensor
    sender: Tensor


def receivers(first: Tensor, sender: Tensor) -> Receivers:
    """first: [N + 1], sender: [E] - edges sorted by receiver."""
    degree = first.diff()
    node = torch.argsort(degree, descending=True, stable=True)
    return Receivers(node.int(), first[node].int(), degree[node].float(), sender.int())


class Forward(NamedTuple):
    """What the forward returns and its backward reads.

    x_out: [N, T, D]; h_out: [N, T, H]; pq: [N, T, 2, padded H] - P / 2 and Q / 2; m_sum: [N, T, padded H]
    halved: [2, padded H, padded H] - W2 / 2 and U1 / 2. The last three are zero beyond H; pq and halved are bfloat16
    where the products are.
    """

    x_out: Tensor
    h_out: Tensor
    pq: Tensor
    m_sum: Tensor
    halved: Tensor


def egcl_forward(
    x: Tensor,
    h: Tensor,
    edges: Receivers,
    edge_term: Tensor | None,
    params: Sequence[Tensor],
    normalize: bool,
    pre_norm: bool,
    precision: str,
) -> Forward:
    """x: [N, T, D], h: [N, T, H], edge_term: [E, H] in sorted order = W_a a, params: EGCLParams; float32, contiguous."""
    num_nodes, num_frames, dim = x.shape
    width, num_rows = h.shape[2], num_nodes * num_frames
    size = padded(width)
    edge_w1, edge_b1, edge_w2, edge_b2, coord_w1, coord_b1, coord_w2, coord_b2, node_w1, node_b1, node_w2, node_b2 = params
    low = torch.bfloat16 if precision == "bf16" else torch.float32
    out = Forward(
        torch.empty_like(x),
        torch.empty_like(h),
        h.new_empty(num_nodes, num_frames, 2, size, dtype=low),
        h.new_empty(num_nodes, num_frames, size),
        h.new_empty(2, size, size, dtype=low),
    )
    if num_rows == 0:
        return out
    rows = rows_configuration(size, precision, capability(x))
    tiles = edges_configuration(size, precision, capability(x))
    shared = {"WIDTH": width, "PADDED": size, "PRECISION": executed(precision, x)}
    with on_device(x):
        egcl_project_kernel[(triton.cdiv(num_rows, rows.block), 2)](
            h, edge_w1, edge_b1, edge_w2, coord_w1, out.pq, out.halved, num_rows, edge_w1.stride(0),
            BLOCK=rows.block, num_warps=rows.num_warps, num_stages=rows.num_stages, **shared,
        )  # fmt: skip
        egcl_edges_kernel[(triton.cdiv(num_rows, tiles.block),)](
            x, out.pq, edges.node, edges.edge, edges.degree, edges.sender, x if edge_term is None else edge_term,
            out.halved, edge_w1, edge_b2, coord_b1, coord_w2, coord_b2, out.x_out, out.m_sum,
            num_rows, num_frames, edge_w1.stride(0),
            DIM=dim, BLOCK=tiles.block, SLICE=tiles.slice, HAS_TERM=edge_term is not None, NORMALIZE=normalize,
            PRE_NORM=pre_norm, num_warps=tiles.num_warps, num_stages=tiles.num_stages, **shared,
        )  # fmt: skip
        egcl_update_kernel[(triton.cdiv(num_rows, rows.block),)](
            h, out.m_sum, node_w1, node_b1, node_w2, node_b2, out.h_out, num_rows,
            BLOCK=rows.block, num_warps=rows.num_warps, num_stages=rows.num_stages, **shared,
        )  # fmt: skip
    return out


def on_device(x: Tensor) -> contextlib.AbstractContextManager:
    """Triton launches on the current device, which need not be that of the tensors."""
    return torch.cuda.device(x.device) if x.is_cuda else contextlib.nullcontext()


def capability(x: Tensor) -> int:
    """80, 90, 100: of the GPU that holds x; 90 in the interpreter."""
    if not x.is_cuda:
        return 90
    major, minor = torch.cuda.get_device_capability(x.device)
    return 10 * major + minor


def executed(precision: str, x: Tensor) -> str:
    """PRECISION of the kernels: what the GPU rounds in hardware is emulated in the interpreter."""
    return precision if x.is_cuda or precision == "fp32" else f"{precision}_emulated"
