"""The gated feed-forward on a scalar and one vector (`geotdm_fast.reference.gv_ff`), forward and backward.

Every vector within is u times a number, since vector maps have no bias and one vector comes in. So a row needs r = |u|
and numbers alone: U_v = a_v u with a = W_h, V_o = t_o u with t_o = s_o c_o and c = W_u a, U'_v = a'_v u with
a' = W_h' t, and w = s' c' u with c' = W_u' a'; s are the gates. Rows are PADDED wide, the power of two from WIDTH on;
what is beyond WIDTH is zero.
"""

import triton
import triton.language as tl

from geotdm_fast.kernels.arithmetic import (
    load_vector,
    silu_and_slope,
    weight_times,
    weight_times_rows,
)

VECTORS = tl.constexpr(4)
# Numbers of a row that weights' gradients are made of, and where each kind of them begins.
NUMBERS = tl.constexpr(28)
R = tl.constexpr(0)  # |u|
GRAD_LAST = tl.constexpr(1)  # by the last gate before its sigmoid
GRAD_SUM = tl.constexpr(2)  # by c'
LENGTH = tl.constexpr(4)  # |a'_v| r
GRAD_GATE = tl.constexpr(8)  # by the first gates before their sigmoid
GRAD_INNER = tl.constexpr(12)  # by a'
GATED = tl.constexpr(16)  # t
GRAD_MIXED = tl.constexpr(20)  # by c
INNER = tl.constexpr(24)  # a'


@triton.jit
def _sigmoid(x):
    return 1 / (1 + tl.exp(-x))


@triton.jit
def _gated(p_gate, p_gate_bias, p_mix, b_a, b_p, o_col, i_out: tl.constexpr, WIDTH: tl.constexpr, PADDED: tl.constexpr):
    """s and c of vector i_out that goes out of the first perceptron: [BLOCK] and a number."""
    o_vector = tl.arange(0, VECTORS)
    b_gate = load_vector(p_gate + i_out * WIDTH, o_col, WIDTH, PADDED)
    gate = _sigmoid(tl.sum(b_p * b_gate[:, None], axis=0) + tl.load(p_gate_bias + i_out))
    return gate, tl.sum(tl.load(p_mix + i_out * VECTORS + o_vector) * b_a, axis=0)


@triton.jit
def _row_of(b_values, i_row: tl.constexpr):
    """Row i_row of [VECTORS, BLOCK]."""
    return tl.sum(tl.where((tl.arange(0, VECTORS) == i_row)[:, None], b_values, 0), axis=0)


@triton.jit
def _length_weight(p_feature, i_vector: tl.constexpr, o_col, WIDTH: tl.constexpr, PADDED: tl.constexpr):
    """[PADDED]: the column of a layer's weight [WIDTH, WIDTH + VECTORS] that the length of a vector meets."""
    o_weight = o_col * (WIDTH + VECTORS) + WIDTH + i_vector
    return tl.load(p_feature + o_weight, mask=o_col < WIDTH, other=0)


