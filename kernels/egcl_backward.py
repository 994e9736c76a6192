"""EGCL backward: the node MLP's rows; every edge in every frame, recomputed; sums over edges; P and Q.

Names as in egcl.py. An operand of a product is made right before it: see `product`. What an edge-frame gives to its
receiver, sender and the weights is written for one chunk of edges at a time and added up by small kernels (the weights'
in egcl_weights.py) in a fixed order, so every run gives the same bits.
"""

import triton
import triton.language as tl

from geotdm_fast.kernels.arithmetic import (
    load_vector,
    product,
    rounded,
    silu_and_slope,
    weight_times,
    weight_times_rows,
)


@triton.jit(do_not_specialize=["num_rows", "num_frames"])
def egcl_update_backward_kernel(
    p_grad_h_out, p_h, p_m_sum, p_v1, p_c1, p_v2, p_grad_x_out, p_divisor, p_hidden, p_grad_hidden, p_grad_m_sum,
    p_grad_shift, num_rows, num_frames,
    DIM: tl.constexpr, WIDTH: tl.constexpr, PADDED: tl.constexpr, BLOCK: tl.constexpr, SLICE: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """Through h' = V2 silu(V1 [h, m_sum] + c1) + c2 to m_sum.

    hidden, grad_hidden [rows, PADDED]: after the activation, and the gradient before it, for the weights and h.
    grad_shift [rows, DIM]: grad_x_out over the divisor of the row's node, for the edges.
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
    b_grad *= b_slope
    b_grad_m = weight_times(p_v1_m, 1, 2 * WIDTH, b_grad, 0, WIDTH, PADDED, SLICE, PRECISION)
    tl.store(p_grad_m_sum + o_out, b_grad_m, mask=m_row[None, :])
    tl.store(p_grad_hidden + o_out, rounded(b_grad, PRECISION), mask=m_row[None, :])
    o_x = o_row[:, None] * DIM + tl.arange(0, 4)[None, :]
    m_x = m_row[:, None] & (tl.arange(0, 4) < DIM)[None, :]
    divisor = tl.load(p_divisor + o_row // num_frames, mask=m_row, other=1)
    tl.store(p_grad_shift + o_x, tl.load(p_grad_x_out + o_x, mask=m_x, other=0) / divisor[:, None], mask=m_x)


@triton.jit(do_not_specialize=["first_edge", "num_places", "num_frames", "w1_stride"])
def egcl_edges_backward_kernel(
    p_x, p_pq, p_receiver, p_sender, p_term, p_halved, p_w1, p_b2, p_e1, p_u2, p_e2, p_grad_shift, p_grad_m_sum,
    p_a, p_m, p_grad_z, p_grad_y, p_grad_v, p_grad_r, p_sums,
    first_edge, num_places, num_frames, w1_stride,
    DIM: tl.constexpr, WIDTH: tl.constexpr, PADDED: tl.constexpr, BLOCK: tl.constexpr, SLICE: tl.constexpr,
    HAS_TERM: tl.constexpr, NORMALIZE: tl.constexpr, PRE_NORM: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """A chunk of edges from first_edge: place p is frame p % T of its edge p // T.

    For every place a, m, grad_z, grad_y, grad_v [places, PADDED], where z, y, v are what the three activations get, and
    grad_r [places, DIM]. sums [tiles, 5, PADDED]: of b2, e1, u2, w_d, and e2 in the last row's first column.
    grad_shift: gradient of x' over the receiver's degree.
    """
    o_col, o_dim = tl.arange(0, PADDED), tl.arange(0, 4)
    m_dim = (o_dim < DIM)[None, :]
    o_weight = tl.arange(0, SLICE)[:, None] * PADDED + tl.arange(0, SLICE)[None, :]
    p_u1 = p_halved + PADDED * PADDED
    b_w2, b_u1 = tl.load(p_halved + o_weight), tl.load(p_u1 + o_weight)

    o_place = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    m_place = o_place < num_places
    o_edge = first_edge + o_place // num_frames
    o_frame = o_place % num_frames
    o_row = tl.load(p_receiver + o_edge, mask=m_place, other=0).to(tl.int64) * num_frames + o_frame
    o_sender = tl.load(p_sender + o_edge, mask=m_place, other=0).to(tl.int64) * num_frames + o_frame
    b_r = tl.load(p_x + o_row[:, None] * DIM + o_dim[None, :], mask=m_dim, other=0)
    b_r -= tl.load(p_x + o_sender[:, None] * DIM + o_dim[None, :], mask=m_dim, other=0)
    m_shift = m_place[:, None] & m_dim
    b_grad_shift = tl.load(p_grad_shift + o_row[:, None] * DIM + o_dim[None, :], mask=m_shift, other=0)
    square = tl.sum(b_r * b_r, axis=1)
    distance = tl.sqrt(square) if PRE_NORM else square
    w_distance = tl.load(p_w1 + o_col * w1_stride + 2 * WIDTH, mask=o_col < WIDTH, other=0)
    b_z = tl.load(p_pq + o_row[:, None] * 2 * PADDED + o_col[None, :]).to(tl.float32)
    b_z += tl.load(p_pq + (o_sender[:, None] * 2 + 1) * PADDED + o_col[None, :]).to(tl.float32)
    b_z += 0.5 * distance[:, None] * w_distance[None, :]
    if HAS_TERM:
        m_term = m_place[:, None] & (o_col < WIDTH)[None, :]
        o_term = o_edge.to(tl.int64)[:, None] * WIDTH + o_col[None, :]
        b_z += 0.5 * tl.load(p_term + o_term, mask=m_term, other=0).to(tl.float32)
    b_a, b_a_slope = silu_and_slope(b_z, PRECISION)

    # From here on [PADDED, BLOCK], as the matrix units want it.
    m_out = m_place[None, :]
    o_out = o_place.to(tl.int64)[None, :] * PADDED + o_col[:, None]
    p_sums += (tl.program_id(0).to(tl.int64) * 5) * PADDED + o_col
    b_a = tl.trans(b_a)
    b_m = _edge_product(p_halved, b_w2, b_a, False, PADDED, SLICE, PRECISION)
    tl.store(p_a + o_out, rounded(b_a, PRECISION), mask=m_out)
    b_m, b_m_slope = silu_and_slope(b_m + 0.5 * load_vector(p_b2, o_col, WIDTH, PADDED)[:, None], PRECISION)
    b_gate = _edge_product(p_u1, b_u1, b_m, False, PADDED, SLICE, PRECISION)
    b_gate, b_grad = silu_and_slope(b_gate + 0.5 * load_vector(p_e1, o_col, WIDTH, PADDED)[:, None], PRECISION)

    # The gate: raw = u2 . gate + e2 moves the receiver by raw scale r / degree.
    u2 = load_vector(p_u2, o_col, WIDTH, PADDED)[:, None]
    raw = tl.sum(b_gate * u2, axis=0) + tl.load(p_e2)
    grad_move = tl.sum(b_grad_shift * b_r, axis=1)  # 0 beyond the chunk, and so is all that follows from it
    scale = 1 / (tl.sqrt(square + 1e-8) + 1) if NORMALIZE and not PRE_NORM else 1.0
    grad_raw = grad_move * scale
    tl.store(p_m + o_out, rounded(b_m, PRECISION), mask=m_out)
    tl.store(p_sums + 2 * PADDED, tl.sum(b_gate * grad_raw[None, :], axis=1))
    tl.store(p_sums + 4 * PADDED, tl.where(o_col == 0, tl.sum(grad_raw, axis=0), 0))
    b_grad_v = b_grad * u2 * grad_raw[None, :]
    b_grad = 2 * _edge_product(p_u1, b_u1, b_grad_v, True, PADDED, SLICE, PRECISION)
    tl.store(p_sums + PADDED, tl.sum(b_grad_v, axis=1))
    tl.store(p_grad_v + o_out, rounded(b_grad_v, PRECISION), mask=m_out)

    b_grad += tl.load(p_grad_m_sum + o_row[None, :] * PADDED + o_col[:, None], mask=m_out, other=0)
    b_grad_y = b_grad * b_m_slope
    b_grad = 2 * _edge_product(p_halved, b_w2, b_grad_y, True, PADDED, SLICE, PRECISION) * tl.trans(b_a_slope)
    tl.store(p_sums, tl.sum(b_grad_y, axis=1))
    tl.store(p_grad_y + o_out, rounded(b_grad_y, PRECISION), mask=m_out)
    tl.store(p_grad_z + o_out, rounded(b_grad, PRECISION), mask=m_out)
    tl.store(p_sums + 3 * PADDED, tl.sum(b_grad * distance[None, :], axis=1))
    grad_distance = tl.sum(b_grad * w_distance[:, None], axis=0)
    if PRE_NORM:
        along = tl.where(distance > 0, grad_distance / tl.where(distance > 0, distance, 1), 0)
    else:
        along = 2 * grad_distance
        if NORMALIZE:
            along -= grad_raw * raw * scale / tl.sqrt(square + 1e-8)
    b_grad_r = (raw * scale)[:, None] * b_grad_shift + along[:, None] * b_r
    tl.store(p_grad_r + o_place.to(tl.int64)[:, None] * DIM + o_dim[None, :], b_grad_r, mask=m_shift)


@triton.jit
def _edge_product(
    p_weight, b_weight, b, IS_TRANSPOSED: tl.constexpr, PADDED: tl.constexpr, SLICE: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """W b or W^T b; `b_weight` is W where it is not read in slices."""
    if SLICE == PADDED:
        return product(tl.trans(b_weight) if IS_TRANSPOSED else b_weight, b, PRECISION)
    else:
        ROW: tl.constexpr = 1 if IS_TRANSPOSED else PADDED
        return weight_times(p_weight, ROW, PADDED + 1 - ROW, b, 0, PADDED, PADDED, SLICE, PRECISION)


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
