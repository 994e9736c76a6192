// EGCL forward: P and Q of every row; then for some nodes at a time their messages and the node MLP of their rows. Both
// are loops over independent tasks, so any number of threads gives the same bits.
#pragma once

#include "egcl.h"
#include "tiles.h"

namespace geotdm::GEOTDM_ISA {

// Rows first .. last - 1 of P = W_i h + b1 and Q = W_j h, and where the node MLP is begun here, of V1 h.
inline void egcl_project(const EGCLForward& a, int64_t first, int64_t last) {
  const int64_t width = a.size.width, stride = a.size.stride;
  for (int64_t row = first; row < last; row += kTileRows) {
    const int64_t rows = smaller(kTileRows, last - row);
    const float* h = a.h + row * width;
    gemm(rows, width, width, h, width, a.weight.receiver, a.p + row * stride, stride);
    add_bias(a.p + row * stride, a.weight.edge_b1, rows, stride);
    gemm(rows, width, width, h, width, a.weight.sender, a.q + row * stride, stride);
    if (a.is_begun) gemm(rows, width, width, h, width, a.weight.node1_h, a.hidden + row * stride, stride);
  }
}

// A tile of edge-frames of one receiver: `edges` edges from `edge`, `frames` frames from `frame`.
struct EdgeTile {
  int64_t receiver, edge, edges, frame, frames;
  GEOTDM_INLINE int64_t rows() const { return edges * frames; }
};

// u(t) of t = distance / cutoff, as in geotdm_fast/reference/envelope.py, and its slope: du / dr = slope r.
struct Envelope {
  float value = 1, slope = 0;
};

GEOTDM_INLINE Envelope envelope(float square, float inverse_cutoff) {
  const float t = __builtin_sqrtf(square) * inverse_cutoff, rest = 1 - t;
  if (t >= 1) return {0, 0};
  const float t4 = t * t * t * t;
  return {rest * rest * rest * (((((21 * t + 15) * t + 10) * t + 6) * t + 3) * t + 1),
          -168 * inverse_cutoff * inverse_cutoff * t4 * rest * rest};
}

// What of an edge-frame does not pass the MLPs: r = x_i - x_j - shift, the distance that they see, the gate's divisor,
// and how much the edge counts.
struct EdgeRow {
  float r[3], distance, square, scale;
  Envelope near;
};

GEOTDM_INLINE EdgeRow edge_row(const EGCLSizes& size, const float* x_receiver, const float* x_sender,
                               const float* shift) {
  EdgeRow row{};
  for (int64_t d = 0; d < size.dim; ++d) {
    row.r[d] = x_receiver[d] - x_sender[d];
    if (shift) row.r[d] -= shift[d];
    row.square += row.r[d] * row.r[d];
  }
  row.distance = size.pre_norm ? __builtin_sqrtf(row.square) : row.square;
  row.scale = size.normalize && !size.pre_norm ? 1.0f / (__builtin_sqrtf(row.square + 1e-8f) + 1.0f) : 1.0f;
  if (size.inverse_cutoff > 0) row.near = envelope(row.square, size.inverse_cutoff);
  return row;
}

// What the sum over a row's edges is divided by, inverted: their number, or with a cutoff a smooth stand-in for
// `total`, the sum of what they count; at least 1.
GEOTDM_INLINE float inverse_count(const EGCLSizes& size, int64_t edges, float total) {
  return 1.0f / (size.inverse_cutoff > 0 ? __builtin_sqrtf(1.0f + total * total) : float(larger(edges, 1)));
}

// First layer of the edge MLP for a tile: keep(c, z) for the vectors z = P_i + Q_j + w_d d + A_e that start at float c
// of the tile, before the activation.
template <typename Args, typename Keep>
GEOTDM_INLINE void gather_edges(const Args& a, const EdgeTile& tile, EdgeRow* edge_rows, Keep keep) {
  const int64_t stride = a.size.stride, dim = a.size.dim, num_frames = a.size.num_frames;
  int64_t at = 0;
  for (int64_t e = tile.edge; e < tile.edge + tile.edges; ++e) {
    const int64_t sender = a.graph.sender[e];
    const float* term = a.edge_term ? a.edge_term + e * stride : nullptr;
    const float* shift = a.graph.shift ? a.graph.shift + e * dim : nullptr;
    for (int64_t t = tile.frame; t < tile.frame + tile.frames; ++t, at += stride, ++edge_rows) {
      const int64_t i = tile.receiver * num_frames + t, j = sender * num_frames + t;
      *edge_rows = edge_row(a.size, a.x + i * dim, a.x + j * dim, shift);
      const float *p = a.p + i * stride, *q = a.q + j * stride, distance = edge_rows->distance;
      for_columns(stride, [&]<int N>(int64_t c, std::integral_constant<int, N>) GEOTDM_INLINE_LAMBDA {
        auto z = load<N>(p + c) + load<N>(q + c) + load<N>(a.weight.distance + c) * distance;
        if (term) z = z + load<N>(term + c);
        keep(at + c, z);
      });
    }
  }
}

GEOTDM_INLINE int64_t frames_per_tile(const EGCLSizes& size) {
  return larger(1, smaller(size.num_frames, kTileRows));  // 1: a graph may have no frame
}
GEOTDM_INLINE int64_t edges_per_tile(const EGCLSizes& size) { return larger(1, kTileRows / frames_per_tile(size)); }

// Scratch memory of egcl_messages.
struct MessageScratch {
  float *z, *m, *gate;
  EdgeRow* edge_rows;
  GEOTDM_INLINE MessageScratch(const EGCLSizes& size, Scratch& scratch)
      : z(scratch.take(kTileRows * size.stride)),
        m(scratch.take(kTileRows * size.stride)),
        gate(scratch.take(kTileRows * size.stride)),
        edge_rows(reinterpret_cast<EdgeRow*>(scratch.take(kTileRows * (sizeof(EdgeRow) / 4)))) {}
};

// Receiver i: m_sum [T, stride] and x'.
inline void egcl_messages(const EGCLForward& a, int64_t i, float* m_sum, const MessageScratch& s) {
  const EGCLSizes& size = a.size;
  const int64_t width = size.width, stride = size.stride, dim = size.dim;
  const int64_t tile_frames = frames_per_tile(size), tile_edges = edges_per_tile(size);
  const int64_t begin = a.graph.first[i], end = a.graph.first[i + 1];
  const bool has_cutoff = size.inverse_cutoff > 0;
  fill_zero(m_sum, size.num_frames * stride);
  for (int64_t frame = 0; frame < size.num_frames; frame += tile_frames, m_sum += tile_frames * stride) {
    const int64_t frames = smaller(tile_frames, size.num_frames - frame);
    float move[kTileRows * 3] = {}, total[kTileRows] = {};
    for (int64_t e = begin; e < end; e += tile_edges) {
      const EdgeTile tile{i, e, smaller(tile_edges, end - e), frame, frames};
      gather_edges(a, tile, s.edge_rows,
                   [&](int64_t at, const auto& v) GEOTDM_INLINE_LAMBDA { store(s.z + at, silu(v)); });
      gemm(tile.rows(), width, width, s.z, stride, a.weight.edge2, s.m, stride);
      bias_silu(s.m, s.m, a.weight.edge_b2, tile.rows(), stride);
      gemm(tile.rows(), width, width, s.m, stride, a.weight.coord1, s.gate, stride);
      for (int64_t r = 0; r < tile.rows(); ++r) {
        const int64_t t = r % frames;
        const float near = s.edge_rows[r].near.value;
        if (has_cutoff)
          add_row(m_sum + t * stride, s.m + r * stride, near, stride);
        else
          add_row(m_sum + t * stride, s.m + r * stride, stride);
        const float raw = silu_dot(s.gate + r * stride, a.weight.coord_b1, a.weight.coord2, stride);
        const float g = (raw + a.weight.coord_b2) * s.edge_rows[r].scale * near;
        total[t] += near;
        for (int64_t d = 0; d < dim; ++d) move[t * dim + d] += g * s.edge_rows[r].r[d];
      }
    }
    const int64_t row = i * size.num_frames + frame;
    for (int64_t t = 0; t < frames; ++t) {
      const float mean = inverse_count(size, end - begin, total[t]);
      const int64_t at = (row + t) * dim;
      for (int64_t d = 0; d < dim; ++d) {
        const float u = move[t * dim + d] * mean;
        a.x_out[at + d] = size.residual ? a.x[at + d] + u : u;
      }
      if (!a.moves) continue;
      float* moves = a.moves + (row + t) * kMoves;
      for (int64_t d = 0; d < kMoves - 1; ++d) moves[d] = d < dim ? move[t * dim + d] : 0.0f;
      moves[kMoves - 1] = total[t];
    }
  }
}

// Rows first .. last - 1 of h' = V2 silu(V1 [h, m_sum] + c1) + c2; m_sum holds the first. hidden, out: a tile each.
inline void egcl_update(const EGCLForward& a, int64_t first, int64_t last, const float* m_sum, float* hidden,
                        float* out) {
  const int64_t width = a.size.width, stride = a.size.stride;
  for (int64_t row = first; row < last; row += kTileRows, m_sum += kTileRows * stride) {
    const int64_t rows = smaller(kTileRows, last - row);
    float* z = a.hidden ? a.hidden + row * stride : hidden;
    if (!a.is_begun) gemm(rows, width, width, a.h + row * width, width, a.weight.node1_h, z, stride);
    gemm(rows, width, width, m_sum, stride, a.weight.node1_m, z, stride, true);
    bias_silu(hidden, z, a.weight.node_b1, rows, stride);
    float *dense = a.h_out + row * width, *h_out = result_rows(dense, width, out, stride);
    gemm(rows, width, width, hidden, stride, a.weight.node2, h_out, stride);
    add_bias(h_out, a.weight.node_b2, rows, stride);
    copy_result(dense, width, h_out, stride, rows);
  }
}

inline int64_t egcl_nodes_scratch(const EGCLSizes& size) {
  const int64_t rows = nodes_per_tile(size.num_frames) * size.num_frames;
  return (3 * kTileRows + rows) * size.stride + kTileRows * (int64_t(sizeof(EdgeRow)) / 4) + 128;
}

// Nodes first .. last - 1, as many at a time as fill a tile: their messages, and the update while m_sum is in cache.
inline void egcl_nodes(const EGCLForward& a, int64_t first, int64_t last, float* memory) {
  const int64_t frames = a.size.num_frames, stride = a.size.stride, nodes = nodes_per_tile(frames);
  Scratch scratch{memory};
  const MessageScratch messages(a.size, scratch);
  float* own = a.m_sum ? nullptr : scratch.take(nodes * frames * stride);
  for (int64_t node = first; node < last; node += nodes) {
    const int64_t end = smaller(node + nodes, last), row = node * frames;
    float* m_sum = a.m_sum ? a.m_sum + row * stride : own;
    for (int64_t i = node; i < end; ++i) egcl_messages(a, i, m_sum + (i - node) * frames * stride, messages);
    egcl_update(a, row, end * frames, m_sum, messages.z, messages.m);
  }
}

}  // namespace geotdm::GEOTDM_ISA
