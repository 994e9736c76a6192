"""Noise around the prior's mean for a training step, and the mean's gradient."""

import triton
import triton.language as tl


@triton.jit(do_not_specialize=["num_places", "row_size", "num_frames", "start_n", "start_d", "ref_n", "ref_d", "ref_t"])
def noised_positions_kernel(
    p_start, p_ref, p_noise, p_signal, p_spread, p_t, p_x,
    num_places, row_size, num_frames, start_n, start_d, ref_n, ref_d, ref_t, BLOCK: tl.constexpr,
):  # fmt: skip
    """x [nodes, row_size = D frames]; strides are those of x_start, whose frames are side by side, and of x_ref."""
    o_place = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    m_place = o_place < num_places
    node, axis, frame = o_place // row_size, o_place % row_size // num_frames, o_place % num_frames
    step = tl.load(p_t + node, mask=m_place, other=0)
    signal, spread = tl.load(p_signal + step, mask=m_place, other=0), tl.load(p_spread + step, mask=m_place, other=0)
    b_ref = tl.load(p_ref + node * ref_n + axis * ref_d + frame * ref_t, mask=m_place, other=0)
    b_start = tl.load(p_start + node * start_n + axis * start_d + frame, mask=m_place, other=0)
    b_noise = tl.load(p_noise + o_place, mask=m_place, other=0)
    tl.store(p_x + o_place, signal * (b_start - b_ref) + spread * b_noise + b_ref, mask=m_place)


@triton.jit(do_not_specialize=["num_places", "row_size"])
def noised_positions_backward_kernel(
    p_grad, p_signal, p_t, p_grad_ref, num_places, row_size, BLOCK: tl.constexpr
):  # fmt: skip
    """(1 - signal) grad, both [nodes, row_size]."""
    o_place = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    m_place = o_place < num_places
    signal = tl.load(p_signal + tl.load(p_t + o_place // row_size, mask=m_place, other=0), mask=m_place, other=0)
    b_grad = tl.load(p_grad + o_place, mask=m_place, other=0)
    tl.store(p_grad_ref + o_place, (1 - signal) * b_grad, mask=m_place)
