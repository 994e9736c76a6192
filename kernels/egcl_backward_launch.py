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
)
from geotdm_fast.kernels.egcl_backward import (
    egcl_edge_sum_kernel,
    egcl_project_backward_kernel,
    egcl_update_backward_kernel,
)
from geotdm_fast.kernels.egcl_edges_backward import egcl_edges_backward_kernel
from geotdm_fast.kernels.egcl_launch import (
    Kept,
    TritonTables,
    capability,
    executed,
    inverse_cutoff,
    multiprocessors,
    on_device,
)
from geotdm_fast.kernels.egcl_weights_launch import EdgeWeights, RowSums, param_gradients
from geotdm_fast.reference import EGCLOptions, EGCLParams

# Edges times frames whose three rows of H (five without sums in the kernel) are in memory at once: 50 MB in bfloat16 at
# H = 128, as much as the L2 cache of an H100 has; enough work for every multiprocessor, few enough launches.
CHUNK = 65536


class Gradients(NamedTuple):
    """x: [N, T, D]; h: [N, T, H]; params: in the order of EGCLParams.

    edge_term: [E, H] or None; shift: [E, D] or None; both anything at places that have no edge
    """

    x: Tensor
    h: Tensor
    edge_term: Tensor | None
    shift: Tensor | None
    params: list[Tensor]


