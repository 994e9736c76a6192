"""What every kernel computes with: products in a precision, SiLU, matrices padded with zeros."""

import triton
import triton.language as tl


@triton.jit
def rounded(x, PRECISION: tl.constexpr):
    """The input of a product: bfloat16, or float32 holding the nearest number of tf32.

    The matrix units cut off what tf32 has no room for, which errs twice as much and always towards zero.
    *_emulated, for Triton's interpreter, which knows neither: float32 holding the nearest value, ties to even.
    """
    if PRECISION == "bf16":
        return x.to(tl.bfloat16)
    elif PRECISION == "tf32":
        return _to_tf32(x.to(tl.float32))
    elif PRECISION == "bf16_emulated":
        return _without_low_bits(x.to(tl.float32), 16)
    elif PRECISION == "tf32_emulated":
        return _without_low_bits(x, 13)
    else:
        return x


@triton.jit
def narrowed(x, PRECISION: tl.constexpr):
    """What waits in memory or registers for a product's result: in bfloat16 where products are, else as it is."""
    if PRECISION == "bf16" or PRECISION == "bf16_emulated":
        return rounded(x, PRECISION)
    else:
        return x


@triton.jit
def _to_tf32(x):
    # ties away from zero
    return tl.inline_asm_elementwise("cvt.rna.tf32.f32 $0, $1;", "=f,f", [x], dtype=tl.float32, is_pure=True, pack=1)


@triton.jit
def _without_low_bits(x, DROP: tl.constexpr):
    bits = x.to(tl.int32, bitcast=True)
    bits = (bits + ((1 << (DROP - 1)) - 1) + ((bits >> DROP) & 1)) & -(1 << DROP)
    return bits.to(tl.float32, bitcast=True)


@triton.jit
def product(a, b, PRECISION: tl.constexpr):
    """a b in float32, the inputs rounded.

    Give it inputs that are not rounded yet, and store them afterwards. On sm_90 the rounded numbers go through shared
    memory, and Triton (3.6, 3.9) puts the fence that shows them to the matrix units right before the product. A barrier
    between, of a store or a sum in another layout, comes before that fence; CUDA asks for the other order.
    `bench.ops.codegen` fails where a product has it so.
    """
    INPUT: tl.constexpr = "tf32" if PRECISION == "tf32" else "ieee"
    return tl.dot(rounded(a, PRECISION), rounded(b, PRECISION), input_precision=INPUT)


@triton.jit
def weight_times(
    p_weight, row_stride, column_stride, b, FIRST: tl.constexpr, WIDTH: tl.constexpr, PADDED: tl.constexpr,
    SLICE: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """W b [PADDED, N] of a weight [WIDTH, WIDTH] in memory, zero beyond, read SLICE columns at a time.

    W[o, i] is at p_weight + o row_stride + i column_stride, so that W^T is W with its strides exchanged. FIRST: 0
    """
    SIZE: tl.constexpr = b.shape[0]
    if SIZE == SLICE:
        o_out, o_in = tl.arange(0, PADDED)[:, None], FIRST + tl.arange(0, SLICE)[None, :]
        p_weight += o_out * row_stride + o_in * column_stride
        if WIDTH == PADDED:
            return product(tl.load(p_weight), b, PRECISION)
        else:
            return product(tl.load(p_weight, mask=(o_out < WIDTH) & (o_in < WIDTH), other=0), b, PRECISION)
    else:
        HALF: tl.constexpr = SIZE // 2
        first, second = tl.split(tl.permute(tl.reshape(b, [2, HALF, b.shape[1]]), [1, 2, 0]))
        b_out = weight_times(p_weight, row_stride, column_stride, first, FIRST, WIDTH, PADDED, SLICE, PRECISION)
        return b_out + weight_times(
            p_weight, row_stride, column_stride, second, FIRST + HALF, WIDTH, PADDED, SLICE, PRECISION
        )


@triton.jit
def weight_times_rows(
    p_weight, row_stride, column_stride, p_rows, stride, o_row, m_row, WIDTH: tl.constexpr, PADDED: tl.constexpr,
    SLICE: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """W b as above with b [WIDTH, N], the transposed rows o_row of a matrix in memory, `stride` apart."""
    o_out = tl.arange(0, PADDED)[:, None]
    b_out = tl.zeros([PADDED, o_row.shape[0]], tl.float32)
    for first in tl.range(0, PADDED, SLICE):
        o_in = first + tl.arange(0, SLICE)
        m_rows = m_row[None, :] & (o_in < WIDTH)[:, None]
        m_weight = (o_out < WIDTH) & (o_in < WIDTH)[None, :]
        b_weight = tl.load(p_weight + o_out * row_stride + o_in[None, :] * column_stride, mask=m_weight, other=0)
        b_rows = tl.load(p_rows + o_row[None, :] * stride + o_in[:, None], mask=m_rows, other=0)
        b_out += product(b_weight, b_rows, PRECISION)
    return b_out


@triton.jit
def silu_of_double(half, PRECISION: tl.constexpr):
    """SiLU(2 half) = half (1 + tanh(half)): one special-function operation in low precision, two elsewhere.

    Weights before an activation are halved (exactly) when they are rounded, so no product with 1/2 is left here.
    """
    if PRECISION == "bf16" or PRECISION == "tf32":
        return half * _tanh(half) + half
    else:
        return 2 * half / (1 + tl.exp(-2 * half))


@triton.jit
def silu_and_slope(half, PRECISION: tl.constexpr):
    """SiLU(2 half), and its derivative by half: twice s + x s (1 - s) with s = 1 / (1 + exp(-x)), x = 2 half.

    1 - s comes from the exponential, not from s, of which nothing is left near 1.
    """
    if PRECISION == "bf16" or PRECISION == "tf32":
        double = _tanh(half) + 1  # 2 s
        value = half * double
        return value, value * (2 - double) + double
    else:
        inverse = tl.exp(-2 * half)
        double = 2 / (1 + inverse)
        value = half * double
        return value, value * (tl.minimum(inverse, 1e30) * double) + double  # infinity times 0 would be no number


@triton.jit
def _tanh(x):
    # relative error 2^-11
    return tl.inline_asm_elementwise("tanh.approx.f32 $0, $1;", "=f,f", [x], dtype=tl.float32, is_pure=True, pack=1)


@triton.jit
def edge_frames(p_first, num_nodes, first_edge, num_places, num_frames):
    """How many of the places of a chunk of edges from first_edge have an edge: those before edge first[num_nodes]."""
    num_edges = tl.maximum(tl.load(p_first + num_nodes) - first_edge, 0)
    return tl.minimum(num_edges * num_frames, num_places).to(tl.int32)


@triton.jit
def load_vector(p_vector, o_col, WIDTH: tl.constexpr, PADDED: tl.constexpr):
    """[PADDED] float32, zero from WIDTH on."""
    if WIDTH == PADDED:
        return tl.load(p_vector + o_col).to(tl.float32)
    else:
        return tl.load(p_vector + o_col, mask=o_col < WIDTH, other=0).to(tl.float32)
