// Temporal attention forward: for some nodes at a time the MLPs of their rows, then their attention in blocks of query
// frames, so that memory is linear in T, and time is where a window bounds what they see. Nodes are independent: any
// number of threads gives the same bits.
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

// A block of query frames and the frames that they see together, which start at a whole panel.
struct QueryBlock {
  int64_t frame, rows;     // the queries
  int64_t first, columns;  // the frames first .. first + columns - 1
  int64_t num_frames, reach;
  GEOTDM_INLINE QueryBlock(int64_t t0, const TemporalSizes& size)
      : frame(t0), rows(smaller(kQueryRows, size.num_frames - t0)), num_frames(size.num_frames), reach(size.reach) {
    first = larger(0, t0 - reach) / kPanel * kPanel;
    columns = smaller(num_frames, t0 + rows + reach) - first;
  }
  // Query r sees the columns begin(r) .. end(r) - 1.
  GEOTDM_INLINE int64_t begin(int64_t r) const { return larger(0, frame + r - reach) - first; }
  GEOTDM_INLINE int64_t end(int64_t r) const { return smaller(num_frames, frame + r + reach + 1) - first; }

  // Where the block's part of a packed [width, T] or [T, width] starts.
  GEOTDM_INLINE const float* of_columns(const float* packed, int64_t width) const {
    return packed + first / kPanel * packed_rows(width);
  }
  GEOTDM_INLINE const float* of_rows(const float* packed) const { return packed + packed_rows(first); }
};

// Floats from one row to the next of scratch that fits every block of a node: [rows, columns], and of [dim, T].
struct BlockSizes {
  int64_t row, node_row;
  GEOTDM_INLINE explicit BlockSizes(const TemporalSizes& size)
      : row(padded(smaller(size.num_frames, kQueryRows + 2 * size.reach + kPanel))),
        node_row(padded(size.num_frames)) {}
};

// Zero but for the columns that query r sees.
GEOTDM_INLINE void clear_unseen(const QueryBlock& block, int64_t r, float* row) {
  fill_zero(row, block.begin(r));
  fill_zero(row + block.end(r), padded(block.columns) - block.end(r));
}

// scores [rows, columns] += rows . psi(t - s), but for rows . b, the same for every s: no softmax sees it. turned:
// scratch [rows, phase_stride].
inline void add_psi_scores(const QueryBlock& block, const TemporalSizes& size, const float* rows,
                           const TimeWeights& time, const BlockSizes& at, float* scores, float* turned) {
  const int64_t n = size.phases / 2;
  gemm(block.rows, size.phases, size.width, rows, size.stride, time.to_phases, turned, size.phase_stride);
  for (int64_t r = 0; r < block.rows; ++r) {
    const float* cosine = time.turns + (block.frame + r) * size.phase_stride;
    float* row = turned + r * size.phase_stride;
    // What multiplies sin f (t - s) | cos f (t - s) becomes what multiplies cos f s | sin f s.
    for (int64_t k = 0; k < n; ++k) {
      const float by_sin = row[k], by_cos = row[n + k];
      row[k] = cosine[n + k] * by_sin + cosine[k] * by_cos;
      row[n + k] = cosine[n + k] * by_cos - cosine[k] * by_sin;
    }
  }
  gemm(block.rows, block.columns, size.phases, turned, size.phase_stride,
       block.of_columns(time.phase_keys, size.phases), scores, at.row, true);
}

// out [rows, columns of packed] = weights times the block's rows of packed [T, width].
inline void times_rows(const QueryBlock& block, const BlockSizes& at, const float* weights, const float* packed,
                       int64_t width, int64_t stride, float* out) {
  multiply(block.rows, width, block.columns, weights, at.row, block.of_rows(packed), packed_rows(block.num_frames), out,
           stride, false);
}

// sums [rows, phase_stride] = sum_s weights_ts (sin f (t - s) | cos f (t - s)), and out [rows, stride] += sums W^T: the
// weights times psi, but for b. out: null where the sums alone are wanted.
inline void add_psi_values(const QueryBlock& block, const TemporalSizes& size, const float* weights,
                           const TimeWeights& time, const BlockSizes& at, float* sums, float* out) {
  const int64_t n = size.phases / 2;
  times_rows(block, at, weights, time.phases, size.phases, size.phase_stride, sums);
  for (int64_t r = 0; r < block.rows; ++r) {
    const float* cosine = time.turns + (block.frame + r) * size.phase_stride;
    float* row = sums + r * size.phase_stride;
    for (int64_t k = 0; k < n; ++k) {
      const float of_cos = row[k], of_sin = row[n + k];
      row[k] = cosine[n + k] * of_cos - cosine[k] * of_sin;
      row[n + k] = cosine[k] * of_cos + cosine[n + k] * of_sin;
    }
  }
  if (out) gemm(block.rows, size.width, size.phases, sums, size.phase_stride, time.from_phases, out, size.stride, true);
}