def egcl_backward(
    grad_x_out: Tensor,
    grad_h_out: Tensor,
    x: Tensor,
    h: Tensor,
    graph: TritonTables,
    edge_attr: Tensor | None,
    params: EGCLParams,
    kept: Kept,
    options: EGCLOptions,
    chunk: int | None = None,
    configuration: Configuration | None = None,
    *,
    shift: Tensor | None = None,
    wants_shift: bool = False,
) -> Gradients:
    """Gradients of `egcl_forward`, which says what the arguments are; the same bits in every run.

    edge_attr: [E, A] float32 - a of kept.edge_term = W_a a, in the order of the graph; None: no gradient of W_a, but
        zeros; kept: by the forward; chunk: edges times frames whose rows are held at once (CHUNK)
    configuration: of the kernel over edges, in place of the table's
    wants_shift: whether the gradient of the shift is computed; else it is None

    In a captured step every launch costs about as much as a small kernel's work, so sums wait for the last chunk and
    are taken together.
    """
    precision = options.precision
    num_nodes, num_frames, dim = x.shape
    width, num_rows, num_edges = h.shape[2], num_nodes * num_frames, graph.sender.numel()
    size, edge_term, has_cutoff = padded(width), kept.edge_term, options.cutoff is not None
    num_chunks = triton.cdiv(num_edges * num_frames, chunk or CHUNK)
    step = triton.cdiv(num_edges, max(num_chunks, 1))
    chunks = range(0, num_edges, step) if num_chunks else ()
    with on_device(x):
        rows = rows_backward_configuration(size, precision, capability(x))
        tiles = configuration or backward_configuration(size, precision, capability(x), has_cutoff)
        shared = {"WIDTH": width, "PADDED": size, "PRECISION": executed(precision, x)}
        row_options = shared | {"BLOCK": rows.block, "SLICE": rows.slice}
        row_options |= {"num_warps": rows.num_warps, "num_stages": rows.num_stages}
        row_grid = (triton.cdiv(num_rows, rows.block),)
        low = kept.pq.dtype
        per_row = lambda dtype: x.new_empty(num_nodes, num_frames, size, dtype=dtype)

        # The node MLP, and the gradient of the move.
        hidden, grad_hidden, half_grad_m_sum = per_row(low), per_row(low), per_row(low)
        grad_move = x.new_empty(num_nodes, num_frames, 4) if has_cutoff else torch.empty_like(x)
        w_distance = x.new_empty(size)
        if num_rows:
            egcl_update_backward_kernel[row_grid](
                grad_h_out, h, kept.m_sum, params.node_w1, params.node_b1, params.node_w2, grad_x_out, graph.divisor,
                params.edge_w1, hidden, grad_hidden, half_grad_m_sum, grad_move, w_distance,
                kept.moves if has_cutoff else x, num_rows, num_frames, params.edge_w1.stride(0), DIM=dim,
                HAS_CUTOFF=has_cutoff, **row_options,
            )  # fmt: skip

        # The edges, chunk by chunk.
        most_places = min(step, num_edges) * num_frames if chunks else 0
        tiles_of = lambda edges: triton.cdiv(edges * num_frames, tiles.block)
        most_tiles = triton.cdiv(most_places, tiles.block)
        programs = min(tiles.programs * multiprocessors(x), most_tiles)
        weights = EdgeWeights(x, size, precision, most_places, programs)
        direct = grad_x_out if options.residual else torch.zeros_like(x)  # what x' has of x itself
        grad_x = torch.empty_like(x) if chunks else direct.clone()
        grad_pq = (x.new_empty if chunks else x.new_zeros)(2, num_nodes, num_frames, size)
        grad_term = None if edge_term is None else (torch.empty_like if chunks else torch.zeros_like)(edge_term)
        grad_shift = (x.new_empty if chunks else x.new_zeros)(num_edges, dim) if wants_shift else None
        num_sums = programs or sum(tiles_of(min(step, num_edges - begin)) for begin in chunks)
        tile_sums = x.new_empty(num_sums, 3, size)
        for i_chunk, begin in enumerate(chunks):
            end, is_first = min(begin + step, num_edges), begin == 0
            places = (end - begin) * num_frames
            num_tiles = tiles_of(end - begin)
            # Whole tiles: what is beyond the chunk is written and not read.
            rows_of_tiles = num_tiles * tiles.block
            inputs, grads = x.new_empty(2, 1 if programs else 2, rows_of_tiles, size, dtype=low)  # of W2, U1
            grad_z, grad_r = x.new_empty(rows_of_tiles, size, dtype=low), x.new_empty(rows_of_tiles, dim)
            egcl_edges_backward_kernel[(programs or num_tiles,)](
                x, kept.pq, graph.receiver, graph.sender, x if edge_term is None else edge_term, kept.halved,
                w_distance, params.edge_b2, params.coord_b1, params.coord_w2, params.coord_b2,
                grad_move, half_grad_m_sum, inputs[0], inputs[-1], grad_z, grads[0], grads[-1], grad_r, weights.u1,
                tile_sums if programs else tile_sums[i_chunk * most_tiles :], graph.first,
                x if shift is None else shift, begin, places, num_frames, num_nodes, inverse_cutoff(options),
                DIM=dim, BLOCK=tiles.block, SLICE=tiles.slice, HAS_TERM=edge_term is not None,
                HAS_CUTOFF=has_cutoff, HAS_SHIFT=shift is not None, NORMALIZE=options.normalize,
                PRE_NORM=options.pre_norm, SUMS=programs > 0, num_warps=tiles.num_warps, num_stages=tiles.num_stages,
                **shared,
            )  # fmt: skip
            weights.add(grads, inputs, graph.first, begin, places, num_frames)
            grad_z, grad_r = grad_z[:places], grad_r[:places]
            if grad_term is not None:
                of_frames = grad_z.view(-1, num_frames, size)[..., :width]
                torch.sum(of_frames, 1, dtype=torch.float32, out=grad_term[begin:end])
            if grad_shift is not None:
                torch.sum(grad_r.view(-1, num_frames, dim), 1, out=grad_shift[begin:end])
            _add_edges(grad_z, graph, grad_pq, grad_pq, begin, end, is_move=False, is_first=is_first)
            _add_edges(
                grad_r, graph, direct if is_first else grad_x, grad_x, begin, end, is_move=True, is_first=is_first
            )
            del inputs, grads, grad_z, grad_r

        # h, by P, Q and the node MLP.
        grad_h = torch.empty_like(h)
        if num_rows:
            egcl_project_backward_kernel[row_grid](
                *grad_pq, grad_hidden, params.edge_w1, params.node_w1, grad_h,
                num_rows, params.edge_w1.stride(0), **row_options,
            )  # fmt: skip
        sums = RowSums(grad_pq, grad_hidden, grad_h_out, h, kept.m_sum, hidden, tile_sums, grad_term, edge_attr)
        grad_params = param_gradients(sums, weights, params, graph.first, precision)
        if grad_shift is not None:
            grad_shift.neg_()
    return Gradients(grad_x, grad_h, grad_term, grad_shift, grad_params)


def _add_edges(
    values: Tensor,
    graph: TritonTables,
    base: Tensor,
    total: Tensor,
    begin: int,
    end: int,
    is_move: bool,
    is_first: bool,
) -> None:
    """What values [(end - begin) T, columns] of a chunk of edges give to total: `egcl_edge_sum_kernel`."""
    num_nodes, num_frames, columns = *total.shape[-3:-1], values.shape[-1]
    size = num_frames * columns
    block = 1024 if size >= 1024 else 128  # two machine codes, whatever the number of frames
    egcl_edge_sum_kernel[(num_nodes, triton.cdiv(size, block), 1 if is_move else 2)](
        values, graph.first, graph.sender_first, graph.by_sender, base, total, begin, end, num_nodes, num_frames,
        COLUMNS=columns, IS_MOVE=is_move, IS_FIRST=is_first, BLOCK=block, num_warps=4 if block == 1024 else 1,
    )  # fmt: skip
