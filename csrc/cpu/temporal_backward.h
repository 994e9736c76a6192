// Temporal attention backward: for some nodes at a time their attention, recomputed in blocks of query frames, then the
// MLPs of their rows. Weights' gradients and psi's go to fixed slots (see EGCLEdgeSlot).
#pragma once

#include "temporal_forward.h"

namespace geotdm::GEOTDM_ISA {

// Gradients of q, k, v [rows, stride] and the gate [rows] of some nodes' rows, in scratch memory.
struct ProjectedGrads {
  float *q, *k, *v, *gate;
};

// Scratch memory of temporal_attend_backward.
struct AttendBackwardScratch {
  float *packed_kt, *packed_vt, *packed_k, *y, *alpha, *grad, *alpha_by_lag, *grad_by_lag, *grad_out;
  GEOTDM_INLINE AttendBackwardScratch(const TemporalSizes& size, Scratch& scratch) {
    const BlockSizes at(size);
    packed_kt = scratch.take(packed_size(size.width, size.num_frames));
    packed_vt = scratch.take(packed_size(size.width, size.num_frames));
    packed_k = scratch.take(packed_size(size.num_frames, size.width));
    y = scratch.take(size.dim * at.node_row);
    alpha = scratch.take(kQueryRows * at.row);
    grad = scratch.take(kQueryRows * at.row);
    alpha_by_lag = scratch.take(kQueryRows * at.lag_row);
    grad_by_lag = scratch.take(kQueryRows * at.lag_row);
    grad_out = scratch.take(kQueryRows * size.stride);
  }
};

// Node i: `to`, grad_x, and psi's gradient into psi_slot [lags, stride].
inline void temporal_attend_backward(const TemporalBackward& a, int64_t i, const ProjectedGrads& to, float* psi_slot,
                                     const AttendBackwardScratch& scratch) {
  const int64_t frames = a.size.num_frames, dim = a.size.dim, width = a.size.width, stride = a.size.stride;
  const BlockSizes at(a.size);
  const auto [packed_kt, packed_vt, packed_k, y, alpha, grad, alpha_by_lag, grad_by_lag, grad_out] = scratch;
  const int64_t node = i * frames;
  const float *x = a.x + node * dim, *gate = a.gate + node, *grad_x_out = a.grad_x_out + node * dim;
  float *grad_x = a.grad_x + node * dim, *grad_gate = to.gate;
  pack(packed_kt, a.k + node * stride, width, frames, 1, stride);
  pack(packed_vt, a.v + node * stride, width, frames, 1, stride);
  pack(packed_k, a.k + node * stride, frames, width, stride, 1);
  for (int64_t d = 0; d < dim; ++d)
    for (int64_t s = 0; s < frames; ++s) y[d * at.node_row + s] = x[s * dim + d] - x[d];
  fill_zero(to.k, frames * stride);
  fill_zero(to.v, frames * stride);
  fill_zero(grad_gate, frames);
  fill_zero(grad_x, frames * dim);  // grad_x_out comes last: what is added before is much smaller

  for (int64_t t0 = 0; t0 < frames; t0 += kQueryRows) {
    const QueryBlock block(t0, a.size);
    const float* q = a.q + (node + t0) * stride;
    const int64_t first = block.first, columns = block.columns;
    attention_weights(block, q, width, stride, packed_kt, a.psi, at, alpha, alpha_by_lag);
    copy_rows(grad_out, stride, a.grad_h_out + (node + t0) * width, width, block.rows, width);
    gemm(block.rows, columns, width, grad_out, stride, block.of_columns(packed_vt, width), grad, at.row);
    gemm(block.rows, block.lags, width, grad_out, stride, block.of_transposed(a.psi, width), grad_by_lag, at.lag_row);
    for (int64_t r = 0; r < block.rows; ++r) {
      const int64_t t = t0 + r, begin = block.begin(r), end = block.end(r), shift = block.lag(r);
      float *row = grad + r * at.row, *weight = alpha + r * at.row;
      const float* lag = grad_by_lag + r * at.lag_row;
      float pulls = 0;  // sum of alpha g
      for (int64_t c = begin; c < end; ++c) {
        const int64_t s = first + c;
        float apart = 0;  // grad_x_out . (x_t - x_s)
        for (int64_t d = 0; d < dim; ++d)
          apart += grad_x_out[t * dim + d] * (y[d * at.node_row + t] - y[d * at.node_row + s]);
        row[c] += lag[shift + c] + gate[s] * apart;
        grad_gate[s] += weight[c] * apart;
        const float pull = weight[c] * gate[s];
        pulls += pull;
        for (int64_t d = 0; d < dim; ++d) grad_x[s * dim + d] -= pull * grad_x_out[t * dim + d];
      }
      for (int64_t d = 0; d < dim; ++d) grad_x[t * dim + d] += pulls * grad_x_out[t * dim + d];
      clear_unseen(block, r, row);
      const float total = dot_row(weight, row, padded(columns));  // of alpha grad_alpha
      for (int64_t c = begin; c < end; ++c) row[c] = weight[c] * (row[c] - total);
    }
    spread_by_lag(block, at, alpha, alpha_by_lag);
    spread_by_lag(block, at, grad, grad_by_lag);
    float* grad_q = to.q + t0 * stride;
    times_rows(block, at, grad, packed_k, width, stride, grad_q);
    times_psi(block, at, grad_by_lag, a.psi, width, stride, grad_q);
    gemm_at(columns, width, block.rows, grad, at.row, q, stride, to.k + first * stride, stride);
    gemm_at(columns, width, block.rows, alpha, at.row, grad_out, stride, to.v + first * stride, stride);
    float* grad_psi = psi_slot + block.base * stride;
    gemm_at(block.lags, width, block.rows, grad_by_lag, at.lag_row, q, stride, grad_psi, stride);
    gemm_at(block.lags, width, block.rows, alpha_by_lag, at.lag_row, grad_out, stride, grad_psi, stride);
  }
  for (int64_t c = 0; c < frames * dim; ++c) grad_x[c] += grad_x_out[c];
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

// Scratch memory of temporal_project_backward.
struct ProjectBackwardScratch {
  float *h, *hidden, *slope, *grad_hidden, *grad_h, *sum_x2;
  GEOTDM_INLINE ProjectBackwardScratch(const TemporalSizes& size, Scratch& scratch) {
    for (float** tile : {&h, &hidden, &slope, &grad_hidden, &grad_h}) *tile = scratch.take(kTileRows * size.stride);
    sum_x2 = scratch.take(size.stride);
  }
};

// Rows first .. last - 1, of which `grads` holds the first: grad_h through the residual and the MLPs. grads.v receives
// the gate's part first.
inline void temporal_project_backward(const TemporalBackward& a, int64_t first, int64_t last,
                                      const ProjectedGrads& grads, float* slot, const ProjectBackwardScratch& scratch) {
  const int64_t width = a.size.width, stride = a.size.stride, num_rows = a.size.num_nodes * a.size.num_frames;
  const TemporalSlot at(a.size);
  const TemporalWeights &w = a.weight, &wt = a.transposed;
  const auto [h, hidden, slope, grad_hidden, grad_h, sum_x2] = scratch;  // sum_x2: of a tile, as in tiles.h
  for (int64_t row = first; row < last; row += kTileRows) {
    const int64_t rows = smaller(kTileRows, last - row);
    const auto z = [&](HiddenLayer layer) { return a.hidden + (layer * num_rows + row) * stride; };
    copy_rows(h, stride, a.h + row * width, width, rows, width);
    copy_rows(grad_h, stride, a.grad_h_out + row * width, width, rows, width);

    // The gate x2 . silu(X1 v + b1) + b2.
    const float* v = a.v + row * stride;
    float* grad_v = grads.v + (row - first) * stride;
    bias_silu_slope(hidden, slope, z(kHiddenX), w.x_b1, rows, stride);
    float sum_x_b2 = 0;
    fill_zero(sum_x2, stride);
    for (int64_t r = 0; r < rows; ++r) {
      const float grad_gate = grads.gate[row - first + r];
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

    const float *grad_q = grads.q + (row - first) * stride, *grad_k = grads.k + (row - first) * stride;
    mlp_rows_backward(h, z(kHiddenQ), grad_q, w.q_b1, wt.q1, wt.q2, slot + at.q1, slot + at.q_b1, slot + at.q2,
                      slot + at.q_b2, hidden, slope, grad_hidden, grad_h, rows, width, stride);
    mlp_rows_backward(h, z(kHiddenK), grad_k, w.k_b1, wt.k1, wt.k2, slot + at.k1, slot + at.k_b1, slot + at.k2,
                      slot + at.k_b2, hidden, slope, grad_hidden, grad_h, rows, width, stride);
    mlp_rows_backward(h, z(kHiddenV), grad_v, w.v_b1, wt.v1, wt.v2, slot + at.v1, slot + at.v_b1, slot + at.v2,
                      slot + at.v_b2, hidden, slope, grad_hidden, grad_h, rows, width, stride);
    copy_out(a.grad_h + row * width, width, grad_h, stride, rows);
  }
}

inline int64_t temporal_nodes_backward_scratch(const TemporalSizes& size) {
  const BlockSizes at(size);
  const int64_t rows = nodes_per_tile(size.num_frames) * size.num_frames;
  return 2 * packed_size(size.width, size.num_frames) + packed_size(size.num_frames, size.width) + 4 * at.node_row +
         kQueryRows * (2 * at.row + 2 * at.lag_row + size.stride) + (5 * kTileRows + 1 + 3 * rows) * size.stride +
         rows + 320;
}

// Nodes first .. last - 1, as many at a time as fill a tile: their attention, and the MLPs while its gradients are in
// cache.
inline void temporal_nodes_backward(const TemporalBackward& a, int64_t first, int64_t last, float* slot,
                                    float* memory) {
  const int64_t frames = a.size.num_frames, stride = a.size.stride, nodes = nodes_per_tile(frames);
  const int64_t most = nodes * frames;
  Scratch scratch{memory};
  const AttendBackwardScratch attend(a.size, scratch);
  const ProjectBackwardScratch project(a.size, scratch);
  const ProjectedGrads grads{scratch.take(most * stride), scratch.take(most * stride), scratch.take(most * stride),
                             scratch.take(most)};
  for (int64_t node = first; node < last; node += nodes) {
    const int64_t end = smaller(node + nodes, last);
    for (int64_t i = node; i < end; ++i) {
      const int64_t at = (i - node) * frames;
      const ProjectedGrads own{grads.q + at * stride, grads.k + at * stride, grads.v + at * stride, grads.gate + at};
      temporal_attend_backward(a, i, own, slot + TemporalSlot(a.size).psi, attend);
    }
    temporal_project_backward(a, node * frames, end * frames, grads, slot, project);
  }
}

}  // namespace geotdm::GEOTDM_ISA
