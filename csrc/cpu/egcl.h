// What the EGCL kernels are given: plain sizes and pointers, one struct for each direction.
//
// Rows are (node, frame), frames contiguous. Arrays that the op owns have rows `stride` floats apart (the width H
// rounded up to a whole panel); the caller's x, h and results are dense. Edges are sorted by receiver.
#pragma once

#include <cstdint>

namespace geotdm {

struct EGCLSizes {
  int64_t num_nodes, num_frames, dim;
  int64_t width, stride;  // H, and H padded to whole panels
  bool normalize, pre_norm;
  float inverse_cutoff;  // 1 / cutoff: 0 without one
  bool residual;         // whether x' is x + u, or u alone
};

struct EGCLGraph {
  const int64_t* first;   // [N + 1]: edges first[i] .. first[i + 1] - 1 end at node i
  const int64_t* sender;  // [E], of which those from first[N] on are not read
  const float* shift{};   // [E, D], of which the same are read, or null: r_ij = x_i - x_j - shift
};

// Weights as the kernels read them: matrices packed for x W^T, vectors padded with zeros to `stride`.
struct EGCLWeights {
  const float *receiver, *sender, *edge2, *coord1, *node1_h, *node1_m, *node2;
  const float *edge_b1, *distance, *edge_b2, *coord_b1, *coord2, *node_b1, *node_b2;
  float coord_b2;
};

// The same matrices packed for dz W.
struct EGCLTransposed {
  const float *receiver, *sender, *edge2, *coord1, *node1_h, *node1_m, *node2;
};

// With a cutoff, what x' of a row is made of: sum_j u_ij g_ij r_ij [3], and sum_j u_ij behind it.
constexpr int64_t kMoves = 4;

struct EGCLForward {
  EGCLSizes size;
  EGCLGraph graph;
  EGCLWeights weight;
  const float *x{}, *h{}, *edge_term{};  // [N, T, D], [N, T, H], [E, stride] or null
  float *p{}, *q{};                      // [N, T, stride]
  float *x_out{}, *h_out{};              // [N, T, D], [N, T, H]
  // Kept for the way back, both or none: [N, T, stride]; hidden: the node MLP's before its bias.
  float *m_sum{}, *hidden{};
  float* moves{};   // kept with a cutoff: [N, T, kMoves]
  bool is_begun{};  // whether egcl_project writes the part of `hidden` that h makes, and egcl_nodes adds to it
};

struct EGCLBackward {
  EGCLSizes size;
  EGCLGraph graph;
  EGCLWeights weight;
  EGCLTransposed transposed;
  const float *x{}, *h{}, *edge_term{}, *p{}, *q{}, *m_sum{}, *hidden{};
  const float* moves{};
  const float *grad_x_out{}, *grad_h_out{};       // [N, T, D], [N, T, H]
  float *grad_m_sum{}, *grad_p{}, *grad_q{};      // [N, T, stride]
  float *grad_x{}, *grad_h{}, *grad_edge_term{};  // [N, T, D], [N, T, H], [E, stride] or null
  float* grad_shift{};                            // [E, D], or null where nobody wants it
  // For the edges of one chunk, counted from `chunk_first`: what the senders will add up.
  int64_t chunk_first{};
  float* edge_grad_q{};  // [chunk, T, stride]
  float* edge_grad_x{};  // [chunk, T, D]
};

// A weight's gradient is summed in slots, each a fixed share of the rows, so that the order of additions never depends
// on the number of threads. Offsets of the parts of one slot, in floats. (Always inline: see simd.h.)
struct EGCLEdgeSlot {
  int64_t edge2, coord1, edge_b2, coord_b1, coord2, distance, coord_b2, size;
  [[gnu::always_inline]] EGCLEdgeSlot(int64_t width, int64_t stride)
      : edge2(0),
        coord1(width * stride),
        edge_b2(2 * width * stride),
        coord_b1(edge_b2 + stride),
        coord2(coord_b1 + stride),
        distance(coord2 + stride),
        coord_b2(distance + stride),
        size(coord_b2 + stride) {}
};

struct EGCLNodeSlot {
  int64_t node2, node1_h, node1_m, receiver, sender, node_b2, node_b1, edge_b1, size;
  [[gnu::always_inline]] EGCLNodeSlot(int64_t width, int64_t stride)
      : node2(0),
        node1_h(width * stride),
        node1_m(2 * width * stride),
        receiver(3 * width * stride),
        sender(4 * width * stride),
        node_b2(5 * width * stride),
        node_b1(node_b2 + stride),
        edge_b1(node_b1 + stride),
        size(edge_b1 + stride) {}
};

constexpr int64_t kTileRows = 60;  // rows of a tile: ten register blocks of six, two trajectories of thirty frames

// Nodes whose frames fill a tile, at least one.
[[gnu::always_inline]] inline int64_t nodes_per_tile(int64_t num_frames) {
  return num_frames < 1 || num_frames > kTileRows ? 1 : kTileRows / num_frames;
}

}  // namespace geotdm
