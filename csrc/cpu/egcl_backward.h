// EGCL backward: the node MLP's rows; the edges of every receiver, recomputed; what senders get, added in the order of
// edges; and the gradients through P and Q. Weights' gradients go to fixed slots (see EGCLEdgeSlot);
// where nobody wants them there is no slot.
#pragma once

#include "egcl_forward.h"

namespace geotdm::GEOTDM_ISA {

// Where a gradient of weights is summed: in the slot, or where nobody wants it (no slot) in `unread`.
GEOTDM_INLINE float* in_slot(float* slot, int64_t at, float* unread) { return slot ? slot + at : unread; }

// Through the node MLP for rows first .. last - 1: grad_m_sum, the first part of grad_h, and its weights' gradients.
inline void egcl_update_backward(const EGCLBackward& a, int64_t first, int64_t last, float* slot, float* memory) {
  const int64_t width = a.size.width, stride = a.size.stride;
  const EGCLNodeSlot at(width, stride);
  Scratch scratch{memory};
  float* h_room = scratch.take(kTileRows * stride);
  float* grad_room = scratch.take(kTileRows * stride);
  float* hidden = scratch.take(kTileRows * stride);
  float* slope = scratch.take(kTileRows * stride);
  float* grad_hidden = scratch.take(kTileRows * stride);
  float* unread = scratch.take(stride);
  for (int64_t row = first; row < last; row += kTileRows) {
    const int64_t rows = smaller(kTileRows, last - row);
    const float* m_sum = a.m_sum + row * stride;
    const float* h = as_padded(a.h + row * width, width, h_room, stride, rows);
    const float* grad = as_padded(a.grad_h_out + row * width, width, grad_room, stride, rows);
    bias_silu_slope(hidden, slope, a.hidden + row * stride, a.weight.node_b1, rows, stride);

    if (slot) {
      gemm_at(width, width, rows, grad, stride, hidden, stride, slot + at.node2, stride);
      add_total(grad, slot + at.node_b2, rows, stride);
    }
    gemm(rows, width, width, grad, stride, a.transposed.node2, grad_hidden, stride);
    scale_and_total(grad_hidden, slope, in_slot(slot, at.node_b1, unread), rows, stride);
    if (slot) {
      gemm_at(width, width, rows, grad_hidden, stride, h, stride, slot + at.node1_h, stride);
      gemm_at(width, width, rows, grad_hidden, stride, m_sum, stride, slot + at.node1_m, stride);
    }
    gemm(rows, width, width, grad_hidden, stride, a.transposed.node1_m, a.grad_m_sum + row * stride, stride);
    float *dense = a.grad_h + row * width, *grad_h = result_rows(dense, width, grad_room, stride);
    gemm(rows, width, width, grad_hidden, stride, a.transposed.node1_h, grad_h, stride);
    copy_result(dense, width, grad_h, stride, rows);
  }
}

inline int64_t egcl_edges_backward_scratch(const EGCLSizes& size) {
  return (6 * kTileRows + 4) * size.stride + kTileRows * (int64_t(sizeof(EdgeRow)) / 4) + 128;
}

// Adds to grad_r what distance, scale and envelope say: d = |r|^2 or |r|, scale = 1 / (|r| + 1).
GEOTDM_INLINE void distance_backward(const EGCLSizes& size, const EdgeRow& row, float grad_distance, float grad_scale,
                                     float grad_near, float* grad_r) {
  float along = 0;  // times r
  if (size.pre_norm) {
    along = row.distance > 0 ? grad_distance / row.distance : 0.0f;
  } else {
    along = 2 * grad_distance;
    if (size.normalize) along -= grad_scale * row.scale * row.scale / __builtin_sqrtf(row.square + 1e-8f);
  }
  if (size.inverse_cutoff > 0) along += grad_near * row.near.slope;
  for (int64_t d = 0; d < size.dim; ++d) grad_r[d] += along * row.r[d];
}

// Receivers first .. last - 1: grad_p, their part of grad_x, grad_edge_term, grad_shift, and for the senders
// edge_grad_q, edge_grad_x.
inline void egcl_edges_backward(const EGCLBackward& a, int64_t first, int64_t last, float* slot, float* memory) {
  const EGCLSizes& size = a.size;
  const int64_t width = size.width, stride = size.stride, dim = size.dim, num_frames = size.num_frames;
  const EGCLEdgeSlot at(width, stride);
  Scratch scratch{memory};
  float* z = scratch.take(kTileRows * stride);
  float* z_slope = scratch.take(kTileRows * stride);
  float* m = scratch.take(kTileRows * stride);
  float* m_slope = scratch.take(kTileRows * stride);
  float* gate = scratch.take(kTileRows * stride);
  float* grad = scratch.take(kTileRows * stride);
  float* tile_sums = scratch.take(3 * stride);  // of a tile, as in tiles.h: what three slots get
  float* unread = scratch.take(stride);
  float *sum_coord2 = tile_sums, *sum_coord_b1 = sum_coord2 + stride, *sum_distance = sum_coord_b1 + stride;
  auto* edge_rows = reinterpret_cast<EdgeRow*>(scratch.take(kTileRows * (sizeof(EdgeRow) / 4)));
  const int64_t tile_frames = frames_per_tile(size), tile_edges = edges_per_tile(size);
  const bool has_cutoff = size.inverse_cutoff > 0;

  for (int64_t i = first; i < last; ++i) {
    const int64_t begin = a.graph.first[i], end = a.graph.first[i + 1];
    fill_zero(a.grad_p + i * num_frames * stride, num_frames * stride);
    if (a.grad_edge_term) fill_zero(a.grad_edge_term + begin * stride, (end - begin) * stride);
    if (a.grad_shift)
      for (int64_t c = begin * dim; c < end * dim; ++c) a.grad_shift[c] = 0;
    for (int64_t frame = 0; frame < num_frames; frame += tile_frames) {
      const int64_t frames = smaller(tile_frames, num_frames - frame);
      const int64_t node_row = i * num_frames + frame;
      float grad_x[kTileRows * 3], mean[kTileRows], grad_total[kTileRows] = {};
      for (int64_t c = 0; c < frames * dim; ++c) grad_x[c] = size.residual ? a.grad_x_out[node_row * dim + c] : 0.0f;
      for (int64_t t = 0; t < frames; ++t) {
        const float* moves = has_cutoff ? a.moves + (node_row + t) * kMoves : nullptr;
        const float total = has_cutoff ? moves[kMoves - 1] : 0.0f;
        mean[t] = inverse_count(size, end - begin, total);
        if (!has_cutoff) continue;
        // By the divisor sqrt(1 + total^2) of the moves.
        for (int64_t d = 0; d < dim; ++d) grad_total[t] -= a.grad_x_out[(node_row + t) * dim + d] * moves[d];
        grad_total[t] *= mean[t] * mean[t] * mean[t] * total;
      }
      for (int64_t e = begin; e < end; e += tile_edges) {
        const EdgeTile tile{i, e, smaller(tile_edges, end - e), frame, frames};
        const int64_t rows = tile.rows();
        gather_edges(a, tile, edge_rows, [&]<int N>(int64_t at, const Batch<N>& v) GEOTDM_INLINE_LAMBDA {
          Batch<N> slope;
          store(z + at, silu_and_slope(v, slope));
          store(z_slope + at, slope);
        });
        gemm(rows, width, width, z, stride, a.weight.edge2, m, stride);
        bias_silu_slope(m, m_slope, m, a.weight.edge_b2, rows, stride);
        gemm(rows, width, width, m, stride, a.weight.coord1, gate, stride);

        // The gate: `gate` becomes the gradient before its activation.
        float grad_r[kTileRows * 3], grad_scale[kTileRows], grad_near[kTileRows], sum_coord_b2 = 0;
        fill_zero(tile_sums, 3 * stride);
        for (int64_t r = 0; r < rows; ++r) {
          const int64_t t = r % frames;
          float grad_g = 0;
          for (int64_t d = 0; d < dim; ++d)
            grad_g += mean[t] * a.grad_x_out[(node_row + t) * dim + d] * edge_rows[r].r[d];
          const float near = edge_rows[r].near.value, grad_raw = grad_g * edge_rows[r].scale * near;
          Vec total{};
          float* row = gate + r * stride;
          for_columns(stride, [&]<int N>(int64_t c, std::integral_constant<int, N>) GEOTDM_INLINE_LAMBDA {
            Batch<N> slope;
            const auto value = silu_and_slope(load<N>(row + c) + load<N>(a.weight.coord_b1 + c), slope);
            const auto u = load<N>(a.weight.coord2 + c);
            total += sum(value * u);
            store(sum_coord2 + c, load<N>(sum_coord2 + c) + value * grad_raw);
            const auto grad_z = u * slope * grad_raw;
            store(row + c, grad_z);
            store(sum_coord_b1 + c, load<N>(sum_coord_b1 + c) + grad_z);
          });
          sum_coord_b2 += grad_raw;
          const float raw = sum(total) + a.weight.coord_b2;
          const float g = raw * edge_rows[r].scale * near;
          grad_scale[r] = grad_g * raw * near;
          grad_near[r] = grad_g * raw * edge_rows[r].scale + grad_total[t];
          for (int64_t d = 0; d < dim; ++d) grad_r[r * dim + d] = g * mean[t] * a.grad_x_out[(node_row + t) * dim + d];
        }
        if (slot) gemm_at(width, width, rows, gate, stride, m, stride, slot + at.coord1, stride);
        gemm(rows, width, width, gate, stride, a.transposed.coord1, grad, stride);
        for (int64_t r = 0; r < rows; ++r) {
          const float* grad_m_sum = a.grad_m_sum + (node_row + r % frames) * stride;
          if (has_cutoff) {
            grad_near[r] += dot_row(m + r * stride, grad_m_sum, stride);
            add_row(grad + r * stride, grad_m_sum, edge_rows[r].near.value, stride);
          } else {
            add_row(grad + r * stride, grad_m_sum, stride);
          }
        }
        scale_and_total(grad, m_slope, in_slot(slot, at.edge_b2, unread), rows, stride);
        if (slot) gemm_at(width, width, rows, grad, stride, z, stride, slot + at.edge2, stride);
        gemm(rows, width, width, grad, stride, a.transposed.edge2, gate, stride);

        // `gate` becomes the gradient before the first activation.
        for (int64_t r = 0; r < rows; ++r) {
          const int64_t t = r % frames, edge = tile.edge + r / frames;
          float* grad_p = a.grad_p + (node_row + t) * stride;
          float* term = a.grad_edge_term ? a.grad_edge_term + edge * stride : nullptr;
          float* to_sender = a.edge_grad_q + ((edge - a.chunk_first) * num_frames + frame + t) * stride;
          Vec total{};
          for (int64_t c = 0; c < stride; c += kWidth) {
            const Vec v = load(gate + r * stride + c) * load(z_slope + r * stride + c);
            store(to_sender + c, v);
            store(grad_p + c, load(grad_p + c) + v);
            if (term) store(term + c, load(term + c) + v);
            total += v * load(a.weight.distance + c);
            store(sum_distance + c, load(sum_distance + c) + v * edge_rows[r].distance);
          }
          distance_backward(size, edge_rows[r], sum(total), grad_scale[r], grad_near[r], grad_r + r * dim);
          float* sender_x = a.edge_grad_x + ((edge - a.chunk_first) * num_frames + frame + t) * dim;
          for (int64_t d = 0; d < dim; ++d) {
            grad_x[t * dim + d] += grad_r[r * dim + d];
            sender_x[d] = -grad_r[r * dim + d];
          }
          if (a.grad_shift)
            for (int64_t d = 0; d < dim; ++d) a.grad_shift[edge * dim + d] -= grad_r[r * dim + d];
        }
        if (!slot) continue;
        add_row(slot + at.coord2, sum_coord2, stride);
        add_row(slot + at.coord_b1, sum_coord_b1, stride);
        add_row(slot + at.distance, sum_distance, stride);
        slot[at.coord_b2] += sum_coord_b2;
      }
      for (int64_t c = 0; c < frames * dim; ++c) a.grad_x[node_row * dim + c] += grad_x[c];
    }
  }
}

// Senders first .. last - 1 add up the edges of one chunk in order. by_sender: the edges of each sender, ascending,
// from sender_first[j]; cursor[j] counts those already added.
inline void egcl_senders(const EGCLBackward& a, const int64_t* sender_first, const int64_t* by_sender, int64_t* cursor,
                         int64_t chunk_last, int64_t first, int64_t last) {
  const int64_t frames = a.size.num_frames, stride = a.size.stride, dim = a.size.dim;
  for (int64_t j = first; j < last; ++j) {
    for (; cursor[j] < sender_first[j + 1] && by_sender[cursor[j]] < chunk_last; ++cursor[j]) {
      const int64_t edge = by_sender[cursor[j]] - a.chunk_first;
      float* grad_q = a.grad_q + j * frames * stride;
      const float* from = a.edge_grad_q + edge * frames * stride;
      for (int64_t c = 0; c < frames * stride; c += kWidth) store(grad_q + c, load(grad_q + c) + load(from + c));
      for (int64_t c = 0; c < frames * dim; ++c)
        a.grad_x[j * frames * dim + c] += a.edge_grad_x[edge * frames * dim + c];
    }
  }
}

// Through P = W_i h + b1 and Q = W_j h for rows first .. last - 1: the second part of grad_h.
inline void egcl_project_backward(const EGCLBackward& a, int64_t first, int64_t last, float* slot, float* memory) {
  const int64_t width = a.size.width, stride = a.size.stride;
  const EGCLNodeSlot at(width, stride);
  Scratch scratch{memory};
  float* h_room = scratch.take(kTileRows * stride);
  float* grad_room = scratch.take(kTileRows * stride);
  for (int64_t row = first; row < last; row += kTileRows) {
    const int64_t rows = smaller(kTileRows, last - row);
    const float *grad_p = a.grad_p + row * stride, *grad_q = a.grad_q + row * stride;
    if (slot) {
      const float* h = as_padded(a.h + row * width, width, h_room, stride, rows);
      add_total(grad_p, slot + at.edge_b1, rows, stride);
      gemm_at(width, width, rows, grad_p, stride, h, stride, slot + at.receiver, stride);
      gemm_at(width, width, rows, grad_q, stride, h, stride, slot + at.sender, stride);
    }
    float *dense = a.grad_h + row * width, *grad_h = result_rows(dense, width, grad_room, stride);
    if (grad_h != dense) copy_rows(grad_h, stride, dense, width, rows, width);
    gemm(rows, width, width, grad_p, stride, a.transposed.receiver, grad_h, stride, true);
    gemm(rows, width, width, grad_q, stride, a.transposed.sender, grad_h, stride, true);
    copy_result(dense, width, grad_h, stride, rows);
  }
}

}  // namespace geotdm::GEOTDM_ISA
