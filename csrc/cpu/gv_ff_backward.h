// Backward of the gated feed-forward: a tile of rows is computed anew, then both perceptrons are passed backwards.
// Weights' gradients go to fixed slots; where nobody wants them there is no slot.
#pragma once

#include "gv_ff_forward.h"

namespace geotdm::GEOTDM_ISA {

// Through s Y = sigmoid(G p + d) W_u U of a row: what goes out has the gradient grad_out [OUT, 3]. Gives grad_gate, by
// G p + d, and the gradient by U.
template <int OUT>
GEOTDM_INLINE void gvp_gates_backward(const GVPWeights& w, const GVPRow& row, const float (*grad_out)[3],
                                      float (&grad_gate)[kGates], float (&grad_inner)[kGates][3], float* sum_mix) {
  for (int v = 0; v < kGates; ++v)
    for (int d = 0; d < 3; ++d) grad_inner[v][d] = 0;
  for (int o = 0; o < OUT; ++o) {
    const float s = row.gate[o];
    float grad_s = 0;
    for (int d = 0; d < 3; ++d) grad_s += grad_out[o][d] * row.mixed[o][d];
    grad_gate[o] = grad_s * s * (1 - s);
    for (int v = 0; v < kGates; ++v) {
      float by_mix = 0;
      for (int d = 0; d < 3; ++d) {
        const float grad_mixed = s * grad_out[o][d];
        grad_inner[v][d] += w.mix[o * kGates + v] * grad_mixed;
        by_mix += grad_mixed * row.inner[v][d];
      }
      sum_mix[o * kGates + v] += by_mix;
    }
  }
}

// Through U = W_h u and |U|, whose gradient is 0 at 0: grad_length by |U|, and grad_in [IN, 3].
template <int IN>
GEOTDM_INLINE void gvp_inner_backward(const GVPWeights& w, const GVPRow& row, const float (*in)[3],
                                      const float (&grad_length)[kGates], float (&grad_inner)[kGates][3],
                                      float (*grad_in)[3], float* sum_vector) {
  for (int i = 0; i < IN; ++i)
    for (int d = 0; d < 3; ++d) grad_in[i][d] = 0;
  for (int v = 0; v < kGates; ++v) {
    const float by_length = row.length[v] > 0 ? grad_length[v] / row.length[v] : 0.0f;
    for (int d = 0; d < 3; ++d) grad_inner[v][d] += by_length * row.inner[v][d];
    for (int i = 0; i < IN; ++i) {
      float by_vector = 0;
      for (int d = 0; d < 3; ++d) {
        grad_in[i][d] += w.vector[v * IN + i] * grad_inner[v][d];
        by_vector += grad_inner[v][d] * in[i][d];
      }
      sum_vector[v * IN + i] += by_vector;
    }
  }
}

// Adds factor_v times the row to sums + v stride for `count` rows of weights.
GEOTDM_INLINE void add_outer(float* sums, const float* factors, int count, const float* row, int64_t stride) {
  for (int v = 0; v < count; ++v) add_row(sums + v * stride, row, factors[v], stride);
}

inline int64_t gv_ff_backward_scratch(const GVFFSizes& size) {
  const int64_t sums = GVPSlot(0, size.stride, 0).size;
  return gv_ff_scratch(size) + 3 * kTileRows * size.stride + kTileRows * kGates * 3 + 2 * sums + 64;
}

// Rows first .. last - 1. slot: the first perceptron's gradients, then the second's, or null.
inline void gv_ff_rows_backward(const GVFFBackward& a, int64_t first, int64_t last, float* slot, float* memory) {
  const int64_t width = a.size.width, stride = a.size.stride, dim = a.size.dim;
  const GVPSlot at1(width, stride, 0), at2(width, stride, at1.size);
  // All but the matrices is summed for a tile first: fewer roundings than adding every row to the total.
  const GVPSlot in_tile(0, stride, 0);
  Scratch scratch{memory};
  const GVFFScratch s(a.size, scratch);
  float* slope = scratch.take(kTileRows * stride);
  float* grad = scratch.take(kTileRows * stride);    // by q, then by z
  float* grad_p = scratch.take(kTileRows * stride);  // by p, then by k
  auto* grad_gated = reinterpret_cast<float (*)[kGates][3]>(scratch.take(kTileRows * kGates * 3));
  float *sums1 = scratch.take(in_tile.size), *sums2 = scratch.take(in_tile.size);
  for (int64_t row = first; row < last; row += kTileRows) {
    const int64_t rows = smaller(kTileRows, last - row);
    fill_zero(sums1, in_tile.size);
    fill_zero(sums2, in_tile.size);
    gv_ff_tile(a, row, rows, s, slope);
    copy_rows(grad, stride, a.grad_q + row * width, width, rows, width);

    // The second perceptron.
    for (int64_t r = 0; r < rows; ++r) {
      float grad_w[1][3], grad_gate[kGates], grad_inner[kGates][3], grad_length[kGates], gated[kGates][3];
      load_vector(grad_w[0], a.grad_w + (row + r) * dim, dim);
      gvp_gates_backward<1>(a.second, s.second[r], grad_w, grad_gate, grad_inner, sums2 + in_tile.mix);
      float* g = grad + r * stride;
      add_row(g, a.second.gate[0], grad_gate[0], stride);
      for (int v = 0; v < kGates; ++v) {
        grad_length[v] = dot_row(g, a.second.length[v], stride);
        for (int d = 0; d < 3; ++d) gated[v][d] = s.first[r].gate[v] * s.first[r].mixed[v][d];
      }
      if (slot) {
        add_row(sums2 + in_tile.gate, s.q + r * stride, grad_gate[0], stride);
        sums2[in_tile.gate_bias] += grad_gate[0];
        add_outer(sums2 + in_tile.length, s.second[r].length, kGates, g, stride);
      }
      gvp_inner_backward<kGates>(a.second, s.second[r], gated, grad_length, grad_inner, grad_gated[r],
                                 sums2 + in_tile.vector);
    }
    if (slot) {
      add_total(grad, sums2 + in_tile.bias, rows, stride);
      add_row(slot + at2.length, sums2, in_tile.size);
      gemm_at(width, width, rows, grad, stride, s.p, stride, slot + at2.feature, stride);
    }
    gemm(rows, width, width, grad, stride, a.feature2_t, grad_p, stride);

    // The first.
    for (int64_t r = 0; r < rows; ++r) {
      float u[1][3], grad_u[1][3], grad_gate[kGates], grad_inner[kGates][3], grad_length[kGates];
      load_vector(u[0], a.u + (row + r) * dim, dim);
      gvp_gates_backward<kGates>(a.first, s.first[r], grad_gated[r], grad_gate, grad_inner, sums1 + in_tile.mix);
      float* g = grad_p + r * stride;
      for (int v = 0; v < kGates; ++v) add_row(g, a.first.gate[v], grad_gate[v], stride);
      float* z = grad + r * stride;
      for_columns(stride, [&]<int N>(int64_t c, std::integral_constant<int, N>)
                              GEOTDM_INLINE_LAMBDA { store(z + c, load<N>(g + c) * load<N>(slope + r * stride + c)); });
      for (int v = 0; v < kGates; ++v) grad_length[v] = dot_row(z, a.first.length[v], stride);
      if (slot) {
        add_outer(sums1 + in_tile.gate, grad_gate, kGates, s.p + r * stride, stride);
        for (int v = 0; v < kGates; ++v) sums1[in_tile.gate_bias + v] += grad_gate[v];
        add_outer(sums1 + in_tile.length, s.first[r].length, kGates, z, stride);
      }
      gvp_inner_backward<1>(a.first, s.first[r], u, grad_length, grad_inner, grad_u, sums1 + in_tile.vector);
      for (int64_t d = 0; d < dim; ++d) a.grad_u[(row + r) * dim + d] = grad_u[0][d];
    }
    if (slot) {
      add_total(grad, sums1 + in_tile.bias, rows, stride);
      add_row(slot + at1.length, sums1, in_tile.size);
      copy_rows(s.k, stride, a.k + row * width, width, rows, width);
      gemm_at(width, width, rows, grad, stride, s.k, stride, slot + at1.feature, stride);
    }
    gemm(rows, width, width, grad, stride, a.feature1_t, grad_p, stride);
    copy_out(a.grad_k + row * width, width, grad_p, stride, rows);
  }
}

}  // namespace geotdm::GEOTDM_ISA
