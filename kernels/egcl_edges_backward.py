"""EGCL backward over edges: every edge in every frame, recomputed, and what it gives to all that it was made from.

Names as in egcl.py. A place is an edge-frame of a chunk: place p is frame p % T of its edge p // T.
"""

import triton
import triton.language as tl

from geotdm_fast.kernels.arithmetic import (
    edge_frames,
    load_vector,
    narrowed,
    product,
    rounded,
    silu_and_slope,
    weight_times,
)
from geotdm_fast.kernels.envelope import envelope, envelope_slope


@triton.jit(do_not_specialize=["first_edge", "num_places", "num_frames", "num_nodes"])
def egcl_edges_backward_kernel(
    p_x, p_pq, p_receiver, p_sender, p_term, p_halved, p_w_distance, p_b2, p_e1, p_u2, p_e2, p_grad_move,
    p_half_grad_m_sum, p_a, p_m, p_grad_z, p_grad_y, p_grad_v, p_grad_r, p_total, p_sums, p_first, p_shift,
    first_edge, num_places, num_frames, num_nodes, inverse_cutoff,
    DIM: tl.constexpr, WIDTH: tl.constexpr, PADDED: tl.constexpr, BLOCK: tl.constexpr, SLICE: tl.constexpr,
    HAS_TERM: tl.constexpr, HAS_CUTOFF: tl.constexpr, HAS_SHIFT: tl.constexpr, NORMALIZE: tl.constexpr,
    PRE_NORM: tl.constexpr, SUMS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """A chunk of edges from first_edge, where z, y, v are what the three activations get.

    For every place a, grad_z, grad_y [places, PADDED] and grad_r [places, DIM].
    SUMS: a program takes neighbouring tiles, and adds grad_v^T m of U1 and the sum of grad_v to its part of total
    [programs, PADDED PADDED + PADDED], and its vectors to sums [programs, 3, PADDED]; the first chunk writes both.
    Else a program takes one tile, writes its part of sums [tiles, 3, PADDED], and m and grad_v [places, PADDED].
    Places from the edge first[num_nodes] on have none: nothing is read or written there, and their tiles' sums are 0.
    sums: of u2, w_d, and e2 all over the last row. w_distance [PADDED]: w_d. grad_move: gradient of x' over the
    receiver's degree. half_grad_m_sum: half of the gradient, as products with halved weights have it.
    HAS_SHIFT: the sender of an edge is shift [edges, DIM] away from where it is.
    """
    o_col = tl.arange(0, PADDED)
    num_real = edge_frames(p_first, num_nodes, first_edge, num_places, num_frames)
    num_tiles = tl.cdiv(num_real, BLOCK)
    o_weight = tl.arange(0, SLICE)[:, None] * PADDED + tl.arange(0, SLICE)[None, :]
    b_w2, b_u1 = tl.load(p_halved + o_weight), tl.load(p_halved + PADDED * PADDED + o_weight)
    p_sums += tl.program_id(0).to(tl.int64) * 3 * PADDED + o_col
    if SUMS:
        tiles = num_tiles.to(tl.int64)
        first = (tl.program_id(0) * tiles // tl.num_programs(0)).to(tl.int32)
        last = ((tl.program_id(0) + 1) * tiles // tl.num_programs(0)).to(tl.int32)
        t_u1, t_e1 = tl.zeros([PADDED, PADDED], tl.float32), tl.zeros([PADDED], tl.float32)
        t_u2, t_w_d = tl.zeros([PADDED], tl.float32), tl.zeros([16, PADDED], tl.float32)
        t_e2 = tl.zeros([BLOCK], tl.float32)
        # What does not change from tile to tile is cheap to compute and would be spilled; so would be addresses, did
        # the compiler know that this is 0.
        nothing = num_real >> 31
        for tile in tl.range(first, last, disable_licm=True):
            t_u1, t_e1, t_u2, t_w_d, t_e2 = _tile(
                p_x, p_pq, p_receiver, p_sender, p_term, p_halved, p_w_distance, p_b2, p_e1, p_u2, p_e2, p_grad_move,
                p_half_grad_m_sum, p_a, p_m, p_grad_z, p_grad_y, p_grad_v, p_grad_r, p_shift, b_w2, b_u1,
                t_u1, t_e1, t_u2, t_w_d, t_e2, tile ^ nothing, first_edge, num_real, num_frames, inverse_cutoff,
                DIM, WIDTH, PADDED, BLOCK, SLICE, HAS_TERM, HAS_CUTOFF, HAS_SHIFT, NORMALIZE, PRE_NORM, SUMS,
                PRECISION,
            )  # fmt: skip
        m_adds = tl.full([PADDED], True, tl.int1) & (first_edge > 0)
        p_total += tl.program_id(0).to(tl.int64) * (PADDED * PADDED + PADDED)
        p_weight, p_bias = p_total + o_col[:, None] * PADDED + o_col[None, :], p_total + PADDED * PADDED + o_col
        tl.store(p_weight, t_u1 + tl.load(p_weight, mask=m_adds[:, None], other=0))
        tl.store(p_bias, t_e1 + tl.load(p_bias, mask=m_adds, other=0))
        t_u2 += tl.load(p_sums, mask=m_adds, other=0)
        b_w_d = tl.sum(t_w_d, axis=0) + tl.load(p_sums + PADDED, mask=m_adds, other=0)
        b_e2 = tl.sum(t_e2, axis=0) + tl.load(p_sums + 2 * PADDED, mask=m_adds, other=0)
    elif tl.program_id(0) < num_tiles:
        _, _, t_u2, t_w_d, t_e2 = _tile(
            p_x, p_pq, p_receiver, p_sender, p_term, p_halved, p_w_distance, p_b2, p_e1, p_u2, p_e2, p_grad_move,
            p_half_grad_m_sum, p_a, p_m, p_grad_z, p_grad_y, p_grad_v, p_grad_r, p_shift, b_w2, b_u1,
            0.0, 0.0, 0.0, 0.0, 0.0, tl.program_id(0), first_edge, num_real, num_frames, inverse_cutoff,
            DIM, WIDTH, PADDED, BLOCK, SLICE, HAS_TERM, HAS_CUTOFF, HAS_SHIFT, NORMALIZE, PRE_NORM, SUMS, PRECISION,
        )  # fmt: skip
        b_w_d = tl.sum(t_w_d, axis=0)
        b_e2 = tl.sum(t_e2, axis=0) + tl.zeros([PADDED], tl.float32)
    else:
        t_u2, b_w_d, b_e2 = (
            tl.zeros([PADDED], tl.float32),
            tl.zeros([PADDED], tl.float32),
            tl.zeros([PADDED], tl.float32),
        )
    tl.store(p_sums, t_u2)
    tl.store(p_sums + PADDED, b_w_d)
    tl.store(p_sums + 2 * PADDED, b_e2)


@triton.jit
def _tile(
    p_x, p_pq, p_receiver, p_sender, p_term, p_halved, p_w_distance, p_b2, p_e1, p_u2, p_e2, p_grad_move,
    p_half_grad_m_sum, p_a, p_m, p_grad_z, p_grad_y, p_grad_v, p_grad_r, p_shift, b_w2, b_u1,
    t_u1, t_e1, t_u2, t_w_d, t_e2, tile, first_edge, num_places, num_frames, inverse_cutoff,
    DIM: tl.constexpr, WIDTH: tl.constexpr, PADDED: tl.constexpr, BLOCK: tl.constexpr, SLICE: tl.constexpr,
    HAS_TERM: tl.constexpr, HAS_CUTOFF: tl.constexpr, HAS_SHIFT: tl.constexpr, NORMALIZE: tl.constexpr,
    PRE_NORM: tl.constexpr, SUMS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Writes the rows of a tile and adds to the sums t_*: of U1 and e1 (SUMS), of u2, of w_d [16, PADDED], of e2
    [BLOCK]."""
    o_col, o_dim = tl.arange(0, PADDED), tl.arange(0, 4)
    m_dim = (o_dim < DIM)[None, :]
    p_u1 = p_halved + PADDED * PADDED
    # Places beyond the chunk compute what its last place does, give 0 to sums and write nothing.
    o_ahead = tl.arange(0, BLOCK)
    m_place = o_ahead < num_places - tile * BLOCK
    o_ahead = tl.minimum(o_ahead, num_places - tile * BLOCK - 1)
    o_edge, o_frame = _edges_and_frames(tile * BLOCK, o_ahead, first_edge, num_frames, BLOCK)
    o_row = (tl.load(p_receiver + o_edge) * num_frames + o_frame).to(tl.int64)
    o_sender = (tl.load(p_sender + o_edge) * num_frames + o_frame).to(tl.int64)

    b_r = tl.load(p_x + o_row[:, None] * DIM + o_dim[None, :], mask=m_dim, other=0)
    b_r -= tl.load(p_x + o_sender[:, None] * DIM + o_dim[None, :], mask=m_dim, other=0)
    if HAS_SHIFT:
        b_r -= tl.load(p_shift + o_edge.to(tl.int64)[:, None] * DIM + o_dim[None, :], mask=m_dim, other=0)
    m_move = m_place[:, None] & m_dim
    GRAD_MOVE: tl.constexpr = 4 if HAS_CUTOFF else DIM
    along_raw = tl.load(p_grad_move + o_row[:, None] * GRAD_MOVE + o_dim[None, :], mask=m_move, other=0)
    # [BLOCK, PADDED], until the first product. After the positions, else Triton takes their layout for these rows.
    b_z = tl.load(p_pq + o_row[:, None] * (2 * PADDED) + o_col[None, :]).to(tl.float32)
    b_z += tl.load(p_pq + PADDED + o_sender[:, None] * (2 * PADDED) + o_col[None, :]).to(tl.float32)

    # grad_r is raw times along_raw and grad_distance times along_distance.
    square = tl.sum(b_r * b_r, axis=1)
    grad_raw = tl.sum(along_raw * b_r, axis=1)
    distance = tl.where(m_place, square, 0)
    along_distance = 2 * b_r
    if PRE_NORM:
        distance = tl.sqrt(distance)
        along_distance = tl.where(distance > 0, 1 / tl.where(distance > 0, distance, 1), 0)[:, None] * b_r
    elif NORMALIZE:
        length = tl.sqrt(square + 1e-8)
        scale = 1 / (length + 1)
        grad_raw *= scale
        along_raw = scale[:, None] * (along_raw - (grad_raw / length)[:, None] * b_r)
    if HAS_CUTOFF:
        # grad_r is grad_near times along_near, too; grad_near is raw times near_raw, and what follows from sums.
        near = envelope(square, inverse_cutoff)
        along_near = envelope_slope(square, inverse_cutoff)[:, None] * b_r
        near_raw = grad_raw
        grad_raw *= near
        along_raw *= near[:, None]

    b_z += 0.5 * distance[:, None] * tl.load(p_w_distance + o_col)[None, :]
    if HAS_TERM:
        p_term += o_edge.to(tl.int64)[:, None] * WIDTH + o_col[None, :]
        if WIDTH == PADDED:
            b_z += 0.5 * tl.load(p_term)
        else:
            b_z += 0.5 * tl.load(p_term, mask=(o_col < WIDTH)[None, :], other=0)
    b_a, b_slope = silu_and_slope(b_z, PRECISION)
    b_a = rounded(b_a, PRECISION)
    first_out = tile.to(tl.int64) * (BLOCK * PADDED)
    o_out = tl.arange(0, BLOCK)[:, None] * PADDED + o_col[None, :]
    p_grad_z += first_out
    tl.store(p_a + first_out + o_out, b_a)
    # The slope waits where grad_z will be, for registers are full.
    tl.store(p_grad_z + o_out, _kept(b_slope, PRECISION))

    # From here on [PADDED, BLOCK], as the matrix units want it.
    b_m = _edge_product(p_halved, b_w2, tl.trans(b_a), False, PADDED, SLICE, PRECISION)
    b_m, b_slope = silu_and_slope(b_m + 0.5 * load_vector(p_b2, o_col, WIDTH, PADDED)[:, None], PRECISION)
    b_m = rounded(b_m, PRECISION)
    b_slope = _kept(b_slope, PRECISION)
    b_gate = _edge_product(p_u1, b_u1, b_m, False, PADDED, SLICE, PRECISION)
    b_gate, b_grad = silu_and_slope(b_gate + 0.5 * load_vector(p_e1, o_col, WIDTH, PADDED)[:, None], PRECISION)

    # The gate: raw = u2 . gate + e2 moves the receiver by raw scale r / degree.
    u2 = load_vector(p_u2, o_col, WIDTH, PADDED)[:, None]
    b_grad *= grad_raw[None, :]
    b_grad *= 0.5 * u2
    t_u2 += tl.sum(b_gate * grad_raw[None, :], axis=1)
    t_e2 += grad_raw
    b_raw = tl.sum(tl.reshape(b_gate * u2, [PADDED // 16, 2, 8, BLOCK]), axis=1)
    if SUMS:
        t_e1 += tl.sum(b_grad, axis=1)
    b_half = tl.load(p_half_grad_m_sum + o_row[:, None] * PADDED + o_col[None, :])
    b_half = tl.trans(b_half).to(tl.float32)
    if HAS_CUTOFF:
        grad_near = 2 * tl.sum(b_half * b_m.to(tl.float32), axis=0)
        grad_near += tl.load(p_grad_move + o_row * 4 + 3, mask=m_place, other=0)
        b_half *= near[None, :]
    b_grad_v = rounded(b_grad, PRECISION)
    b_grad = _edge_product(p_u1, b_u1, b_grad_v, True, PADDED, SLICE, PRECISION) + b_half
    if SUMS:
        t_u1 += product(b_grad_v, tl.trans(b_m), PRECISION)
    raw = tl.sum(tl.reshape(b_raw, [PADDED // 2, BLOCK]), axis=0) + tl.load(p_e2)
    b_grad_r = raw[:, None] * along_raw
    if HAS_CUTOFF:
        b_grad_r += (raw * near_raw + grad_near)[:, None] * along_near
    b_grad_y = rounded(b_grad * b_slope, PRECISION)
    b_grad_z = tl.trans(_edge_product(p_halved, b_w2, b_grad_y, True, PADDED, SLICE, PRECISION))
    b_grad_z *= tl.load(p_grad_z + o_out).to(tl.float32)
    tl.store(p_grad_z + o_out, rounded(b_grad_z, PRECISION))
    tl.store(p_grad_y + first_out + o_out, tl.trans(b_grad_y))
    if not SUMS:
        tl.store(p_m + first_out + o_out, tl.trans(b_m))
        tl.store(p_grad_v + first_out + o_out, tl.trans(b_grad_v))
    t_w_d += tl.sum(tl.reshape(b_grad_z * distance[:, None], [BLOCK // 16, 16, PADDED]), axis=0)
    grad_distance = tl.sum(b_grad_z * tl.load(p_w_distance + o_col)[None, :], axis=1)
    b_grad_r += grad_distance[:, None] * along_distance
    p_grad_r += tile.to(tl.int64) * (BLOCK * DIM) + tl.arange(0, BLOCK)[:, None] * DIM + o_dim[None, :]
    tl.store(p_grad_r, b_grad_r, mask=m_dim)
    return t_u1, t_e1, t_u2, t_w_d, t_e2


@triton.jit
def _edges_and_frames(place, o_ahead, first_edge, num_frames, BLOCK: tl.constexpr):
    """Edges and frames of the places place + o_ahead.

    Of few places: float32 divides their numbers exactly, in an eighth of the instructions.
    """
    edge = place // num_frames
    o_frame = place - edge * num_frames + o_ahead
    ahead = ((o_frame.to(tl.float32) + 0.5) * (1.0 / num_frames.to(tl.float32))).to(tl.int32)
    ahead = tl.where(num_frames >= BLOCK, (o_frame >= num_frames).to(tl.int32), ahead)
    return first_edge + edge + ahead, o_frame - ahead * num_frames


@triton.jit
def _kept(x, PRECISION: tl.constexpr):
    """`narrowed`, and at once: left alone, the compiler would keep what x is made from, twice the registers or more."""
    if PRECISION == "bf16":
        return tl.inline_asm_elementwise(
            "cvt.rn.bf16x2.f32 $0, $2, $1;", "=r,f,f", [x], dtype=tl.bfloat16, is_pure=False, pack=2
        )
    else:
        return narrowed(x, PRECISION)


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
