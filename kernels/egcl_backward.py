"""EGCL backward: the node MLP's rows; sums over edges; P and Q.

Names as in egcl.py. What an edge-frame gives is computed in egcl_edges_backward.py, for one chunk of edges at a time,
and added up by the kernels here and in egcl_weights.py in a fixed order, so every run gives the same bits.
"""

import triton
import triton.language as tl

from geotdm_fast.kernels.arithmetic import (
    load_vector,
    narrowed,
    rounded,
    silu_and_slope,
    weight_times,
    weight_times_rows,
)


@triton.jit(do_not_specialize=["num_rows", "num_frames", "w1_stride"])
def egcl_update_backward_kernel(
    p_grad_h_out, p_h, p_m_sum, p_v1, p_c1, p_v2, p_grad_x_out, p_divisor, p_w1, p_hidden, p_grad_hidden,
    p_half_grad_m_sum, p_grad_move, p_w_distance, p_moves, num_rows, num_frames, w1_stride,
    DIM: tl.constexpr, WIDTH: tl.constexpr, PADDED: tl.constexpr, BLOCK: tl.constexpr, SLICE: tl.constexpr,
    HAS_CUTOFF: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Through h' = V2 silu(V1 [h, m_sum] + c1) + c2 to m_sum.

    hidden, grad_hidden [rows, PADDED]: after the activation, and the gradient before it, for the weights and h.
    For the edges: half_grad_m_sum [rows, PADDED], grad_move [rows, DIM], which is grad_x_out over the divisor of the
    row's node, and, by the first program, w_distance [PADDED], the column of W1 that distances meet.
    HAS_CUTOFF: the divisor is made of the row's moves, and grad_move [rows, 4] has the gradient of the row's sum of
    counts last.
    """
    o_row = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    o_col = tl.arange(0, PADDED)
    m_row = o_row < num_rows
    o_out = o_row[None, :] * PADDED + o_col[:, None]
    p_v1_m = p_v1 + WIDTH
    # [PADDED, BLOCK], as all that follows
    b_hidden = weight_times_rows(p_v1, 2 * WIDTH, 1, p_h, WIDTH, o_row, m_row, WIDTH, PADDED, SLICE, PRECISION)
    b_hidden += weight_times_rows(p_v1_m, 2 * WIDTH, 1, p_m_sum, PADDED, o_row, m_row, WIDTH, PADDED, SLICE, PRECISION)
    b_hidden, b_slope = silu_and_slope(0.5 * (b_hidden + load_vector(p_c1, o_col, WIDTH, PADDED)[:, None]), PRECISION)
    tl.store(p_hidden + o_out, rounded(b_hidden, PRECISION), mask=m_row[None, :])
    b_grad = weight_times_rows(p_v2, 1, WIDTH, p_grad_h_out, WIDTH, o_row, m_row, WIDTH, PADDED, SLICE, PRECISION)
    b_grad *= 0.5 * b_slope
    b_grad_m = weight_times(p_v1_m, 1, 2 * WIDTH, b_grad, 0, WIDTH, PADDED, SLICE, PRECISION)
    tl.store(p_half_grad_m_sum + o_out, narrowed(0.5 * b_grad_m, PRECISION), mask=m_row[None, :])
    tl.store(p_grad_hidden + o_out, rounded(b_grad, PRECISION), mask=m_row[None, :])
    o_x = o_row[:, None] * DIM + tl.arange(0, 4)[None, :]
    m_x = m_row[:, None] & (tl.arange(0, 4) < DIM)[None, :]
    if HAS_CUTOFF:
        o_dim = tl.arange(0, 4)[None, :]
        b_move = tl.load(p_moves + o_row[:, None] * 4 + o_dim, mask=m_row[:, None], other=0)
        b_grad_x = tl.load(p_grad_x_out + o_x, mask=m_x, other=0)
        count = tl.sum(tl.where(o_dim == 3, b_move, 0), axis=1)
        mean = 1 / tl.sqrt(1 + count * count)
        grad_count = -tl.sum(b_grad_x * b_move, axis=1) * (mean * mean * mean * count)
        b_grad_move = tl.where(o_dim == 3, grad_count[:, None], b_grad_x * mean[:, None])
        tl.store(p_grad_move + o_row[:, None] * 4 + o_dim, b_grad_move, mask=m_row[:, None])
    else:
        divisor = tl.load(p_divisor + o_row // num_frames, mask=m_row, other=1)
        tl.store(p_grad_move + o_x, tl.load(p_grad_x_out + o_x, mask=m_x, other=0) / divisor[:, None], mask=m_x)
    if tl.program_id(0) == 0:
        tl.store(p_w_distance + o_col, tl.load(p_w1 + o_col * w1_stride + 2 * WIDTH, mask=o_col < WIDTH, other=0))


@triton.jit(do_not_specialize=["begin", "end", "num_nodes", "num_frames"])
def egcl_edge_sum_kernel(
    p_values, p_first, p_sender_first, p_by_sender, p_base, p_total, begin, end, num_nodes, num_frames,
    COLUMNS: tl.constexpr, IS_MOVE: tl.constexpr, IS_FIRST: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Gives values[edge - begin], size = num_frames COLUMNS numbers, of a chunk's edges begin .. end - 1 to nodes.

    total [2, nodes, size]: the sum over what a node receives is added to the first part, over what it sends to the
    second. IS_MOVE: total [nodes, size] gets the difference of the two. IS_FIRST, of the chunks: total is written
    whole, from 0 or, IS_MOVE, from base.
    """
    node = tl.program_id(0).to(tl.int64)
    size = num_frames * COLUMNS
    o_col = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    m_col = o_col < size
    side = tl.program_id(2)  # 0: what the node receives, 1: what it sends; IS_MOVE: both in turn
    first = tl.maximum(tl.load(p_first + node), begin)
    last = tl.minimum(tl.load(p_first + node + 1), end)
    sent, sent_last = tl.load(p_sender_first + node), tl.load(p_sender_first + node + 1)
    sent = _lower_bound(p_by_sender, sent, sent_last, begin)
    sent_last = _lower_bound(p_by_sender, sent, sent_last, end)
    if not IS_MOVE:
        last = tl.where(side == 0, last, first)
        sent_last = tl.where(side == 0, sent, sent_last)
    if IS_FIRST | (last > first) | (sent_last > sent):
        o_total = (side * num_nodes + node) * size + o_col
        b_sum = tl.zeros([BLOCK], tl.float32)
        for edge in tl.range(first, last):
            b_sum += tl.load(p_values + (edge - begin) * size + o_col, mask=m_col, other=0).to(tl.float32)
        for i_sent in tl.range(sent, sent_last):
            edge = tl.load(p_by_sender + i_sent)
            b_value = tl.load(p_values + (edge - begin) * size + o_col, mask=m_col, other=0).to(tl.float32)
            b_sum += -b_value if IS_MOVE else b_value
        if IS_MOVE or not IS_FIRST:
            b_sum += tl.load(p_base + o_total, mask=m_col, other=0)
        tl.store(p_total + o_total, b_sum, mask=m_col)


@triton.jit
def _lower_bound(p_sorted, low, high, value):
    """The first of the places low .. high - 1 whose number is not below `value`; high if there is none."""
    while low < high:
        middle = (low + high) // 2
        is_below = tl.load(p_sorted + middle) < value
        low = tl.where(is_below, middle + 1, low)
        high = tl.where(is_below, high, middle)
    return low


@triton.jit(do_not_specialize=["num_rows", "w1_stride"])
def egcl_project_backward_kernel(
    p_grad_p, p_grad_q, p_grad_hidden, p_w1, p_v1, p_grad_h, num_rows, w1_stride,
    WIDTH: tl.constexpr, PADDED: tl.constexpr, BLOCK: tl.constexpr, SLICE: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """grad_h = W_i^T grad_P + W_j^T grad_Q + V1_h^T grad_hidden of every row."""
    o_row = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    o_col = tl.arange(0, PADDED)
    m_row = o_row < num_rows
    p_w_j = p_w1 + WIDTH
    # [PADDED, BLOCK]
    b_grad = weight_times_rows(p_w1, 1, w1_stride, p_grad_p, PADDED, o_row, m_row, WIDTH, PADDED, SLICE, PRECISION)
    b_grad += weight_times_rows(p_w_j, 1, w1_stride, p_grad_q, PADDED, o_row, m_row, WIDTH, PADDED, SLICE, PRECISION)
    b_grad += weight_times_rows(
        p_v1, 1, 2 * WIDTH, p_grad_hidden, PADDED, o_row, m_row, WIDTH, PADDED, SLICE, PRECISION
    )
    tl.store(p_grad_h + o_row[None, :] * WIDTH + o_col[:, None], b_grad, mask=m_row[None, :] & (o_col < WIDTH)[:, None])
