// Temporal attention backward: the attention of every node, recomputed in blocks of query frames, then the MLPs of
// every row. Weights' gradients and psi's go to fixed slots (see EGCLEdgeSlot).
#pragma once

#include "temporal_forward.h"

namespace geotdm::GEOTDM_ISA {

inline int64_t temporal_attend_backward_scratch(const TemporalSizes& size) {
  const BlockSizes at(size.num_frames);
  return 2 * packed_size(size.width, size.num_frames) + packed_size(size.num_frames, size.width) + 4 * at.row +
         kQueryRows * (2 * at.row + 3 * at.lag_row + size.stride) + 256;
}

// Nodes first .. last - 1: grad_q, grad_k, grad_v, grad_gate, grad_x, and psi's gradient into psi_slot [2 T - 1,
// stride].
inline void temporal_attend_backward(const TemporalBackward& a, int64_t first, int64_t last, float* psi_slot,
                                     float* memory) {
  const int64_t frames = a.size.num_frames, dim = a.size.dim, width = a.size.width, stride = a.size.stride;
  const BlockSizes at(frames);
  Scratch scratch{memory};
  float* packed_kt = scratch.take(packed_size(width, frames));
  float* packed_vt = scratch.take(packed_size(width, frames));
  float* packed_k = scratch.take(packed_size(frames, width));
  float* y = scratch.take(dim * at.row);
  float* alpha = scratch.take(kQueryRows * at.row);
  float* grad = scratch.take(kQueryRows * at.row);
  float* alpha_by_lag = scratch.take(kQueryRows * at.lag_row);
  float* grad_by_lag = scratch.take(kQueryRows * at.lag_row);
  float* grad_out = scratch.take(kQueryRows * stride);
  for (int64_t i = first; i < last; ++i) {
    const int64_t node = i * frames;
    const float *x = a.x + node * dim, *gate = a.gate + node, *grad_x_out = a.grad_x_out + node * dim;
    float *grad_x = a.grad_x + node * dim, *grad_gate = a.grad_gate + node;
    pack(packed_kt, a.k + node * stride, width, frames, 1, stride);
    pack(packed_vt, a.v + node * stride, width, frames, 1, stride);
    pack(packed_k, a.k + node * stride, frames, width, stride, 1);
    for (int64_t d = 0; d < dim; ++d)
      for (int64_t s = 0; s < frames; ++s) y[d * at.row + s] = x[s * dim + d] - x[d];
    fill_zero(a.grad_k + node * stride, frames * stride);
    fill_zero(a.grad_v + node * stride, frames * stride);
    fill_zero(grad_gate, frames);
    fill_zero(grad_x, frames * dim);  // grad_x_out comes last: what is added before is much smaller

    for (int64_t t0 = 0; t0 < frames; t0 += kQueryRows) {
      const QueryBlock block(t0, frames);
      const float* q = a.q + (node + t0) * stride;
      attention_weights(block, q, width, stride, packed_kt, a.psi, at, alpha, alpha_by_lag);
      copy_rows(grad_out, stride, a.grad_h_out + (node + t0) * width, width, block.rows, width);
      gemm(block.rows, frames, width, grad_out, stride, packed_vt, grad, at.row);
      gemm(block.rows, block.columns, width, grad_out, stride, a.psi.transposed_packed + block.base * width,
           grad_by_lag, at.lag_row);
      for (int64_t r = 0; r < block.rows; ++r) {
        const int64_t t = t0 + r;
        float *row = grad + r * at.row, *weight = alpha + r * at.row;
        const float* lag = grad_by_lag + r * at.lag_row + block.offset(r);
        float pulls = 0;  // sum of alpha g
        for (int64_t s = 0; s < frames; ++s) {
          float apart = 0;  // grad_x_out . (x_t - x_s)
          for (int64_t d = 0; d < dim; ++d) apart += grad_x_out[t * dim + d] * (y[d * at.row + t] - y[d * at.row + s]);
          row[s] += lag[s] + gate[s] * apart;
          grad_gate[s] += weight[s] * apart;
          const float pull = weight[s] * gate[s];
          pulls += pull;
          for (int64_t d = 0; d < dim; ++d) grad_x[s * dim + d] -= pull * grad_x_out[t * dim + d];
        }
        for (int64_t d = 0; d < dim; ++d) grad_x[t * dim + d] += pulls * grad_x_out[t * dim + d];
        const float total = dot_row(weight, row, at.row);  // of alpha grad_alpha; the padding of both is zero
        for (int64_t s = 0; s < frames; ++s) row[s] = weight[s] * (row[s] - total);
        fill_zero(row + frames, at.row - frames);
      }
      spread_by_lag(block, at, alpha, alpha_by_lag);
      spread_by_lag(block, at, grad, grad_by_lag);
      float* grad_q = a.grad_q + (node + t0) * stride;
      gemm(block.rows, width, frames, grad, at.row, packed_k, grad_q, stride);
      times_psi(block, at, grad_by_lag, a.psi, width, stride, grad_q);
      gemm_at(frames, width, block.rows, grad, at.row, q, stride, a.grad_k + node * stride, stride);
      gemm_at(frames, width, block.rows, alpha, at.row, grad_out, stride, a.grad_v + node * stride, stride);
      float* grad_psi = psi_slot + block.base * stride;
      gemm_at(block.columns, width, block.rows, grad_by_lag, at.lag_row, q, stride, grad_psi, stride);
      gemm_at(block.columns, width, block.rows, alpha_by_lag, at.lag_row, grad_out, stride, grad_psi, stride);
    }
    for (int64_t c = 0; c < frames * dim; ++c) grad_x[c] += grad_x_out[c];
  }
}

// Through out = W2 silu(z + b1) + b2, z = W1 h, for one tile: adds to grad_h [rows, stride] and to the slot.
inline void mlp_rows_backward(const float* h, const float* z, const float* grad_out, const float* b1,
                              const float* w1_transposed, const float* w2_transposed, float* slot_w1, float* slot_b1,
                              float* slot_w2, float* slot_b2, float* hidden, float* slope, float* grad_hidden,
                              float* grad_h, int64_t rows, int64_t width, int64_t stride) {
  bias_silu_slope(hidden, slope, z, b1, rows, stride);
  gemm_at(width, width, rows, grad_out, stride, hidden, stride, slot_w2, stride);
  add_total(grad_out, slot_b2, rows, stride);
  gemm(rows, width, width, grad_out, stride, w2_transposed, grad_hidden, stride);
  scale_and_total(grad_hidden, slope, slot_b1, rows, stride);
  gemm_at(width, width, rows, grad_hidden, stride, h, stride, slot_w1, stride);
  gemm(rows, width, width, grad_hidden, stride, w1_transposed, grad_h, stride, true);
}

inline int64_t temporal_project_backward_scratch(const TemporalSizes& size) {
  return (5 * kTileRows + 1) * size.stride + 128;
}

// Rows first .. last - 1: grad_h through the residual and the MLPs. grad_v receives the gate's part first.
inline void temporal_project_backward(const TemporalBackward& a, int64_t first, int64_t last, float* slot,
                                      float* memory) {
  const int64_t width = a.size.width, stride = a.size.stride;
  const TemporalSlot at(width, stride);
  const TemporalWeights &w = a.weight, &wt = a.transposed;
  Scratch scratch{memory};
  float* h = scratch.take(kTileRows * stride);
  float* hidden = scratch.take(kTileRows * stride);
  float* slope = scratch.take(kTileRows * stride);
  float* grad_hidden = scratch.take(kTileRows * stride);
  float* grad_h = scratch.take(kTileRows * stride);
  float* sum_x2 = scratch.take(stride);  // of a tile, as in tiles.h
  const auto z = [&](HiddenLayer layer, int64_t row) {
    return a.hidden + (layer * a.size.num_nodes * a.size.num_frames + row) * stride;
  };
  for (int64_t row = first; row < last; row += kTileRows) {
    const int64_t rows = smaller(kTileRows, last - row);
    copy_rows(h, stride, a.h + row * width, width, rows, width);
    copy_rows(grad_h, stride, a.grad_h_out + row * width, width, rows, width);

    // The gate x2 . silu(X1 v + b1) + b2.
    const float* v = a.v + row * stride;
    float* grad_v = a.grad_v + row * stride;
    bias_silu_slope(hidden, slope, z(kHiddenX, row), w.x_b1, rows, stride);
    float sum_x_b2 = 0;
    fill_zero(sum_x2, stride);
    for (int64_t r = 0; r < rows; ++r) {
      const float grad_gate = a.grad_gate[row + r];
      sum_x_b2 += grad_gate;
      for (int64_t c = 0; c < stride; c += kWidth) {
        store(sum_x2 + c, load(sum_x2 + c) + load(hidden + r * stride + c) * grad_gate);
        store(grad_hidden + r * stride + c, load(w.x2 + c) * grad_gate);
      }
    }
    add_row(slot + at.x2, sum_x2, stride);
    slot[at.x_b2] += sum_x_b2;
    scale_and_total(grad_hidden, slope, slot + at.x_b1, rows, stride);
    gemm_at(width, width, rows, grad_hidden, stride, v, stride, slot + at.x1, stride);
    gemm(rows, width, width, grad_hidden, stride, wt.x1, grad_v, stride, true);

    const float *grad_q = a.grad_q + row * stride, *grad_k = a.grad_k + row * stride;
    mlp_rows_backward(h, z(kHiddenQ, row), grad_q, w.q_b1, wt.q1, wt.q2, slot + at.q1, slot + at.q_b1, slot + at.q2,
                      slot + at.q_b2, hidden, slope, grad_hidden, grad_h, rows, width, stride);
    mlp_rows_backward(h, z(kHiddenK, row), grad_k, w.k_b1, wt.k1, wt.k2, slot + at.k1, slot + at.k_b1, slot + at.k2,
                      slot + at.k_b2, hidden, slope, grad_hidden, grad_h, rows, width, stride);
    mlp_rows_backward(h, z(kHiddenV, row), grad_v, w.v_b1, wt.v1, wt.v2, slot + at.v1, slot + at.v_b1, slot + at.v2,
                      slot + at.v_b2, hidden, slope, grad_hidden, grad_h, rows, width, stride);
    copy_out(a.grad_h + row * width, width, grad_h, stride, rows);
  }
}

}  // namespace geotdm::GEOTDM_ISA
