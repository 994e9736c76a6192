// What the kernels of the gated feed-forward are given: plain sizes and pointers, one struct for each direction.
//
// Rows are (node, frame). The caller's features, vectors and results are dense; padded rows are `stride` floats apart.
#pragma once

#include <cstdint>

namespace geotdm {

constexpr int64_t kGates = 4;  // V, the vectors between both perceptrons

struct GVFFSizes {
  int64_t num_rows, dim, width, stride;  // R, D, H, and H padded to whole panels
};

// One perceptron: features [H] and vectors [IN] to features [H] and vectors [OUT], by V vectors within.
struct GVPWeights {
  const float* feature;             // packed for x W^T: the columns of the features
  const float* length[4];           // [stride]: the column of every length
  const float* bias;                // [stride]
  const float* gate[4];             // [stride]: a row for every vector that goes out
  float gate_bias[4];               // [OUT]
  float vector[4 * 4], mix[4 * 4];  // W_h [V, IN] and W_u [OUT, V], row by row
};

struct GVFFForward {
  GVFFSizes size;
  GVPWeights first, second;
  const float *k{}, *u{};  // [R, H], [R, D]
  float *q{}, *w{};        // [R, H], [R, D]
};

struct GVFFBackward {
  GVFFSizes size;
  GVPWeights first, second;
  const float *feature1_t{}, *feature2_t{};  // the matrices packed for dz W
  const float *k{}, *u{}, *grad_q{}, *grad_w{};
  float *grad_k{}, *grad_u{};
};

// Offsets of the parts of one slot of a perceptron's gradients, in floats (see EGCLEdgeSlot).
struct GVPSlot {
  int64_t feature, length, gate, bias, gate_bias, vector, mix, size;
  [[gnu::always_inline]] GVPSlot(int64_t width, int64_t stride, int64_t from)
      : feature(from),
        length(feature + width * stride),
        gate(length + kGates * stride),
        bias(gate + kGates * stride),
        gate_bias(bias + stride),
        vector(gate_bias + kGates),
        mix(vector + kGates * kGates),
        size(mix + kGates * kGates + 12) {}  // whole vectors
};

}  // namespace geotdm