@triton.jit
def _first(
    p_k, p_vector, p_feature, p_bias, r, o_row, m_row, o_col, WIDTH: tl.constexpr, PADDED: tl.constexpr,
    SLICE: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """The first layer before its activation [PADDED, BLOCK], and what it has for each unit of r, [PADDED]."""
    b_z = weight_times_rows(
        p_feature, WIDTH + VECTORS, 1, p_k, WIDTH, o_row, m_row, WIDTH, PADDED, SLICE, PRECISION
    )  # fmt: skip
    b_length = tl.zeros([PADDED], tl.float32)
    for i in tl.static_range(VECTORS):
        b_length += tl.abs(tl.load(p_vector + i)) * _length_weight(p_feature, i, o_col, WIDTH, PADDED)
    b_z += load_vector(p_bias, o_col, WIDTH, PADDED)[:, None] + b_length[:, None] * r[None, :]
    return b_z, b_length


@triton.jit(do_not_specialize=["num_rows"])
def gv_ff_kernel(
    p_k, p_u, p_vector1, p_mix1, p_feature1, p_bias1, p_gate1, p_gate_bias1, p_vector2, p_mix2, p_feature2, p_bias2,
    p_gate2, p_gate_bias2, p_q, p_w, num_rows,
    DIM: tl.constexpr, WIDTH: tl.constexpr, PADDED: tl.constexpr, BLOCK: tl.constexpr, SLICE: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """q [rows, WIDTH] and w [rows, DIM]."""
    o_row = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    o_col, o_dim, o_vector = tl.arange(0, PADDED), tl.arange(0, 4), tl.arange(0, VECTORS)
    m_row = o_row < num_rows
    o_u = o_row[:, None] * DIM + o_dim[None, :]
    m_u = m_row[:, None] & (o_dim < DIM)[None, :]
    b_u = tl.load(p_u + o_u, mask=m_u, other=0)
    r = tl.sqrt(tl.sum(b_u * b_u, axis=1))
    b_a = tl.load(p_vector1 + o_vector)
    b_p, _ = _first(p_k, p_vector1, p_feature1, p_bias1, r, o_row, m_row, o_col, WIDTH, PADDED, SLICE, PRECISION)
    b_p = b_p * _sigmoid(b_p)
    b_inner = tl.zeros([VECTORS, BLOCK], tl.float32)
    for i in tl.static_range(VECTORS):
        gate, mixed = _gated(p_gate1, p_gate_bias1, p_mix1, b_a, b_p, o_col, i, WIDTH, PADDED)
        b_inner += tl.load(p_vector2 + o_vector * VECTORS + i)[:, None] * (gate * mixed)[None, :]
    b_q = weight_times(p_feature2, WIDTH + VECTORS, 1, b_p, 0, WIDTH, PADDED, SLICE, PRECISION)
    b_q += load_vector(p_bias2, o_col, WIDTH, PADDED)[:, None]
    for i in tl.static_range(VECTORS):
        b_weight = _length_weight(p_feature2, i, o_col, WIDTH, PADDED)
        b_q += b_weight[:, None] * (tl.abs(_row_of(b_inner, i)) * r)[None, :]
    last = _sigmoid(
        tl.sum(b_q * load_vector(p_gate2, o_col, WIDTH, PADDED)[:, None], axis=0) + tl.load(p_gate_bias2)
    )  # fmt: skip
    factor = last * tl.sum(tl.load(p_mix2 + o_vector)[:, None] * b_inner, axis=0)
    tl.store(p_q + o_row[None, :] * WIDTH + o_col[:, None], b_q, mask=m_row[None, :] & (o_col < WIDTH)[:, None])
    tl.store(p_w + o_u, factor[:, None] * b_u, mask=m_u)


@triton.jit(do_not_specialize=["num_rows"])
def gv_ff_backward_kernel(
    p_grad_q, p_grad_w, p_k, p_u, p_q, p_vector1, p_mix1, p_feature1, p_bias1, p_gate1, p_gate_bias1, p_vector2, p_mix2,
    p_feature2, p_bias2, p_gate2, p_gate_bias2, p_grad_k, p_grad_u, p_p, p_grad_out, p_grad_z, p_numbers, num_rows,
    DIM: tl.constexpr, WIDTH: tl.constexpr, PADDED: tl.constexpr, BLOCK: tl.constexpr, SLICE: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """grad_k [rows, WIDTH] and grad_u [rows, DIM], and what the weights' gradients are made of.

    p, grad_out, grad_z [rows, WIDTH]: the first layer, and the gradients by both layers before their activation
    numbers [rows, NUMBERS]: see the constants
    """
    o_row = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    o_col, o_dim, o_vector = tl.arange(0, PADDED), tl.arange(0, 4), tl.arange(0, VECTORS)
    m_row = o_row < num_rows
    o_u = o_row[:, None] * DIM + o_dim[None, :]
    m_u = m_row[:, None] & (o_dim < DIM)[None, :]
    o_feature = o_row[None, :] * WIDTH + o_col[:, None]
    m_feature = m_row[None, :] & (o_col < WIDTH)[:, None]
    p_number = p_numbers + o_row * NUMBERS
    p_vectors = p_numbers + o_row[None, :] * NUMBERS + o_vector[:, None]  # [VECTORS, BLOCK]
    b_u, b_grad_w = tl.load(p_u + o_u, mask=m_u, other=0), tl.load(p_grad_w + o_u, mask=m_u, other=0)
    r = tl.sqrt(tl.sum(b_u * b_u, axis=1))
    b_a = tl.load(p_vector1 + o_vector)
    b_z, b_length = _first(
        p_k, p_vector1, p_feature1, p_bias1, r, o_row, m_row, o_col, WIDTH, PADDED, SLICE, PRECISION
    )  # fmt: skip
    b_p, b_slope = silu_and_slope(0.5 * b_z, "fp32")
    tl.store(p_p + o_feature, b_p, mask=m_feature)
    b_inner = tl.zeros([VECTORS, BLOCK], tl.float32)
    for i in tl.static_range(VECTORS):
        gate, mixed = _gated(p_gate1, p_gate_bias1, p_mix1, b_a, b_p, o_col, i, WIDTH, PADDED)
        b_inner += tl.load(p_vector2 + o_vector * VECTORS + i)[:, None] * (gate * mixed)[None, :]
        tl.store(p_number + GATED + i, gate * mixed, mask=m_row)

    # The second perceptron: by its last gate, then by its features, then by its vectors.
    b_gate2 = load_vector(p_gate2, o_col, WIDTH, PADDED)
    b_q = tl.load(p_q + o_feature, mask=m_feature, other=0)
    last = _sigmoid(tl.sum(b_q * b_gate2[:, None], axis=0) + tl.load(p_gate_bias2))
    b_mix2 = tl.load(p_mix2 + o_vector)
    total = tl.sum(b_mix2[:, None] * b_inner, axis=0)
    grad_factor = tl.sum(b_grad_w * b_u, axis=1)
    grad_last = grad_factor * total * last * (1 - last)
    b_grad = tl.load(p_grad_q + o_feature, mask=m_feature, other=0) + b_gate2[:, None] * grad_last[None, :]
    b_grad_inner = b_mix2[:, None] * (grad_factor * last)[None, :]
    grad_r = tl.zeros([BLOCK], tl.float32)
    for i in tl.static_range(VECTORS):
        inner = _row_of(b_inner, i)
        b_weight = _length_weight(p_feature2, i, o_col, WIDTH, PADDED)
        grad_length = tl.sum(b_grad * b_weight[:, None], axis=0)
        grad_r += grad_length * tl.abs(inner)
        by_length = tl.where(inner > 0, grad_length * r, tl.where(inner < 0, -grad_length * r, 0))
        b_grad_inner += tl.where((o_vector == i)[:, None], by_length[None, :], 0)
    tl.store(p_grad_out + o_feature, b_grad, mask=m_feature)
    tl.store(p_number + R, r, mask=m_row)
    tl.store(p_number + GRAD_LAST, grad_last, mask=m_row)
    tl.store(p_number + GRAD_SUM, grad_factor * last, mask=m_row)
    tl.store(p_vectors + LENGTH, tl.abs(b_inner) * r[None, :], mask=m_row[None, :])
    tl.store(p_vectors + GRAD_INNER, b_grad_inner, mask=m_row[None, :])
    tl.store(p_vectors + INNER, b_inner, mask=m_row[None, :])

    # The first.
    b_grad_p = weight_times(p_feature2, 1, WIDTH + VECTORS, b_grad, 0, WIDTH, PADDED, SLICE, PRECISION)
    for i in tl.static_range(VECTORS):
        gate, mixed = _gated(p_gate1, p_gate_bias1, p_mix1, b_a, b_p, o_col, i, WIDTH, PADDED)
        grad_gated = tl.sum(tl.load(p_vector2 + o_vector * VECTORS + i)[:, None] * b_grad_inner, axis=0)
        grad_gate = grad_gated * mixed * gate * (1 - gate)
        b_grad_p += load_vector(p_gate1 + i * WIDTH, o_col, WIDTH, PADDED)[:, None] * grad_gate[None, :]
        tl.store(p_number + GRAD_GATE + i, grad_gate, mask=m_row)
        tl.store(p_number + GRAD_MIXED + i, grad_gated * gate, mask=m_row)
    b_grad_z = 0.5 * b_grad_p * b_slope
    tl.store(p_grad_z + o_feature, b_grad_z, mask=m_feature)
    grad_r += tl.sum(b_grad_z * b_length[:, None], axis=0)
    along = tl.where(r > 0, grad_r / tl.where(r > 0, r, 1), 0)
    tl.store(p_grad_u + o_u, (last * total)[:, None] * b_grad_w + along[:, None] * b_u, mask=m_u)
    b_grad_k = weight_times(p_feature1, 1, WIDTH + VECTORS, b_grad_z, 0, WIDTH, PADDED, SLICE, PRECISION)
    tl.store(p_grad_k + o_feature, b_grad_k, mask=m_feature)
