"""Gradients of the weights of EGCL: dW = grad^T input, a sum over rows.

The rows are summed in two steps. Slot s of S adds up the blocks of rows s, s + S, s + 2 S, ...; egcl_finish_kernel then
adds up the slots. The order of both sums is fixed, so every run gives the same bits.
"""

import triton
import triton.language as tl

from geotdm_fast.kernels.arithmetic import edge_frames, product, rounded


@triton.jit(do_not_specialize=["num_slots", "num_places", "first_edge", "num_frames", "num_nodes"])
def egcl_weight_kernel(
    p_grad, p_input, p_total, p_first, num_slots, num_places, first_edge, num_frames, num_nodes,
    grad_width, input_width, grad_next, input_next,
    ADDS: tl.constexpr, PADDED: tl.constexpr, TILE: tl.constexpr, BLOCK: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Of a chunk of edges: total[w, slot] = grad_w^T input_w, and behind it, for the bias, the sum of grad_w over rows.

    total [weights, slots, PADDED PADDED + PADDED] float32; ADDS, for all chunks but the first: added to what is there
    grad [rows, grad_width], input [rows, input_width] - of weight 0; those of weight w are w grad_next and w input_next
        numbers behind them
    A row is an edge in a frame, from edge first_edge on. Places from the edge first[num_nodes] on have no edge, and are
    not read. A program computes TILE x TILE numbers of a weight in one slot.
    """
    num_rows = edge_frames(p_first, num_nodes, first_edge, num_places, num_frames)
    slot = tl.program_id(0) % num_slots
    weight = (tl.program_id(0) // num_slots).to(tl.int64)
    p_total += tl.program_id(0).to(tl.int64) * (PADDED * PADDED + PADDED)
    _weight_slot(
        p_grad + weight * grad_next, p_input + weight * input_next, p_total, slot, num_slots, num_rows, grad_width,
        input_width, ADDS, PADDED, TILE, BLOCK, PRECISION,
    )  # fmt: skip


@triton.jit
def _weight_slot(
    p_grad, p_input, p_total, slot, num_slots, num_rows, grad_width, input_width,
    ADDS: tl.constexpr, PADDED: tl.constexpr, TILE: tl.constexpr, BLOCK: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """A slot of a weight and its bias: grad [rows, grad_width], input [rows, input_width]."""
    o_out = tl.program_id(1) * TILE + tl.arange(0, TILE)
    o_in = tl.program_id(2) * TILE + tl.arange(0, TILE)
    b_total = tl.zeros([TILE, TILE], tl.float32)
    b_bias = tl.zeros([TILE, BLOCK], tl.float32)
    for i_block in tl.range(slot, tl.cdiv(num_rows, BLOCK), num_slots):
        o_row = (i_block * BLOCK + tl.arange(0, BLOCK)).to(tl.int64)
        m_grad = (o_out < grad_width)[:, None] & (o_row < num_rows)[None, :]
        m_input = (o_row < num_rows)[:, None] & (o_in < input_width)[None, :]
        b_grad = tl.load(p_grad + o_row[None, :] * grad_width + o_out[:, None], mask=m_grad, other=0)
        b_low = rounded(b_grad, PRECISION)
        b_input = tl.load(p_input + o_row[:, None] * input_width + o_in[None, :], mask=m_input, other=0)
        b_total += product(b_low, b_input, PRECISION)
        b_bias += b_grad.to(tl.float32)
    p_bias = p_total + PADDED * PADDED + o_out
    p_total += o_out[:, None] * PADDED + o_in[None, :]
    tl.store(p_total, tl.load(p_total) + b_total if ADDS else b_total)
    if tl.program_id(2) == 0:  # once for all columns
        b_sum = tl.sum(b_bias, axis=1)
        tl.store(p_bias, tl.load(p_bias) + b_sum if ADDS else b_sum)


@triton.jit(do_not_specialize=["num_slots", "num_rows", "num_tiles", "num_edges", "num_columns", "num_nodes"])
def egcl_row_weight_kernel(
    p_grad_pq, p_grad_hidden, p_grad_h_out, p_h, p_m_sum, p_hidden, p_tile_sums, p_grad_term, p_attr,
    p_total, p_vectors, p_first, num_slots, num_rows, num_tiles, num_edges, num_columns, num_nodes,
    WIDTH: tl.constexpr, PADDED: tl.constexpr, TILE: tl.constexpr, BLOCK: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """The slots of all weights whose rows are (node, frame), in one launch; program_id(0) // num_slots says which:

        0, 1: W_i and W_j (of P and Q)   2, 3: V1 for h and for m_sum   4: V2
        5: vectors, and W_a

    total [5, slots, PADDED PADDED + PADDED] as in egcl_weight_kernel, for 0 .. 4
    vectors [slots, 3 + num_columns, PADDED] float32 - first the sums of tile_sums [num_tiles, 3, PADDED], then the
        columns of grad_term^T attr, the gradient of W_a; num_edges is 0 where no gradient of W_a is wanted, and places
        from the edge first[num_nodes] on have no edge
    """
    slot = tl.program_id(0) % num_slots
    number = tl.program_id(0) // num_slots
    p_total += tl.program_id(0).to(tl.int64) * (PADDED * PADDED + PADDED)
    if number < 2:
        p_grad_pq += number.to(tl.int64) * num_rows * PADDED
        _weight_slot(
            p_grad_pq, p_h, p_total, slot, num_slots, num_rows, PADDED, WIDTH, False, PADDED, TILE, BLOCK, PRECISION
        )
    elif number < 4:
        p_input = p_h
        input_width = WIDTH
        if number == 3:
            p_input = p_m_sum
            input_width = PADDED
        _weight_slot(
            p_grad_hidden, p_input, p_total, slot, num_slots, num_rows, PADDED, input_width, False, PADDED, TILE,
            BLOCK, PRECISION,
        )  # fmt: skip
    elif number == 4:
        _weight_slot(
            p_grad_h_out, p_hidden, p_total, slot, num_slots, num_rows, WIDTH, PADDED, False, PADDED, TILE, BLOCK,
            PRECISION,
        )  # fmt: skip
    elif tl.program_id(2) == 0:
        p_slot = p_vectors + slot * (3 + num_columns) * PADDED + tl.program_id(1) * TILE + tl.arange(0, TILE)
        for i_sum in tl.range(3):
            b_sum = _vector_slot(
                p_tile_sums + i_sum * PADDED, p_attr, 0, slot, num_slots, num_tiles, 3 * PADDED, PADDED, False,
                TILE, BLOCK,
            )  # fmt: skip
            tl.store(p_slot + i_sum * PADDED, b_sum)
        num_edges = tl.minimum(tl.load(p_first + num_nodes), num_edges).to(tl.int32)
        for i_column in tl.range(num_columns):
            b_sum = _vector_slot(
                p_grad_term, p_attr + i_column, num_columns, slot, num_slots, num_edges, WIDTH, WIDTH, True, TILE, BLOCK
            )
            tl.store(p_slot + (3 + i_column) * PADDED, b_sum)


@triton.jit
def _vector_slot(
    p_rows, p_factor, factor_stride, slot, num_slots, num_rows, stride, width,
    HAS_FACTOR: tl.constexpr, TILE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """[TILE]: a slot of the sum of rows, `stride` apart, each times its factor where there is one."""
    o_col = tl.program_id(1) * TILE + tl.arange(0, TILE)
    b_sum = tl.zeros([TILE, BLOCK], tl.float32)
    for i_block in tl.range(slot, tl.cdiv(num_rows, BLOCK), num_slots):
        o_row = (i_block * BLOCK + tl.arange(0, BLOCK)).to(tl.int64)
        m_rows = (o_col < width)[:, None] & (o_row < num_rows)[None, :]
        b_rows = tl.load(p_rows + o_row[None, :] * stride + o_col[:, None], mask=m_rows, other=0)
        if HAS_FACTOR:
            b_rows *= tl.load(p_factor + o_row * factor_stride, mask=o_row < num_rows, other=0)[None, :]
        b_sum += b_rows
    return tl.sum(b_sum, axis=1)


@triton.jit(do_not_specialize=["num_slots", "w2_slots", "u1_slots", "num_columns"])
def egcl_finish_kernel(
    p_total, p_w2_total, p_u1_total, p_vectors,
    p_w1, p_b1, p_w2, p_b2, p_u1, p_e1, p_u2, p_e2, p_v1, p_c1, p_v2, p_c2,
    num_slots, w2_slots, u1_slots, num_columns,
    WIDTH: tl.constexpr, PADDED: tl.constexpr, BLOCK: tl.constexpr, SLOTS: tl.constexpr,
):  # fmt: skip
    """Adds up the slots, SLOTS at a time, and writes the gradient of every parameter in its shape.

    total, vectors: from egcl_row_weight_kernel
    w2_total, u1_total [slots, PADDED PADDED + PADDED]: of W2 and U1 with their biases, from the kernels over edges
    The second axis of the grid says what a program writes: 0 .. 4 a weight of total, 5 W2, 6 U1, 7 vectors.
    """
    SIZE: tl.constexpr = PADDED * PADDED + PADDED
    number = tl.program_id(1).to(tl.int64)
    o_place = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    o_row, o_col = o_place // PADDED, o_place % PADDED
    w1_stride = 2 * WIDTH + 1 + num_columns
    if number < 7:
        p_slots, slots, p_out, stride, p_bias = p_total + number * num_slots * SIZE, num_slots, p_w1, w1_stride, p_b1
        if number == 1:
            p_out += WIDTH
        elif number == 2:
            p_out, stride, p_bias = p_v1, 2 * WIDTH, p_c1
        elif number == 3:
            p_out, stride = p_v1 + WIDTH, 2 * WIDTH
        elif number == 4:
            p_out, stride, p_bias = p_v2, WIDTH, p_c2
        elif number == 5:
            p_slots, slots, p_out, stride, p_bias = p_w2_total, w2_slots, p_w2, WIDTH, p_b2
        elif number == 6:
            p_slots, slots, p_out, stride, p_bias = p_u1_total, u1_slots, p_u1, WIDTH, p_e1
        b_sum = _sum_of_slots(p_slots, slots, SIZE, o_place, o_place < SIZE, BLOCK, SLOTS)
        m_col = o_col < WIDTH
        tl.store(p_out + o_row * stride + o_col, b_sum, mask=m_col & (o_row < WIDTH) & (o_place < PADDED * PADDED))
        if number > 3 or number % 2 == 0:  # all but Q and the second half of V1
            tl.store(p_bias + o_col, b_sum, mask=m_col & (o_row == PADDED))
    else:
        size = (3 + num_columns) * PADDED
        b_sum = _sum_of_slots(p_vectors, num_slots, size, o_place, o_place < size, BLOCK, SLOTS)
        m_col = (o_col < WIDTH) & (o_place < size)
        tl.store(p_u2 + o_col, b_sum, mask=m_col & (o_row == 0))
        tl.store(p_w1 + o_col * w1_stride + 2 * WIDTH, b_sum, mask=m_col & (o_row == 1))
        tl.store(p_e2 + o_col, b_sum, mask=(o_col == 0) & (o_row == 2))
        tl.store(p_w1 + o_col * w1_stride + 2 * WIDTH + o_row - 2, b_sum, mask=m_col & (o_row > 2))


@triton.jit
def _sum_of_slots(p_slots, num_slots, size, o_place, m_place, BLOCK: tl.constexpr, SLOTS: tl.constexpr):
    """[BLOCK]: the sum of [num_slots, size] over the slots; 0 of none."""
    b_sum = tl.zeros([SLOTS, BLOCK], tl.float32)
    for first in tl.range(0, num_slots, SLOTS):
        o_slot = (first + tl.arange(0, SLOTS))[:, None]
        m_slot = (o_slot < num_slots) & m_place[None, :]
        b_sum += tl.load(p_slots + o_slot.to(tl.int64) * size + o_place[None, :], mask=m_slot, other=0)
    return tl.sum(b_sum, axis=0)
