"""Launches the backward kernels of EGCL, one chunk of edges after the other."""

from typing import NamedTuple

import torch
import triton
from torch import Tensor

from geotdm_fast.kernels.configurations import (
    Configuration,
    backward_configuration,
    padded,
    rows_backward_configuration,
    weight_configuration,
)
from geotdm_fast.kernels.egcl_backward import (
    egcl_edge_sum_kernel,
    egcl_edges_backward_kernel,
    egcl_project_backward_kernel,
    egcl_update_backward_kernel,
    egcl_weight_kernel,
)
from geotdm_fast.kernels.egcl_launch import Graph, Kept, capability, executed, on_device
from geotdm_fast.reference import EGCLParams

# Edges times frames whose five rows of H are in memory at once: 84 MB in bfloat16 at H = 128, of which a part stays in
# the L2 cache; enough work for every multiprocessor, few enough launches.
CHUNK = 65536


class Gradients(NamedTuple):
    """x: [N, T, D]; h: [N, T, H]; edge_term: [E, H] or None; params: in the order of EGCLParams."""

    x: Tensor
    h: Tensor
    edge_term: Tensor | None
    params: list[Tensor]


def egcl_backward(
    grad_x_out: Tensor,
    grad_h_out: Tensor,
    x: Tensor,
    h: Tensor,
    graph: Graph,
    edge_term: Tensor | None,
    params: EGCLParams,
    kept: Kept,
    normalize: bool,
    pre_norm: bool,
    precision: str,
    chunk: int | None = None,
    configuration: Configuration | None = None,
) -> Gradients:
    """Gradients of `egcl_forward`, which says what the arguments are; the same bits in every run.

    kept: by the forward; chunk: edges times frames whose rows are held at once (CHUNK)
    configuration: of the kernel over edges, in place of the table's
    """
    num_nodes, num_frames, dim = x.shape
    width, num_rows, num_edges = h.shape[2], num_nodes * num_frames, graph.sender.numel()
    size = padded(width)
    with on_device(x):
        weights = _Weights(x, width, size, precision)
        rows = rows_backward_configuration(size, precision, capability(x))
        tiles = configuration or backward_configuration(size, precision, capability(x))
        shared = {"WIDTH": width, "PADDED": size, "PRECISION": executed(precision, x)}
        row_options = shared | {"BLOCK": rows.block, "SLICE": rows.slice}
        row_options |= {"num_warps": rows.num_warps, "num_stages": rows.num_stages}
        row_grid = (triton.cdiv(num_rows, rows.block),)
        low = kept.pq.dtype
        per_row = lambda dtype: x.new_empty(num_nodes, num_frames, size, dtype=dtype)

        # The node MLP.
        hidden, grad_hidden, grad_m_sum = per_row(low), per_row(low), per_row(torch.float32)
        if num_rows:
            egcl_update_backward_kernel[row_grid](
                grad_h_out, h, kept.m_sum, params.node_w1, params.node_b1, params.node_w2,
                hidden, grad_hidden, grad_m_sum, num_rows, **row_options,
            )  # fmt: skip
        grad_node_w1 = torch.cat([weights.of(grad_hidden, h), weights.of(grad_hidden, kept.m_sum)], dim=1)
        grad_node_w2 = weights.of(grad_h_out, hidden)
        grad_node_b1 = grad_hidden.sum((0, 1), dtype=torch.float32)[:width]
        del hidden

        # The edges, chunk by chunk.
        grad_shift = grad_x_out / graph.first.diff().clamp(min=1)[:, None, None]
        grad_x = grad_x_out.clone()
        grad_p, grad_q = (x.new_zeros(num_nodes, num_frames, size) for _ in range(2))
        grad_term = None if edge_term is None else torch.zeros_like(edge_term)
        grad_w2, grad_u1 = weights.zeros(), weights.zeros()
        sums = x.new_zeros(5, size)
        nodes = torch.arange(num_nodes, device=x.device)
        step = max(1, (chunk or CHUNK) // max(num_frames, 1))
        chunks = range(0, num_edges, step) if num_frames else ()
        for begin in chunks:
            end = min(begin + step, num_edges)
            places = (end - begin) * num_frames
            num_tiles = triton.cdiv(places, tiles.block)
            a, m, grad_z, grad_y, grad_v = (x.new_empty(places, size, dtype=low) for _ in range(5))
            grad_r = x.new_empty(places, dim)
            tile_sums = x.new_empty(num_tiles, 5, size)
            egcl_edges_backward_kernel[(num_tiles,)](
                x, kept.pq, graph.receiver, graph.sender, x if edge_term is None else edge_term, kept.halved,
                params.edge_w1, params.edge_b2, params.coord_b1, params.coord_w2, params.coord_b2,
                grad_shift, grad_m_sum, a, m, grad_z, grad_y, grad_v, grad_r, tile_sums,
                begin, places, num_frames, params.edge_w1.stride(0),
                DIM=dim, BLOCK=tiles.block, SLICE=tiles.slice, HAS_TERM=edge_term is not None, NORMALIZE=normalize,
                PRE_NORM=pre_norm, num_warps=tiles.num_warps, num_stages=tiles.num_stages, **shared,
            )  # fmt: skip
            weights.add(grad_w2, grad_y, a)
            weights.add(grad_u1, grad_v, m)
            sums += tile_sums.sum(0)
            if grad_term is not None:
                grad_term[begin:end] = grad_z.view(-1, num_frames, size).sum(1, dtype=torch.float32)[:, :width]
            received = graph.first.clamp(begin, end)
            sent = [torch.searchsorted(graph.sent, nodes * num_edges + edge) for edge in (begin, end)]
            for values, to_receiver, to_sender, sign in ((grad_z, grad_p, grad_q, 1), (grad_r, grad_x, grad_x, -1)):
                _add_edges(values, None, received[:-1], received[1:], to_receiver, begin, 1)
                _add_edges(values, graph.by_sender, *sent, to_sender, begin, sign)
            del a, m, grad_z, grad_y, grad_v, grad_r

        # h, by P, Q and the node MLP.
        grad_h = torch.empty_like(h)
        if num_rows:
            egcl_project_backward_kernel[row_grid](
                grad_p, grad_q, grad_hidden, params.edge_w1, params.node_w1, grad_h,
                num_rows, params.edge_w1.stride(0), **row_options,
            )  # fmt: skip
        grad_w1 = torch.zeros_like(params.edge_w1)
        grad_w1[:, :width] = weights.of(grad_p, h)
        grad_w1[:, width : 2 * width] = weights.of(grad_q, h)
        grad_w1[:, 2 * width] = sums[3, :width]
    grad_params = [
        grad_w1, grad_p.sum((0, 1))[:width], weights.finished(grad_w2), sums[0, :width],
        weights.finished(grad_u1), sums[1, :width], sums[2:3, :width], sums[4, :1],
        grad_node_w1, grad_node_b1, grad_node_w2, grad_h_out.sum((0, 1)),
    ]  # fmt: skip
    return Gradients(grad_x, grad_h, grad_term, grad_params)


def _add_edges(
    values: Tensor, edges: Tensor | None, begin: Tensor, end: Tensor, total: Tensor, first: int, sign: int
) -> None:
    """total [N, T, ...] += sign times the sum of each node's rows of values [edges * T, ...]."""
    size = total[0].numel()
    block = min(1024, triton.next_power_of_2(size))
    egcl_edge_sum_kernel[(begin.numel(), triton.cdiv(size, block))](
        values, begin if edges is None else edges, begin, end, total, first, size,
        IS_LISTED=edges is not None, SIGN=sign, BLOCK=block, num_warps=4 if block >= 512 else 1,
    )  # fmt: skip


class _Weights:
    """Gradients of square weights: sums over rows in a fixed number of slots, which are added in order."""

    def __init__(self, x: Tensor, width: int, size: int, precision: str):
        self.x, self.width, self.size, self.precision = x, width, size, precision
        self.tile, self.block, self.num_warps, self.slots = weight_configuration(size, precision, capability(x))

    def zeros(self) -> Tensor:
        return self.x.new_zeros(self.slots, self.size, self.size)

    def add(self, total: Tensor, grad: Tensor, rows: Tensor) -> None:
        """total += grad^T rows; both [..., H or padded H]."""
        num_rows, tiles = grad.numel() // grad.shape[-1], self.size // self.tile
        if num_rows == 0:
            return
        egcl_weight_kernel[(min(self.slots, triton.cdiv(num_rows, self.block)), tiles, tiles)](
            grad, rows, total, num_rows, grad.shape[-1], rows.shape[-1], grad.shape[-1],
            rows.shape[-1], PADDED=self.size, TILE=self.tile, BLOCK=self.block, num_warps=self.num_warps,
            PRECISION=executed(self.precision, self.x),
        )  # fmt: skip

    def finished(self, total: Tensor) -> Tensor:
        """[H, H]."""
        return total.sum(0)[: self.width, : self.width]

    def of(self, grad: Tensor, rows: Tensor) -> Tensor:
        """grad^T rows [H, H]."""
        total = self.zeros()
        self.add(total, grad, rows)
        return self.finished(total)
