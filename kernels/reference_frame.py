"""The mean of the learned prior, forward and backward: a node in a program.

With z' = mean(z) over the features, x_ref_s = y_T + ws_s c and c = sum over t < T of z'_t (y_t - y_T).
"""

import triton
import triton.language as tl


@triton.jit(do_not_specialize=["num_frames", "num_out"])
def reference_frame_kernel(
    p_y, p_z, p_ws, p_mean, p_x_ref, num_frames, num_out,
    DIM: tl.constexpr, WIDTH: tl.constexpr, PADDED: tl.constexpr, FRAMES: tl.constexpr,
):  # fmt: skip
    """x_ref [nodes, DIM, num_out]; mean [nodes, num_frames]: z', for the backward."""
    node = tl.program_id(0).to(tl.int64)
    o_dim, o_col = tl.arange(0, 4), tl.arange(0, PADDED)
    p_y += node * num_frames * DIM
    b_last = tl.load(p_y + (num_frames - 1) * DIM + o_dim, mask=o_dim < DIM, other=0)
    b_move = tl.zeros([FRAMES, 4], tl.float32)
    for first in tl.range(0, num_frames, FRAMES):
        o_frame = first + tl.arange(0, FRAMES)
        m_frame = o_frame < num_frames
        o_z = (node * num_frames + o_frame)[:, None] * WIDTH + o_col[None, :]
        b_z = tl.load(p_z + o_z, mask=m_frame[:, None] & (o_col < WIDTH)[None, :], other=0)
        b_mean = tl.sum(b_z, axis=1) / WIDTH
        tl.store(p_mean + node * num_frames + o_frame, b_mean, mask=m_frame)
        b_move += b_mean[:, None] * _from_last(p_y, b_last, o_frame, num_frames, DIM)
    b_move = tl.sum(b_move, axis=0)  # c
    for first in tl.range(0, num_out, FRAMES):
        o_out = first + tl.arange(0, FRAMES)
        m_out = o_out < num_out
        b_ws = tl.load(p_ws + o_out, mask=m_out, other=0)
        o_ref = (node * DIM + o_dim)[:, None] * num_out + o_out[None, :]
        b_ref = b_last[:, None] + b_move[:, None] * b_ws[None, :]
        tl.store(p_x_ref + o_ref, b_ref, mask=(o_dim < DIM)[:, None] & m_out[None, :])


@triton.jit
def _from_last(p_y, b_last, o_frame, num_frames, DIM: tl.constexpr):
    """[frames, 4]: y_t - y_T; 0 behind the last."""
    o_dim = tl.arange(0, 4)
    m_y = (o_frame < num_frames)[:, None] & (o_dim < DIM)[None, :]
    b_y = tl.load(p_y + o_frame[:, None] * DIM + o_dim[None, :], mask=m_y, other=0)
    return tl.where(m_y, b_y - b_last[None, :], 0)


@triton.jit(do_not_specialize=["num_frames", "num_out"])
def reference_frame_backward_kernel(
    p_grad, p_y, p_mean, p_ws, p_grad_y, p_grad_z, p_grad_ws, num_frames, num_out,
    DIM: tl.constexpr, WIDTH: tl.constexpr, PADDED: tl.constexpr, FRAMES: tl.constexpr,
):  # fmt: skip
    """grad_y, grad_z, and grad_ws [nodes, num_out], from grad [nodes, DIM, num_out]."""
    node = tl.program_id(0).to(tl.int64)
    o_dim, o_col = tl.arange(0, 4), tl.arange(0, PADDED)
    p_y += node * num_frames * DIM
    p_mean += node * num_frames
    b_last = tl.load(p_y + (num_frames - 1) * DIM + o_dim, mask=o_dim < DIM, other=0)
    b_move, b_means = tl.zeros([FRAMES, 4], tl.float32), tl.zeros([FRAMES], tl.float32)
    for first in tl.range(0, num_frames, FRAMES):
        o_frame = first + tl.arange(0, FRAMES)
        b_mean = tl.load(p_mean + o_frame, mask=o_frame < num_frames - 1, other=0)
        b_move += b_mean[:, None] * _from_last(p_y, b_last, o_frame, num_frames, DIM)
        b_means += b_mean
    b_move = tl.sum(b_move, axis=0)
    b_grad_move, b_grad_last = tl.zeros([4, FRAMES], tl.float32), tl.zeros([4, FRAMES], tl.float32)
    for first in tl.range(0, num_out, FRAMES):
        o_out = first + tl.arange(0, FRAMES)
        m_out = o_out < num_out
        o_grad = (node * DIM + o_dim)[:, None] * num_out + o_out[None, :]
        b_grad = tl.load(p_grad + o_grad, mask=(o_dim < DIM)[:, None] & m_out[None, :], other=0)
        b_grad_move += b_grad * tl.load(p_ws + o_out, mask=m_out, other=0)[None, :]
        b_grad_last += b_grad
        tl.store(p_grad_ws + node * num_out + o_out, tl.sum(b_grad * b_move[:, None], axis=0), mask=m_out)
    b_grad_move = tl.sum(b_grad_move, axis=1)
    b_grad_last = tl.sum(b_grad_last, axis=1) - tl.sum(b_means) * b_grad_move
    for first in tl.range(0, num_frames, FRAMES):
        o_frame = first + tl.arange(0, FRAMES)
        m_frame = o_frame < num_frames
        is_last = o_frame == num_frames - 1
        b_mean = tl.load(p_mean + o_frame, mask=m_frame, other=0)
        b_grad_y = tl.where(is_last[:, None], b_grad_last[None, :], b_mean[:, None] * b_grad_move[None, :])
        o_y = (node * num_frames + o_frame)[:, None] * DIM + o_dim[None, :]
        tl.store(p_grad_y + o_y, b_grad_y, mask=m_frame[:, None] & (o_dim < DIM)[None, :])
        b_from_last = _from_last(p_y, b_last, o_frame, num_frames, DIM)  # 0 at the last
        b_grad_mean = tl.sum(b_from_last * b_grad_move[None, :], axis=1) / WIDTH
        o_z = (node * num_frames + o_frame)[:, None] * WIDTH + o_col[None, :]
        b_grad_z = b_grad_mean[:, None] + tl.zeros([FRAMES, PADDED], tl.float32)
        tl.store(p_grad_z + o_z, b_grad_z, mask=m_frame[:, None] & (o_col < WIDTH)[None, :])
