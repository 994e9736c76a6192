"""What every kernel computes with: products in a precision, SiLU, matrices padded with zeros."""

import triton
import triton.language as tl


@triton.jit
def rounded(x, PRECISION: tl.constexpr):
    """The input of a product: bfloat16, or float32 whose rounding to tf32 the matrix units do.

    *_emulated, for Triton's interpreter, which knows neither: float32 holding the nearest value, ties to even.
    """
    if PRECISION == "bf16":
        return x.to(tl.bfloat16)
    elif PRECISION == "bf16_emulated":
        return _without_low_bits(x.to(tl.float32), 16)
    elif PRECISION == "tf32_emulated":
        return _without_low_bits(x, 13)
    else:
        return x


@triton.jit
def _without_low_bits(x, DROP: tl.constexpr):
    bits = x.to(tl.int32, bitcast=True)
    bits = (bits + ((1 << (DROP - 1)) - 1) + ((bits >> DROP) & 1)) & -(1 << DROP)
    return bits.to(tl.float32, bitcast=True)


@triton.jit
def product(a, b, PRECISION: tl.constexpr):
    """a b in float32, the inputs rounded."""
    INPUT: tl.constexpr = "tf32" if PRECISION == "tf32" else "ieee"
    return tl.dot(rounded(a, PRECISION), rounded(b, PRECISION), input_precision=INPUT)


@triton.jit
def weight_product(
    p_weight, b_weight, b, IS_TRANSPOSED: tl.constexpr, PADDED: tl.constexpr, SLICE: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """W b or W^T b [PADDED, N] of a square weight: of `b_weight`, or where SLICE < PADDED, of what is at `p_weight`,
    read SLICE columns at a time."""
    if SLICE == PADDED:
        return product(tl.trans(b_weight) if IS_TRANSPOSED else b_weight, b, PRECISION)
    elif IS_TRANSPOSED:
        return _sliced_product(p_weight, b, 1, PADDED, PADDED, SLICE, PRECISION)
    else:
        return _sliced_product(p_weight, b, PADDED, 1, PADDED, SLICE, PRECISION)


@triton.jit
def _sliced_product(
    p_weight, b, ROW: tl.constexpr, COLUMN: tl.constexpr, PADDED: tl.constexpr, SLICE: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    SIZE: tl.constexpr = b.shape[0]
    if SIZE == SLICE:
        o_weight = tl.arange(0, PADDED)[:, None] * ROW + tl.arange(0, SLICE)[None, :] * COLUMN
        return product(tl.load(p_weight + o_weight), b, PRECISION)
    else:
        first, second = tl.split(tl.permute(tl.reshape(b, [2, SIZE // 2, b.shape[1]]), [1, 2, 0]))
        b_out = _sliced_product(p_weight, first, ROW, COLUMN, PADDED, SLICE, PRECISION)
        p_second = p_weight + SIZE // 2 * COLUMN
        return b_out + _sliced_product(p_second, second, ROW, COLUMN, PADDED, SLICE, PRECISION)


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
    """SiLU(2 half) and its derivative there, s + x s (1 - s) with s = 1 / (1 + exp(-x)), x = 2 half."""
    IS_LOW: tl.constexpr = PRECISION == "bf16" or PRECISION == "tf32"
    sigmoid = 0.5 * _tanh(half) + 0.5 if IS_LOW else 1 / (1 + tl.exp(-2 * half))
    value = 2 * half * sigmoid
    return value, sigmoid + value - value * sigmoid


@triton.jit
def _tanh(x):
    # relative error 2^-11
    return tl.inline_asm_elementwise("tanh.approx.f32 $0, $1;", "=f,f", [x], dtype=tl.float32, is_pure=True, pack=1)


@triton.jit
def load_vector(p_vector, o_col, WIDTH: tl.constexpr, PADDED: tl.constexpr):
    """[PADDED] float32, zero from WIDTH on."""
    if WIDTH == PADDED:
        return tl.load(p_vector + o_col).to(tl.float32)
    else:
        return tl.load(p_vector + o_col, mask=o_col < WIDTH, other=0).to(tl.float32)


@triton.jit
def load_weight(p_weight, stride, WIDTH: tl.constexpr, PADDED: tl.constexpr, PRECISION: tl.constexpr):
    """W^T [PADDED in, PADDED out] of a weight [WIDTH out, WIDTH in] whose rows are `stride` apart, zero elsewhere."""
    o_in, o_out = tl.arange(0, PADDED)[:, None], tl.arange(0, PADDED)[None, :]
    if WIDTH == PADDED:
        b_weight = tl.load(p_weight + o_out * stride + o_in)
    else:
        b_weight = tl.load(p_weight + o_out * stride + o_in, mask=(o_in < WIDTH) & (o_out < WIDTH), other=0)
    return rounded(b_weight, PRECISION)
