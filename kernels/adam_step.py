"""Clipping, Adam and the moving average of the weights: the gradient's norm, then one pass over everything."""

import triton
import triton.language as tl


@triton.jit(do_not_specialize=["size"])
def square_sum_kernel(p_values, p_partial, p_step, size, BLOCK: tl.constexpr):
    """The first half of the gradient's squared norm: program p of n writes partial[p], a sum of squares.

        partial[p] = sum of values[i]^2 over the blocks p, p + n, p + 2 n, ... of BLOCK numbers;   step <- step + 1

    values [size], partial [n], step []: float32. The sum has a fixed order: equal inputs give equal bits.
    """
    b_sum = tl.zeros([BLOCK], tl.float32)
    for i_block in tl.range(tl.program_id(0), tl.cdiv(size, BLOCK), tl.num_programs(0)):
        o_value = (i_block * BLOCK + tl.arange(0, BLOCK)).to(tl.int64)
        b_value = tl.load(p_values + o_value, mask=o_value < size, other=0)
        b_sum += b_value * b_value
    tl.store(p_partial + tl.program_id(0), tl.sum(b_sum))
    if tl.program_id(0) == 0:
        tl.store(p_step, tl.load(p_step) + 1)


@triton.jit(do_not_specialize=["size", "num_partials", "first_decayed"])
def adam_step_kernel(
    p_weight, p_grad, p_mean, p_square, p_average, p_coefficients, p_step, p_partial, p_norm,
    size, num_partials, first_decayed, clip, weight_decay,
    BETA1: tl.constexpr, BETA2: tl.constexpr, LOG_BETA1: tl.constexpr, LOG_BETA2: tl.constexpr, EPSILON: tl.constexpr,
    HAS_AVERAGE: tl.constexpr, BLOCK: tl.constexpr, PARTIALS: tl.constexpr,
):  # fmt: skip
    """`geotdm_fast.reference.adam_step` for BLOCK of the `size` weights, after square_sum_kernel.

    Every program adds up partial [num_partials] to the norm |g| of the whole gradient, so that none waits for another;
    the first one writes it. The gradient is 0 afterwards. coefficients [2]: learning rate, and the share by which the
    average moves (HAS_AVERAGE). Weights from first_decayed on shrink by rate * weight_decay first.
    """
    o_partial = tl.arange(0, PARTIALS)
    norm = tl.sqrt(tl.sum(tl.load(p_partial + o_partial, mask=o_partial < num_partials, other=0)))
    if tl.program_id(0) == 0:
        tl.store(p_norm, norm)
    factor = clip / (norm + 1e-6)
    factor = tl.where(factor > 1, 1, factor)  # NaN stays NaN
    rate, share = tl.load(p_coefficients), tl.load(p_coefficients + 1)
    step = tl.load(p_step).to(tl.float64)
    of_first = (1 - tl.exp(step * LOG_BETA1)).to(tl.float32)
    of_second = (1 - tl.exp(step * LOG_BETA2)).to(tl.float32)

    o_number = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    m_number = o_number < size
    b_grad = tl.load(p_grad + o_number, mask=m_number, other=0) * factor
    b_mean = tl.load(p_mean + o_number, mask=m_number, other=0)
    b_mean += (1 - BETA1) * (b_grad - b_mean)
    b_square = tl.load(p_square + o_number, mask=m_number, other=0)
    b_square += (1 - BETA2) * (b_grad * b_grad - b_square)
    b_weight = tl.load(p_weight + o_number, mask=m_number, other=0)
    b_weight *= 1 - tl.where(o_number < first_decayed, 0, rate * weight_decay)
    b_weight -= (rate / of_first) * b_mean / (tl.sqrt(b_square / of_second) + EPSILON)
    tl.store(p_weight + o_number, b_weight, mask=m_number)
    tl.store(p_mean + o_number, b_mean, mask=m_number)
    tl.store(p_square + o_number, b_square, mask=m_number)
    tl.store(p_grad + o_number, tl.zeros([BLOCK], tl.float32), mask=m_number)
    if HAS_AVERAGE:
        b_average = tl.load(p_average + o_number, mask=m_number, other=0)
        tl.store(p_average + o_number, b_average + share * (b_weight - b_average), mask=m_number)
