"""Launches the kernels that sum the gradients of EGCL's weights."""

from typing import NamedTuple

import torch
import triton
from torch import Tensor

from geotdm_fast.kernels.configurations import padded, weight_configuration
from geotdm_fast.kernels.egcl_launch import capability, executed
from geotdm_fast.kernels.egcl_weights import egcl_finish_kernel, egcl_row_weight_kernel, egcl_weight_kernel
from geotdm_fast.reference import EGCLParams

# Places of a program of the last sum, and slots at a time: as many programs as the GPU holds, few steps of each.
FINISH_BLOCK, FINISH_SLOTS = 64, 32


class RowSums(NamedTuple):
    """What rows and edges give to the weights that rows pass, and to vectors.

    grad_pq: [2, N, T, padded H]; grad_hidden, hidden: [N, T, padded H]; grad_h_out, h: [N, T, H]
    m_sum: [N, T, padded H]; tile_sums: [tiles or programs, 3, padded H] - by egcl_edges_backward_kernel
    grad_term: [E, H] or None; edge_attr: [E, A] or None
    """

    grad_pq: Tensor
    grad_hidden: Tensor
    grad_h_out: Tensor
    h: Tensor
    m_sum: Tensor
    hidden: Tensor
    tile_sums: Tensor
    grad_term: Tensor | None
    edge_attr: Tensor | None


class EdgeWeights:
    """Gradients of W2 and U1 and their biases, in slots: sums over chunks of edges.

    most_places: of a chunk; no slot where there is no chunk
    programs: slots of U1, which egcl_edges_backward_kernel sums by itself; 0: rows give them, as those of W2
    w2, u1: [slots, padded H^2 + padded H]
    """

    def __init__(self, x: Tensor, size: int, precision: str, most_places: int, programs: int):
        self.size = size
        self.tile, self.block, self.num_warps, slots = weight_configuration(size, precision, capability(x))
        self.precision = executed(precision, x)
        self.slots = min(slots, triton.cdiv(most_places, self.block))
        self.of_rows = x.new_empty(1 if programs else 2, self.slots, size * size + size)
        self.w2, self.u1 = self.of_rows[0], self.of_rows[-1]
        if programs:
            self.u1 = x.new_empty(programs, size * size + size)

    def add(self, grads: Tensor, inputs: Tensor, first: Tensor, begin: int, num_places: int, num_frames: int) -> None:
        """Add grad^T input of a chunk, of W2 and, where rows give it, U1. [weights, places or more, padded H] both.

        first: of the graph; begin: the chunk's first edge, 0 of the first chunk
        """
        tiles = self.size // self.tile
        egcl_weight_kernel[(len(grads) * self.slots, tiles, tiles)](
            grads, inputs, self.of_rows, first, self.slots, num_places, begin, num_frames, first.numel() - 1,
            self.size, self.size, grads[0].numel(), inputs[0].numel(),
            ADDS=begin > 0, PADDED=self.size, TILE=self.tile, BLOCK=self.block, num_warps=self.num_warps,
            PRECISION=self.precision,
        )  # fmt: skip


def param_gradients(
    rows: RowSums, weights: EdgeWeights, params: EGCLParams, first: Tensor, precision: str
) -> list[Tensor]:
    """The gradients of `params`, by two kernels; no gradient of W_a, but zeros, where edge_attr is None.

    first: of the graph
    """
    h, width = rows.h, rows.h.shape[2]
    size, num_rows, num_columns = padded(width), h.shape[0] * h.shape[1], params.edge_w1.shape[1] - 2 * width - 1
    tile, block, num_warps, slots = weight_configuration(size, precision, capability(h))
    slots = max(1, min(slots, triton.cdiv(num_rows, block)))
    total = h.new_empty(5, slots, size * size + size)
    vectors = h.new_empty(slots, 3 + num_columns, size)
    is_known = rows.edge_attr is not None
    tiles = size // tile
    egcl_row_weight_kernel[(6 * slots, tiles, tiles)](
        rows.grad_pq, rows.grad_hidden, rows.grad_h_out, h, rows.m_sum, rows.hidden, rows.tile_sums,
        rows.grad_term if is_known else h, rows.edge_attr if is_known else h, total, vectors,
        first, slots, num_rows, rows.tile_sums.shape[0], rows.edge_attr.shape[0] if is_known else 0, num_columns,
        h.shape[0],
        WIDTH=width, PADDED=size, TILE=tile, BLOCK=block, num_warps=num_warps, PRECISION=executed(precision, h),
    )  # fmt: skip
    grads = [torch.empty_like(param) for param in params]
    most = max(total.shape[2], vectors[0].numel())
    egcl_finish_kernel[(triton.cdiv(most, FINISH_BLOCK), 8)](
        total, weights.w2, weights.u1, vectors, *grads, slots, weights.w2.shape[0], weights.u1.shape[0], num_columns,
        WIDTH=width, PADDED=size, BLOCK=FINISH_BLOCK, SLOTS=FINISH_SLOTS, num_warps=4,
    )  # fmt: skip
    return grads
