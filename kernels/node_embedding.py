"""The first layer of the network, forward and backward: features and sinusoids of the step, times the weights.

Inputs and weights are rounded as the matrix units would round them, and multiplied in float32: there are few.
"""

import triton
import triton.language as tl

from geotdm_fast.kernels.arithmetic import load_vector, rounded


@triton.jit(do_not_specialize=["num_nodes", "num_frames", "num_features", "num_frequencies", "num_inputs"])
def node_embedding_kernel(
    p_h, p_step, p_frequency, p_weight, p_bias, p_z, num_nodes, num_frames, num_features, num_frequencies, num_inputs,
    HAS_STEP: tl.constexpr, WIDTH: tl.constexpr, PADDED: tl.constexpr, BLOCK: tl.constexpr, FRAMES: tl.constexpr,
    INPUTS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """z [nodes, frames, WIDTH]: program (i, j) writes FRAMES frames of BLOCK nodes."""
    o_node = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    o_col = tl.arange(0, PADDED)
    b_z = tl.zeros([BLOCK, PADDED], tl.float32) + load_vector(p_bias, o_col, WIDTH, PADDED)[None, :]
    for first in tl.range(0, num_inputs, INPUTS):
        o_in = first + tl.arange(0, INPUTS)
        b_in = _inputs(
            p_h, p_step, p_frequency, o_node, o_in, num_nodes, num_features, num_frequencies, HAS_STEP, PRECISION
        )
        m_weight = (o_in < num_inputs)[:, None] & (o_col < WIDTH)[None, :]
        b_weight = tl.load(p_weight + o_col[None, :] * num_inputs + o_in[:, None], mask=m_weight, other=0)
        b_z += tl.dot(b_in, rounded(b_weight, PRECISION), input_precision="ieee")
    m_z = (o_node < num_nodes)[:, None] & (o_col < WIDTH)[None, :]
    first_frame = tl.program_id(1) * FRAMES
    for frame in tl.range(first_frame, tl.minimum(first_frame + FRAMES, num_frames)):
        o_row = o_node.to(tl.int64) * num_frames + frame
        tl.store(p_z + o_row[:, None] * WIDTH + o_col[None, :], b_z, mask=m_z)


@triton.jit
def _inputs(
    p_h, p_step, p_frequency, o_node, o_in, num_nodes, num_features, num_frequencies,
    HAS_STEP: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """[nodes, inputs] of the layer, rounded: features, sines, cosines; 0 behind them."""
    m_node = (o_node < num_nodes)[:, None]
    o_h = o_node.to(tl.int64)[:, None] * num_features + o_in[None, :]
    b_in = tl.load(p_h + o_h, mask=m_node & (o_in < num_features)[None, :], other=0)
    if HAS_STEP:
        o_sin = o_in - num_features
        o_cos = o_sin - num_frequencies
        m_sin = (o_sin >= 0) & (o_sin < num_frequencies)
        m_cos = (o_cos >= 0) & (o_cos < num_frequencies)
        frequency = tl.load(p_frequency + tl.where(m_sin, o_sin, o_cos), mask=m_sin | m_cos, other=0)
        step = tl.load(p_step + o_node, mask=o_node < num_nodes, other=0).to(tl.float32)
        angle = step[:, None] * frequency[None, :]
        b_in = tl.where(m_sin[None, :], tl.sin(angle), b_in)
        b_in = tl.where(m_node & m_cos[None, :], tl.cos(angle), b_in)
    return rounded(b_in, PRECISION)


@triton.jit(do_not_specialize=["num_nodes", "num_frames", "num_features", "num_frequencies", "num_inputs"])
def node_embedding_backward_kernel(
    p_grad_z, p_h, p_step, p_frequency, p_total, num_nodes, num_frames, num_features, num_frequencies, num_inputs,
    HAS_STEP: tl.constexpr, WIDTH: tl.constexpr, PADDED: tl.constexpr, BLOCK: tl.constexpr, INPUTS: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """Partial sums of the gradients: total[s] = [inputs, 1]^T grad_z over the nodes of slot s.

    total [slots, num_inputs + 1, PADDED] - row i is the gradient of column i of the weight [WIDTH, num_inputs], and
        the last row that of the bias
    Slot s of S has the blocks of BLOCK nodes s, s + S, s + 2 S, ..., with all their frames. Program (s, j) computes the
    rows j INPUTS .. (j + 1) INPUTS - 1 of slot s. node_embedding_sum_kernel adds up the slots.
    """
    o_col = tl.arange(0, PADDED)
    o_in = tl.program_id(1) * INPUTS + tl.arange(0, INPUTS)
    b_total = tl.zeros([INPUTS, PADDED], tl.float32)
    for i_block in tl.range(tl.program_id(0), tl.cdiv(num_nodes, BLOCK), tl.num_programs(0)):
        o_node = i_block * BLOCK + tl.arange(0, BLOCK)
        m_grad = (o_node < num_nodes)[:, None] & (o_col < WIDTH)[None, :]
        b_grad = tl.zeros([BLOCK, PADDED], tl.float32)
        for frame in tl.range(num_frames):
            o_row = o_node.to(tl.int64) * num_frames + frame
            b_grad += tl.load(p_grad_z + o_row[:, None] * WIDTH + o_col[None, :], mask=m_grad, other=0)
        b_in = _inputs(
            p_h, p_step, p_frequency, o_node, o_in, num_nodes, num_features, num_frequencies, HAS_STEP, PRECISION
        )
        b_in = tl.where((o_in == num_inputs)[None, :], 1, b_in.to(tl.float32))
        b_total += tl.dot(tl.trans(b_in), b_grad, input_precision="ieee")
    p_total += tl.program_id(0).to(tl.int64) * (num_inputs + 1) * PADDED
    tl.store(p_total + o_in[:, None] * PADDED + o_col[None, :], b_total, mask=(o_in <= num_inputs)[:, None])


@triton.jit(do_not_specialize=["num_slots", "num_inputs"])
def node_embedding_sum_kernel(
    p_total, p_grad_weight, p_grad_bias, num_slots, num_inputs,
    WIDTH: tl.constexpr, PADDED: tl.constexpr, SLOTS: tl.constexpr,
):  # fmt: skip
    """Adds up the slots of total, SLOTS at a time. Program i writes column i of the weight's gradient, the last program
    the bias' one."""
    i_in, o_col = tl.program_id(0), tl.arange(0, PADDED)
    b_sum = tl.zeros([SLOTS, PADDED], tl.float32)
    for first in tl.range(0, num_slots, SLOTS):
        o_slot = first + tl.arange(0, SLOTS)
        o_total = (o_slot.to(tl.int64) * (num_inputs + 1) + i_in)[:, None] * PADDED + o_col[None, :]
        b_sum += tl.load(p_total + o_total, mask=(o_slot < num_slots)[:, None], other=0)
    b_grad = tl.sum(b_sum, axis=0)
    if i_in < num_inputs:
        tl.store(p_grad_weight + o_col * num_inputs + i_in, b_grad, mask=o_col < WIDTH)
    else:
        tl.store(p_grad_bias + o_col, b_grad, mask=o_col < WIDTH)
