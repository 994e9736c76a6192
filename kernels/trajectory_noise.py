"""Normal noise by counter: Philox-4x32-10 and Box and Muller's transform, in float64, in one pass."""

import triton
import triton.language as tl


@triton.jit(do_not_specialize=["num_counters", "blocks", "size"])
def trajectory_noise_kernel(
    p_block, p_graph, p_sample, p_key, p_draw, p_out, num_counters, blocks, size,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """out [K, N, size], four numbers a counter: program (i, k) has BLOCK of the [N, blocks] counters, for draw k.

    Integers are int64 that hold 32 bits, as in the reference, whose bits these are.
    """
    o_counter = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    m_counter = o_counter < num_counters
    node = o_counter // blocks
    a = tl.load(p_block + o_counter, mask=m_counter, other=0)
    b = tl.load(p_draw + tl.program_id(1)) + tl.zeros_like(a)
    c = tl.load(p_graph + node, mask=m_counter, other=0)
    d = tl.load(p_sample + node, mask=m_counter, other=0)
    low, high = tl.load(p_key), tl.load(p_key + 1)
    for _ in tl.static_range(10):
        first, second = a * 0xD2511F53, c * 0xCD9E8D57
        a, b = ((second >> 32) & 0xFFFFFFFF) ^ b ^ low, second & 0xFFFFFFFF
        c, d = ((first >> 32) & 0xFFFFFFFF) ^ d ^ high, first & 0xFFFFFFFF
        low, high = (low + 0x9E3779B9) & 0xFFFFFFFF, (high + 0xBB67AE85) & 0xFFFFFFFF
    p_row = p_out + (tl.program_id(1).to(tl.int64) * (num_counters // blocks) + node) * size
    o_number = (o_counter % blocks) * 4
    radius, angle = polar(a, c)
    tl.store(p_row + o_number, radius * tl.cos(angle), mask=m_counter & (o_number < size))
    tl.store(p_row + o_number + 2, radius * tl.sin(angle), mask=m_counter & (o_number + 2 < size))
    radius, angle = polar(b, d)
    tl.store(p_row + o_number + 1, radius * tl.cos(angle), mask=m_counter & (o_number + 1 < size))
    tl.store(p_row + o_number + 3, radius * tl.sin(angle), mask=m_counter & (o_number + 3 < size))


@triton.jit
def polar(one, other):
    """Two numbers of 32 bits as radius and angle of a pair of normal numbers."""
    to_unit: tl.constexpr = 2.0**-32
    turn: tl.constexpr = 6.283185307179586
    u = (one.to(tl.float64) + 0.5) * to_unit
    v = (other.to(tl.float64) + 0.5) * to_unit
    return tl.sqrt(-2 * tl.log(u)), turn * v