// alpha [rows, columns] of a block by softmax, zero in what is not seen; turned: scratch [rows, phase_stride].
inline void attention_weights(const QueryBlock& block, const TemporalSizes& size, const float* q, const float* packed_k,
                              const TimeWeights& time, const BlockSizes& at, float* alpha, float* turned) {
  gemm(block.rows, block.columns, size.width, q, size.stride, block.of_columns(packed_k, size.width), alpha, at.row);
  add_psi_scores(block, size, q, time, at, alpha, turned);
  const int64_t whole = padded(block.columns);
  for (int64_t r = 0; r < block.rows; ++r) {
    float* row = alpha + r * at.row;
    const int64_t begin = block.begin(r), end = block.end(r);
    const float seen = row[begin];
    for (int64_t c = 0; c < begin; ++c) row[c] = seen;
    for (int64_t c = end; c < whole; ++c) row[c] = seen;
    Vec highest = load(row);
    for (int64_t c = kWidth; c < whole; c += kWidth) highest = max(highest, load(row + c));
    const float shift = greatest(highest);
    for_columns(whole, [&]<int N>(int64_t c, std::integral_constant<int, N>)
                           GEOTDM_INLINE_LAMBDA { store(row + c, exp(load<N>(row + c) - shift)); });
    clear_unseen(block, r, row);
    Vec total{};
    for (int64_t c = 0; c < whole; c += kWidth) total += load(row + c);
    const float scale = 1.0f / sum(total);
    for (int64_t c = 0; c < whole; c += kWidth) store(row + c, load(row + c) * scale);
  }
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
  float *packed_k, *packed_v, *columns, *alpha, *turned, *out;
  GEOTDM_INLINE AttendScratch(const TemporalSizes& size, Scratch& scratch) {
    const BlockSizes at(size);
    packed_k = scratch.take(packed_size(size.width, size.num_frames));
    packed_v = scratch.take(packed_size(size.num_frames, size.width));
    columns = scratch.take((size.dim + 1) * at.node_row);
    alpha = scratch.take(kQueryRows * at.row);
    turned = scratch.take(kQueryRows * size.phase_stride);
    out = scratch.take(kQueryRows * size.stride);
  }
};

// out = h + change, of rows `width` and `stride` floats apart.
inline void add_rows(float* out, const float* h, const float* change, int64_t rows, int64_t width, int64_t stride) {
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t c = 0; c < width; ++c) out[r * width + c] = h[r * width + c] + change[r * stride + c];
}

// Node i: softmax, values with psi, and the coordinate update.
inline void temporal_attend(const TemporalForward& a, int64_t i, const ProjectedRows& in, const AttendScratch& s) {
  const int64_t frames = a.size.num_frames, dim = a.size.dim, width = a.size.width, stride = a.size.stride;
  const BlockSizes at(a.size);
  const int64_t node = i * frames;
  const float* x = a.x + node * dim;
  pack(s.packed_k, in.k, width, frames, 1, stride);
  if (a.h_out) pack(s.packed_v, in.v, frames, width, stride, 1);
  gate_columns(x, in.gate, frames, dim, at.node_row, s.columns);
  for (int64_t t0 = 0; t0 < frames; t0 += kQueryRows) {
    const QueryBlock block(t0, a.size);
    attention_weights(block, a.size, in.q + t0 * stride, s.packed_k, a.time, at, s.alpha, s.turned);
    if (a.h_out) {
      times_rows(block, at, s.alpha, s.packed_v, width, stride, s.out);
      add_psi_values(block, a.size, s.alpha, a.time, at, s.turned, s.out);
      add_bias(s.out, a.time.bias, block.rows, stride);
      add_rows(a.h_out + (node + t0) * width, a.h + (node + t0) * width, s.out, block.rows, width, stride);
    }
    const float* columns = s.columns + block.first;
    const int64_t whole = padded(block.columns);
    for (int64_t r = 0; r < block.rows; ++r) {
      const int64_t t = t0 + r;
      const float* row = s.alpha + r * at.row;
      const float gate = dot_row(row, columns, whole);
      for (int64_t d = 0; d < dim; ++d) {
        const float pulled = dot_row(row, columns + (d + 1) * at.node_row, whole);
        a.x_out[(node + t) * dim + d] = x[t * dim + d] + ((x[t * dim + d] - x[d]) * gate - pulled);
      }
    }
  }
}

inline int64_t temporal_nodes_scratch(const TemporalSizes& size) {
  const BlockSizes at(size);
  const int64_t rows = nodes_per_tile(size.num_frames) * size.num_frames;
  return packed_size(size.width, size.num_frames) + packed_size(size.num_frames, size.width) + 4 * at.node_row +
         kQueryRows * (at.row + size.phase_stride + size.stride) + (3 * rows + kTileRows) * size.stride + rows + 256;
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
