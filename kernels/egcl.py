"""EGCL forward: P and Q of every row, W_a a of every edge; messages of every receiver; the node MLP of every row.

A row is a node in a frame: i * T + t. A graph that changes from frame to frame is one over N * T nodes with T = 1.
Rows are PADDED wide, the power of two from WIDTH on; what is beyond WIDTH is zero and stays zero.
"""

import triton
import triton.language as tl

from geotdm_fast.kernels.arithmetic import (
    load_vector,
    product,
    rounded,
    silu_of_double,
    weight_times,
    weight_times_rows,
)
from geotdm_fast.kernels.envelope import envelope


@triton.jit(do_not_specialize=["num_rows", "num_edges", "w1_stride"])
def egcl_project_kernel(
    p_h, p_attr, p_w1, p_b1, p_w2, p_u1, p_pq, p_halved, p_term, num_rows, num_edges, w1_stride,
    WIDTH: tl.constexpr, PADDED: tl.constexpr, BLOCK: tl.constexpr, SLICE: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Everything of the first layer of messages that needs no pair of nodes, and weights for egcl_edges_kernel.

        P = W_i h + b1,   Q = W_j h   of every row;   W_a a   of every edge

    The second axis of the grid says what a program writes, for BLOCK rows or edges:
        0: P / 2 into pq[:, 0], and its first program W2 / 2 into halved[0]
        1: Q / 2 into pq[:, 1], and its first program U1 / 2 into halved[1]
        2, launched where there are edge features alone: W_a a, in float32, into term
    pq [rows, 2, PADDED]; halved [2, PADDED, PADDED], rounded as the products want them; term [edges, WIDTH]. They are
    halves, since `silu_of_double` takes half of its argument.
    """
    half = tl.program_id(1)
    first = tl.program_id(0).to(tl.int64) * BLOCK
    o_row = first + tl.arange(0, BLOCK)
    if half < 2:
        if first < num_rows:
            _project(
                p_h, p_w1, p_b1, p_w2, p_u1, p_pq, p_halved, half, o_row, num_rows, w1_stride, WIDTH, PADDED, BLOCK,
                SLICE, PRECISION,
            )  # fmt: skip
    elif first < num_edges:
        o_col = tl.arange(0, PADDED)
        m_edge, m_col = o_row < num_edges, o_col < WIDTH
        num_columns = w1_stride - (2 * WIDTH + 1)
        b_term = tl.zeros([BLOCK, PADDED], tl.float32)
        for i_column in tl.range(num_columns):
            b_attr = tl.load(p_attr + o_row * num_columns + i_column, mask=m_edge, other=0)
            b_weight = tl.load(p_w1 + o_col * w1_stride + 2 * WIDTH + 1 + i_column, mask=m_col, other=0)
            b_term += b_attr[:, None] * b_weight[None, :]
        tl.store(p_term + o_row[:, None] * WIDTH + o_col[None, :], b_term, mask=m_edge[:, None] & m_col[None, :])


@triton.jit
def _project(
    p_h, p_w1, p_b1, p_w2, p_u1, p_pq, p_halved, half, o_row, num_rows, w1_stride,
    WIDTH: tl.constexpr, PADDED: tl.constexpr, BLOCK: tl.constexpr, SLICE: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    o_col = tl.arange(0, PADDED)
    m_row = o_row < num_rows
    p_w = p_w1 + half * WIDTH
    # [PADDED, BLOCK]
    b_out = weight_times_rows(p_w, w1_stride, 1, p_h, WIDTH, o_row, m_row, WIDTH, PADDED, SLICE, PRECISION)
    b_out = 0.5 * b_out + (0.5 * load_vector(p_b1, o_col, WIDTH, PADDED) * (1 - half))[:, None]
    p_pq += (o_row[None, :] * 2 + half) * PADDED + o_col[:, None]
    tl.store(p_pq, rounded(b_out, PRECISION), mask=m_row[None, :])
    if tl.program_id(0) == 0:
        p_weight = p_w2 if half == 0 else p_u1
        p_halved += half * PADDED * PADDED
        for first in tl.range(0, PADDED, 16):
            o_out = first + tl.arange(0, 16)[:, None]
            m_weight = (o_out < WIDTH) & (o_col < WIDTH)[None, :]
            b_weight = 0.5 * tl.load(p_weight + o_out * WIDTH + o_col[None, :], mask=m_weight, other=0)
            tl.store(p_halved + o_out * PADDED + o_col[None, :], rounded(b_weight, PRECISION))


@triton.jit(do_not_specialize=["num_rows", "num_frames", "w1_stride"])
def egcl_edges_kernel(
    p_x, p_pq, p_node, p_first_edge, p_degree, p_sender, p_term, p_halved, p_w1, p_b2, p_e1, p_u2, p_e2,
    p_x_out, p_m_sum, p_moves, p_shift,
    num_rows, num_frames, w1_stride, inverse_cutoff,
    DIM: tl.constexpr, WIDTH: tl.constexpr, PADDED: tl.constexpr, BLOCK: tl.constexpr, SLICE: tl.constexpr,
    HAS_TERM: tl.constexpr, HAS_CUTOFF: tl.constexpr, HAS_SHIFT: tl.constexpr, NORMALIZE: tl.constexpr,
    PRE_NORM: tl.constexpr, IS_RESIDUAL: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """x_out [rows, DIM] = x', and m_sum [rows, PADDED], the sum of the messages m of every receiver.

    IS_RESIDUAL: x' = x + move; else x' is the move alone.
    HAS_CUTOFF: a neighbour at distance d counts u(d) (`kernels.envelope`). moves [rows, 4] gets the sum of the moves of
        a row and, behind it, the sum of u, which the backward reads.
    HAS_SHIFT: in periodic boxes the sender of edge e is at x_sender + shift[e], shift [edges, DIM].

    Program p of n takes the tiles p, p + n, ... of BLOCK rows, in the order of `node` (receivers by falling degree). It
    handles neighbour k of all rows of a tile at once. Rows of a tile have about the same degree, so they end together;
    the tiles with most neighbours start first.
    """
    o_col, o_dim = tl.arange(0, PADDED), tl.arange(0, 4)
    m_dim = (o_dim < DIM)[None, :]
    # The matrix units want 64 rows or more: the channels of the weights are enough of them for any BLOCK.
    o_weight = tl.arange(0, SLICE)[:, None] * PADDED + tl.arange(0, SLICE)[None, :]
    b_w2 = tl.load(p_halved + o_weight)
    b_u1 = tl.load(p_halved + PADDED * PADDED + o_weight)
    o_place = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    m_row = o_place < num_rows
    o_node = tl.load(p_node + o_place // num_frames, mask=m_row, other=0)
    o_edge = tl.load(p_first_edge + o_place // num_frames, mask=m_row, other=0)
    degree = tl.load(p_degree + o_place // num_frames, mask=m_row, other=0)
    o_frame = o_place % num_frames
    o_row = (o_node * num_frames + o_frame).to(tl.int64)
    o_x = o_row[:, None] * DIM + o_dim[None, :]
    b_x = tl.load(p_x + o_x, mask=m_dim, other=0)
    b_move = tl.zeros([BLOCK, 4], tl.float32)
    b_sum = tl.zeros([PADDED, BLOCK], tl.float32)
    for i_neighbour in tl.range(0, tl.max(degree).to(tl.int32), disable_licm=True):
        left = degree - i_neighbour  # in float32: integers would be widened to 64 bits, twice the work
        m_edge = left > 0
        # A row without this neighbour takes itself and does not count it: no other node's NaN comes near.
        o_sender = tl.load(p_sender + o_edge + i_neighbour, mask=m_edge, other=0)
        o_sender = (tl.where(m_edge, o_sender, o_node) * num_frames + o_frame).to(tl.int64)
        b_r = b_x - tl.load(p_x + o_sender[:, None] * DIM + o_dim[None, :], mask=m_dim, other=0)
        if HAS_SHIFT:
            o_shift = (o_edge + i_neighbour).to(tl.int64)[:, None] * DIM + o_dim[None, :]
            b_r -= tl.load(p_shift + o_shift, mask=m_edge[:, None] & m_dim, other=0)
        square = tl.sum(b_r * b_r, axis=1)
        distance = 0.5 * (tl.sqrt(square) if PRE_NORM else square)
        b_z = tl.load(p_pq + (o_sender[:, None] * 2 + 1) * PADDED + o_col[None, :]).to(tl.float32)
        b_z += tl.load(p_pq + o_row[:, None] * 2 * PADDED + o_col[None, :]).to(tl.float32)
        w_distance = tl.load(p_w1 + o_col * w1_stride + 2 * WIDTH, mask=o_col < WIDTH, other=0)
        b_z += distance[:, None] * w_distance[None, :]
        if HAS_TERM:
            m_term = m_edge[:, None] & (o_col < WIDTH)[None, :]
            o_term = (o_edge + i_neighbour).to(tl.int64)[:, None] * WIDTH + o_col[None, :]
            b_z += 0.5 * tl.load(p_term + o_term, mask=m_term, other=0).to(tl.float32)
        b_a = tl.trans(silu_of_double(b_z, PRECISION))
        # Plus 0, so that triton 3.6 does not move the reading of slices out of the loop, all of them at once.
        p_w2 = p_halved + tl.multiple_of(tl.minimum(i_neighbour, 0), 16)
        if SLICE == PADDED:
            b_m = product(b_w2, b_a, PRECISION)  # [PADDED, BLOCK]
        else:
            b_m = weight_times(p_w2, PADDED, 1, b_a, 0, PADDED, PADDED, SLICE, PRECISION)
        b_m = silu_of_double(b_m + 0.5 * load_vector(p_b2, o_col, WIDTH, PADDED)[:, None], PRECISION)
        if HAS_CUTOFF:
            near = tl.where(m_edge, envelope(square, inverse_cutoff), 0)
            b_sum += b_m * near[None, :]
        else:
            b_sum += b_m * tl.clamp(left, 0.0, 1.0)[None, :]
        if SLICE == PADDED:
            # [BLOCK, PADDED]: the sum over columns stays within four threads
            b_gate = product(tl.trans(b_m), tl.trans(b_u1), PRECISION)
        else:
            p_u1 = p_w2 + PADDED * PADDED
            b_gate = tl.trans(weight_times(p_u1, PADDED, 1, b_m, 0, PADDED, PADDED, SLICE, PRECISION))
        b_gate = silu_of_double(b_gate + 0.5 * load_vector(p_e1, o_col, WIDTH, PADDED)[None, :], PRECISION)
        gate = tl.sum(b_gate * load_vector(p_u2, o_col, WIDTH, PADDED)[None, :], axis=1) + tl.load(p_e2)
        if NORMALIZE and not PRE_NORM:
            b_r = b_r / (tl.sqrt(square + 1e-8) + 1)[:, None]
        if HAS_CUTOFF:
            b_r = tl.where((o_dim == 3)[None, :], near[:, None], tl.where(m_edge, gate * near, 0)[:, None] * b_r)
            b_move += b_r
        else:
            b_move += tl.where(m_edge, gate, 0)[:, None] * b_r
    if HAS_CUTOFF:
        count = tl.sum(tl.where((o_dim == 3)[None, :], b_move, 0), axis=1)
        mean = 1 / tl.sqrt(1 + count * count)
    else:
        mean = 1 / tl.maximum(degree, 1)
    # Read anew (another `other` keeps the compiler from noticing): kept over the loop, the addresses would spill.
    o_node = tl.load(p_node + o_place // num_frames, mask=m_row, other=1)
    o_row = (o_node * num_frames + o_place % num_frames).to(tl.int64)
    o_x = o_row[:, None] * DIM + o_dim[None, :]
    b_out = b_move * mean[:, None]
    if IS_RESIDUAL:
        b_out += b_x
    tl.store(p_x_out + o_x, b_out, mask=m_row[:, None] & m_dim)
    if HAS_CUTOFF:
        tl.store(p_moves + o_row[:, None] * 4 + o_dim[None, :], b_move, mask=m_row[:, None])
    tl.store(p_m_sum + o_row[None, :] * PADDED + o_col[:, None], b_sum, mask=m_row[None, :])


@triton.jit(do_not_specialize=["num_rows"])
def egcl_update_kernel(
    p_h, p_m_sum, p_v1, p_c1, p_v2, p_c2, p_h_out, num_rows,
    WIDTH: tl.constexpr, PADDED: tl.constexpr, BLOCK: tl.constexpr, SLICE: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """h' = V2 silu(V1 [h, m_sum] + c1) + c2 of every row."""
    o_row = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    o_col = tl.arange(0, PADDED)
    m_row = o_row < num_rows
    # [PADDED, BLOCK], as all that follows
    b_hidden = weight_times_rows(p_v1, 2 * WIDTH, 1, p_h, WIDTH, o_row, m_row, WIDTH, PADDED, SLICE, PRECISION)
    p_v1 += WIDTH
    b_hidden += weight_times_rows(p_v1, 2 * WIDTH, 1, p_m_sum, PADDED, o_row, m_row, WIDTH, PADDED, SLICE, PRECISION)
    b_hidden = silu_of_double(0.5 * (b_hidden + load_vector(p_c1, o_col, WIDTH, PADDED)[:, None]), PRECISION)
    b_out = weight_times(p_v2, WIDTH, 1, b_hidden, 0, WIDTH, PADDED, SLICE, PRECISION)
    b_out += load_vector(p_c2, o_col, WIDTH, PADDED)[:, None]
    tl.store(p_h_out + o_row[None, :] * WIDTH + o_col[:, None], b_out, mask=m_row[None, :] & (o_col < WIDTH)[:, None])
