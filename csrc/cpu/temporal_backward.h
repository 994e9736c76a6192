// Temporal attention backward: for some nodes at a time their attention, recomputed in blocks of query frames, then the
// MLPs of their rows. Weights' gradients go to fixed slots (see EGCLEdgeSlot).
#pragma once

#include "temporal_forward.h"

namespace geotdm::GEOTDM_ISA {

// Gradients of q, k, v [rows, stride] and the gate [rows] of some nodes' rows, in scratch memory.
struct ProjectedGrads {
  float *q, *k, *v, *gate;
};

// Scratch memory of temporal_attend_backward. y, grad_y: [dim, T], gate, grad_gate: [T], in padded rows.
struct AttendBackwardScratch {
  float *packed_kt, *packed_vt, *packed_k, *y, *grad_y, *gate, *grad_gate, *alpha, *grad, *turned, *grad_room;
  GEOTDM_INLINE AttendBackwardScratch(const TemporalSizes& size, Scratch& scratch) {
    const BlockSizes at(size);
    packed_kt = scratch.take(packed_size(size.width, size.num_frames));
    packed_vt = scratch.take(packed_size(size.width, size.num_frames));
    packed_k = scratch.take(packed_size(size.num_frames, size.width));
    for (float** rows : {&y, &grad_y}) *rows = scratch.take(size.dim * at.node_row);
    for (float** row : {&gate, &grad_gate}) *row = scratch.take(at.node_row);
    for (float** block : {&alpha, &grad}) *block = scratch.take(kQueryRows * at.row);
    turned = scratch.take(kQueryRows * size.phase_stride);
    grad_room = scratch.take(kQueryRows * size.stride);
  }
};

// The coordinate update of frame t, whose x' has the gradient grad_x: adds to the gradients of alpha, in `row`, of the
// gates and of y. weight: alpha of the columns `first` and on, `whole` of them, zero for frames that t does not see.
GEOTDM_INLINE void gates_backward(const AttendBackwardScratch& s, const float* grad_x, int64_t t, int64_t first,
                                  int64_t whole, int64_t dim, int64_t node_row, const float* weight, float* row) {
  Vec pulls{};  // of alpha g
  for (int64_t c = 0; c < whole; c += kWidth) {
    const int64_t at = first + c;
    Vec apart{};  // grad_x . (x_t - x_s)
    for (int64_t d = 0; d < dim; ++d) apart += (s.y[d * node_row + t] - load(s.y + d * node_row + at)) * grad_x[d];
    const Vec alpha = load(weight + c), gate = load(s.gate + at), pull = alpha * gate;
    store(row + c, load(row + c) + gate * apart);
    store(s.grad_gate + at, load(s.grad_gate + at) + alpha * apart);
    pulls += pull;
    for (int64_t d = 0; d < dim; ++d) {
      float* grad_y = s.grad_y + d * node_row + at;
      store(grad_y, load(grad_y) - pull * grad_x[d]);
    }
  }
  const float total = sum(pulls);
  for (int64_t d = 0; d < dim; ++d) s.grad_y[d * node_row + t] += total * grad_x[d];
}

// Node i: `to`, grad_x, and the gradients of the time embedding into the slot.
inline void temporal_attend_backward(const TemporalBackward& a, int64_t i, const ProjectedGrads& to, float* slot,
                                     const AttendBackwardScratch& s) {
  const TemporalSizes& size = a.size;
  const int64_t frames = size.num_frames, dim = size.dim, width = size.width, stride = size.stride;
  const BlockSizes at(size);
  const TemporalSlot in_slot(size);
  const int64_t node = i * frames;
  const float *x = a.x + node * dim, *grad_x_out = a.grad_x_out + node * dim;
  pack(s.packed_kt, a.k + node * stride, width, frames, 1, stride);
  pack(s.packed_vt, a.v + node * stride, width, frames, 1, stride);
  pack(s.packed_k, a.k + node * stride, frames, width, stride, 1);
  fill_zero(s.y, dim * at.node_row);
  fill_zero(s.gate, at.node_row);
  for (int64_t t = 0; t < frames; ++t) {
    s.gate[t] = a.gate[node + t];
    for (int64_t d = 0; d < dim; ++d) s.y[d * at.node_row + t] = x[t * dim + d] - x[d];
  }
  fill_zero(to.k, frames * stride);
  fill_zero(to.v, frames * stride);
  fill_zero(s.grad_gate, at.node_row);
  fill_zero(s.grad_y, dim * at.node_row);

  for (int64_t t0 = 0; t0 < frames; t0 += kQueryRows) {
    const QueryBlock block(t0, size);
    const float* q = a.q + (node + t0) * stride;
    const int64_t first = block.first, columns = block.columns, whole = padded(columns);
    attention_weights(block, size, q, s.packed_kt, a.time, at, s.alpha, s.turned);
    const float* grad_out = as_padded(a.grad_h_out + (node + t0) * width, width, s.grad_room, stride, block.rows);
    gemm(block.rows, columns, width, grad_out, stride, block.of_columns(s.packed_vt, width), s.grad, at.row);
    add_psi_scores(block, size, grad_out, a.time, at, s.grad, s.turned);
    for (int64_t r = 0; r < block.rows; ++r) {
      float *row = s.grad + r * at.row, *weight = s.alpha + r * at.row;
      gates_backward(s, grad_x_out + (t0 + r) * dim, t0 + r, first, whole, dim, at.node_row, weight, row);
      clear_unseen(block, r, row);
      const float total = dot_row(weight, row, whole);  // of alpha grad_alpha
      for (int64_t c = 0; c < whole; c += kWidth) store(row + c, load(weight + c) * (load(row + c) - total));
    }
    float* grad_q = to.q + t0 * stride;
    times_rows(block, at, s.grad, s.packed_k, width, stride, grad_q);
    add_psi_values(block, size, s.grad, a.time, at, s.turned, grad_q);
    gemm_at(width, size.phases, block.rows, q, stride, s.turned, size.phase_stride, slot + in_slot.time,
            size.phase_stride);
    add_psi_values(block, size, s.alpha, a.time, at, s.turned, nullptr);
    gemm_at(width, size.phases, block.rows, grad_out, stride, s.turned, size.phase_stride, slot + in_slot.time,
            size.phase_stride);
    add_total(grad_out, slot + in_slot.time_b, block.rows, stride);
    gemm_at(columns, width, block.rows, s.grad, at.row, q, stride, to.k + first * stride, stride);
    gemm_at(columns, width, block.rows, s.alpha, at.row, grad_out, stride, to.v + first * stride, stride);
  }
  for (int64_t t = 0; t < frames; ++t) {
    to.gate[t] = s.grad_gate[t];
    // grad_x_out comes last: what was added before is much smaller.
    for (int64_t d = 0; d < dim; ++d)
      a.grad_x[(node + t) * dim + d] = s.grad_y[d * at.node_row + t] + grad_x_out[t * dim + d];
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

// Scratch memory of temporal_project_backward.
struct ProjectBackwardScratch {
  float *h_room, *hidden, *slope, *grad_hidden, *grad_room, *sum_x2;
  GEOTDM_INLINE ProjectBackwardScratch(const TemporalSizes& size, Scratch& scratch) {
    for (float** tile : {&h_room, &hidden, &slope, &grad_hidden, &grad_room})
      *tile = scratch.take(kTileRows * size.stride);
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
  const auto [h_room, hidden, slope, grad_hidden, grad_room, sum_x2] = scratch;  // sum_x2: of a tile, as in tiles.h
  for (int64_t row = first; row < last; row += kTileRows) {
    const int64_t rows = smaller(kTileRows, last - row);
    const auto z = [&](HiddenLayer layer) { return a.hidden + (layer * num_rows + row) * stride; };
    const float* h = as_padded(a.h + row * width, width, h_room, stride, rows);
    float *dense = a.grad_h + row * width, *grad_h = result_rows(dense, width, grad_room, stride);
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
    copy_result(dense, width, grad_h, stride, rows);
  }
}

inline int64_t temporal_nodes_backward_scratch(const TemporalSizes& size) {
  const BlockSizes at(size);
  const int64_t rows = nodes_per_tile(size.num_frames) * size.num_frames;
  return 2 * packed_size(size.width, size.num_frames) + packed_size(size.num_frames, size.width) + 8 * at.node_row +
         kQueryRows * (2 * at.row + size.phase_stride + size.stride) + (5 * kTileRows + 1 + 3 * rows) * size.stride +
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
      temporal_attend_backward(a, i, own, slot, attend);
    }
    temporal_project_backward(a, node * frames, end * frames, grads, slot, project);
  }
}

}  // namespace geotdm::GEOTDM_ISA
