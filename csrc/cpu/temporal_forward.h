// Temporal attention forward: for some nodes at a time the MLPs of their rows, then their attention in blocks of query
// frames, so that memory is linear in T. Nodes are independent: any number of threads gives the same bits.
#pragma once

#include "egcl.h"
#include "temporal_attention.h"
#include "tiles.h"

namespace geotdm::GEOTDM_ISA {

constexpr int64_t kQueryRows = 48;  // query frames of a block

// out = W2 silu(z + b1) + b2 with z = W1 in, for one tile. z and hidden may be the same memory.
inline void mlp_rows(const float* in, int64_t in_stride, const float* w1, const float* b1, const float* w2,
                     const float* b2, float* z, float* hidden, float* out, int64_t rows, int64_t width,
                     int64_t stride) {
  gemm(rows, width, width, in, in_stride, w1, z, stride);
  bias_silu(hidden, z, b1, rows, stride);
  gemm(rows, width, width, hidden, stride, w2, out, stride);
  add_bias(out, b2, rows, stride);
}

// q, k, v [rows, stride] and the gate [rows] of some nodes' rows, in the op's arrays or in scratch memory.
struct ProjectedRows {
  float *q, *k, *v, *gate;
};

// Rows first .. last - 1, of which `out` holds the first. hidden: a tile.
inline void temporal_project(const TemporalForward& a, int64_t first, int64_t last, const ProjectedRows& out,
                             float* hidden) {
  const int64_t width = a.size.width, stride = a.size.stride, num_rows = a.size.num_nodes * a.size.num_frames;
  const TemporalWeights& w = a.weight;
  for (int64_t row = first; row < last; row += kTileRows) {
    const int64_t rows = smaller(kTileRows, last - row);
    const float* h = a.h + row * width;
    float *q = out.q + (row - first) * stride, *k = out.k + (row - first) * stride, *v = out.v + (row - first) * stride;
    const auto z = [&](HiddenLayer layer) { return a.hidden ? a.hidden + (layer * num_rows + row) * stride : hidden; };
    mlp_rows(h, width, w.q1, w.q_b1, w.q2, w.q_b2, z(kHiddenQ), hidden, q, rows, width, stride);
    mlp_rows(h, width, w.k1, w.k_b1, w.k2, w.k_b2, z(kHiddenK), hidden, k, rows, width, stride);
    mlp_rows(h, width, w.v1, w.v_b1, w.v2, w.v_b2, z(kHiddenV), hidden, v, rows, width, stride);
    gemm(rows, width, width, v, stride, w.x1, z(kHiddenX), stride);
    for (int64_t r = 0; r < rows; ++r)
      out.gate[row - first + r] = silu_dot(z(kHiddenX) + r * stride, w.x_b1, w.x2, stride) + w.x_b2;
  }
}

// A block of query frames and the columns of the psi table that it meets: sigma in base .. base + columns - 1, base at
// the start of a panel. Frame s of query t is at column t_offset(t) + s.
struct QueryBlock {
  int64_t frame, rows, num_frames, base, columns;
  GEOTDM_INLINE QueryBlock(int64_t first, int64_t frames)
      : frame(first), rows(smaller(kQueryRows, frames - first)), num_frames(frames) {
    base = (frames - rows - first) / kPanel * kPanel;
    columns = 2 * frames - 1 - first - base;
  }
  GEOTDM_INLINE int64_t offset(int64_t r) const { return num_frames - 1 - (frame + r) - base; }
};

// Scratch of one block, by sizes that fit every block of a node.
struct BlockSizes {
  int64_t row, lag_row;  // floats from one row to the next of [rows, T] and of [rows, lags of a block]
  GEOTDM_INLINE explicit BlockSizes(int64_t frames)
      : row(padded(frames)), lag_row(padded(frames + kQueryRows + kPanel)) {}
};

// alpha [rows, T] of a block by softmax, its padding zero; by_lag is scratch.
inline void attention_weights(const QueryBlock& block, const float* q, int64_t width, int64_t stride,
                              const float* packed_k, const PsiTable& psi, const BlockSizes& at, float* alpha,
                              float* by_lag) {
  gemm(block.rows, block.num_frames, width, q, stride, packed_k, alpha, at.row);
  gemm(block.rows, block.columns, width, q, stride, psi.transposed_packed + block.base * width, by_lag, at.lag_row);
  for (int64_t r = 0; r < block.rows; ++r) {
    float* row = alpha + r * at.row;
    const float* lag = by_lag + r * at.lag_row + block.offset(r);
    float highest = row[0] + lag[0];
    for (int64_t s = 0; s < block.num_frames; ++s) {
      row[s] += lag[s];
      highest = row[s] > highest ? row[s] : highest;
    }
    for (int64_t s = block.num_frames; s < at.row; ++s) row[s] = highest;
    for_columns(at.row, [&]<int N>(int64_t s, std::integral_constant<int, N>)
                            GEOTDM_INLINE_LAMBDA { store(row + s, exp(load<N>(row + s) - highest)); });
    fill_zero(row + block.num_frames, at.row - block.num_frames);
    Vec total{};
    for (int64_t s = 0; s < at.row; s += kWidth) total += load(row + s);
    const float scale = 1.0f / sum(total);
    for (int64_t s = 0; s < at.row; s += kWidth) store(row + s, load(row + s) * scale);
  }
}

// Writes rows [rows, T] into their places among the lags, the rest zero.
inline void spread_by_lag(const QueryBlock& block, const BlockSizes& at, const float* rows, float* by_lag) {
  for (int64_t r = 0; r < block.rows; ++r) {
    float* to = by_lag + r * at.lag_row;
    fill_zero(to, at.lag_row);
    std::memcpy(to + block.offset(r), rows + r * at.row, block.num_frames * sizeof(float));
  }
}

// out [rows, stride] (+)= by_lag psi.
inline void times_psi(const QueryBlock& block, const BlockSizes& at, const float* by_lag, const PsiTable& psi,
                      int64_t width, int64_t stride, float* out) {
  const int64_t lags = 2 * block.num_frames - 1;
  multiply(block.rows, width, block.columns, by_lag, at.lag_row, 1, psi.packed + block.base * kPanel, kPanel,
           lags * kPanel, out, stride, true);
}

// The columns of the coordinate update for one node: g_s, and g_s (x_s - x_0) for each dimension; padded with zeros.
inline void gate_columns(const float* x, const float* gate, int64_t frames, int64_t dim, int64_t row, float* columns) {
  fill_zero(columns, (dim + 1) * row);
  for (int64_t s = 0; s < frames; ++s) {
    columns[s] = gate[s];
    for (int64_t d = 0; d < dim; ++d) columns[(d + 1) * row + s] = gate[s] * (x[s * dim + d] - x[d]);
  }
}

// Scratch memory of temporal_attend.
struct AttendScratch {
  float *packed_k, *packed_v, *columns, *alpha, *by_lag, *out;
  GEOTDM_INLINE AttendScratch(const TemporalSizes& size, Scratch& scratch) {
    const BlockSizes at(size.num_frames);
    packed_k = scratch.take(packed_size(size.width, size.num_frames));
    packed_v = scratch.take(packed_size(size.num_frames, size.width));
    columns = scratch.take((size.dim + 1) * at.row);
    alpha = scratch.take(kQueryRows * at.row);
    by_lag = scratch.take(kQueryRows * at.lag_row);
    out = scratch.take(kQueryRows * size.stride);
  }
};

// Node i: softmax, values with psi, and the coordinate update.
inline void temporal_attend(const TemporalForward& a, int64_t i, const ProjectedRows& in, const AttendScratch& s) {
  const int64_t frames = a.size.num_frames, dim = a.size.dim, width = a.size.width, stride = a.size.stride;
  const BlockSizes at(frames);
  const int64_t node = i * frames;
  const float* x = a.x + node * dim;
  pack(s.packed_k, in.k, width, frames, 1, stride);
  pack(s.packed_v, in.v, frames, width, stride, 1);
  gate_columns(x, in.gate, frames, dim, at.row, s.columns);
  for (int64_t t0 = 0; t0 < frames; t0 += kQueryRows) {
    const QueryBlock block(t0, frames);
    attention_weights(block, in.q + t0 * stride, width, stride, s.packed_k, a.psi, at, s.alpha, s.by_lag);
    spread_by_lag(block, at, s.alpha, s.by_lag);
    gemm(block.rows, width, frames, s.alpha, at.row, s.packed_v, s.out, stride);
    times_psi(block, at, s.by_lag, a.psi, width, stride, s.out);
    for (int64_t r = 0; r < block.rows; ++r) {
      const int64_t t = t0 + r;
      const float *h = a.h + (node + t) * width, *row = s.alpha + r * at.row;
      float* h_out = a.h_out + (node + t) * width;
      for (int64_t c = 0; c < width; ++c) h_out[c] = h[c] + s.out[r * stride + c];
      const float gate = dot_row(row, s.columns, at.row);
      for (int64_t d = 0; d < dim; ++d) {
        const float pulled = dot_row(row, s.columns + (d + 1) * at.row, at.row);
        a.x_out[(node + t) * dim + d] = x[t * dim + d] + ((x[t * dim + d] - x[d]) * gate - pulled);
      }
    }
  }
}

inline int64_t temporal_nodes_scratch(const TemporalSizes& size) {
  const BlockSizes at(size.num_frames);
  const int64_t rows = nodes_per_tile(size.num_frames) * size.num_frames;
  return packed_size(size.width, size.num_frames) + packed_size(size.num_frames, size.width) + 4 * at.row +
         kQueryRows * (at.row + at.lag_row + size.stride) + (3 * rows + kTileRows) * size.stride + rows + 256;
}

// Nodes first .. last - 1, as many at a time as fill a tile: projected, and attended to while in cache.
inline void temporal_nodes(const TemporalForward& a, int64_t first, int64_t last, float* memory) {
  const int64_t frames = a.size.num_frames, stride = a.size.stride, nodes = nodes_per_tile(frames);
  Scratch scratch{memory};
  float* hidden = scratch.take(kTileRows * stride);
  const AttendScratch attend(a.size, scratch);
  ProjectedRows own{};
  if (!a.hidden) {
    const int64_t rows = nodes * frames;
    own = {scratch.take(rows * stride), scratch.take(rows * stride), scratch.take(rows * stride), scratch.take(rows)};
  }
  for (int64_t node = first; node < last; node += nodes) {
    const int64_t end = smaller(node + nodes, last), row = node * frames;
    ProjectedRows rows = own;
    if (a.hidden) rows = {a.q + row * stride, a.k + row * stride, a.v + row * stride, a.gate + row};
    temporal_project(a, row, end * frames, rows, hidden);
    for (int64_t i = node; i < end; ++i) {
      temporal_attend(a, i, rows, attend);
      rows.q += frames * stride, rows.k += frames * stride, rows.v += frames * stride, rows.gate += frames;
    }
  }
}

}  // namespace geotdm::GEOTDM_ISA
