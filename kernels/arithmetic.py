"""What every kernel computes with: products in a precision, SiLU, matrices padded with zeros."""

import triton
import triton.language as tl


@triton.jit
def product(a, b, PRECISION: tl.constexpr):
    """a b in float32, the inputs rounded to PRECISION (fp32, tf32, bf16)."""
    if PRECISION == "bf16":
        return tl.dot(a.to(tl.bfloat16), b.to(tl.bfloat16))
    elif PRECISION == "tf32":
        return tl.dot(a, b, input_precision="tf32")
    else:
        return tl.dot(a, b, input_precision="ieee")


@triton.jit
def weight_product(p_weight, b_weight, b, PADDED: tl.constexpr, SLICE: tl.constexpr, PRECISION: tl.constexpr):
    """W b [PADDED, N] of a square weight: `b_weight`, or where SLICE < PADDED, read from `p_weight` by SLICE columns."""
    if SLICE == PADDED:
        return product(b_weight, b, PRECISION)
    else:
        return _sliced_product(p_weight, b, PADDED, SLICE, PRECISION)


@triton.jit
def _sliced_product(p_weight, b, PADDED: tl.constexpr, SLICE: tl.constexpr, PRECISION: tl.constexpr):
    SIZE: tl.constexpr = b.shape[0]
    if SIZE == SLICE:
        o_weight = tl.arange(0, PADDED)[:, None] * PADDED + tl.arange(0, SLICE)[None, :]
        return product(tl.load(p_weight + o_weight), b, PRECISION)
    else:
        first, second = tl.split(tl.permute(tl.reshape(b, [2, SIZE // 2, b.shape[1]]), [1, 2, 0]))
        b_out = _sliced_product(p_weight, first, PADDED, SLICE, PRECISION)
        return b_out + _sliced_product(p_weight + SIZE // 2, second, PADDED, SLICE, PRECISION)


@triton.jit
def silu_of_double(half, HAS_TANH: tl.constexpr):
    """SiLU(2 half) = half (1 + tanh(half)): one special-function operation where HAS_TANH, two elsewhere.

    Weights before an activation are halved (exactly) when they are rounded, so no product with 1/2 is left here.
    """
    if HAS_TANH:
        return half * _tanh(half) + half
    else:
        return 2 * half / (1 + tl.exp(-2 * half))


@triton.jit
def silu_and_slope(half, HAS_TANH: tl.constexpr):
    """SiLU(2 half) and its derivative there, s + x s (1 - s) with s = 1 / (1 + exp(-x)), x = 2 half."""
    if HAS_TANH:
        sigmoid = 0.5 * _tanh(half) + 0.5
    else:
        sigmoid = 1 / (1 + tl.exp(-2 * half))
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
    return b_weight.to(tl.bfloat16) if PRECISION == "bf16" else b_weight
