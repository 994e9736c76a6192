// The gated feed-forward, a tile of rows at a time: both matrix products by gemm.h, the vectors row by row between
// them.
#pragma once

#include "gv_ff.h"
#include "tiles.h"

namespace geotdm::GEOTDM_ISA {

// The vectors of a row within one perceptron: U = W_h u, |U|, Y = W_u U, and the gates s; OUT vectors s Y go out.
struct GVPRow {
  float inner[kGates][3], length[kGates], mixed[kGates][3], gate[kGates];
};

// U and |U| of the vectors in [IN, 3].
template <int IN>
GEOTDM_INLINE void gvp_inner(const GVPWeights& w, const float (*in)[3], GVPRow& row) {
  for (int v = 0; v < kGates; ++v) {
    float square = 0;
    for (int d = 0; d < 3; ++d) {
      float value = 0;
      for (int i = 0; i < IN; ++i) value += w.vector[v * IN + i] * in[i][d];
      row.inner[v][d] = value, square += value * value;
    }
    row.length[v] = __builtin_sqrtf(square);
  }
}

// Y = W_u U.
template <int OUT>
GEOTDM_INLINE void gvp_mix(const GVPWeights& w, GVPRow& row) {
  for (int o = 0; o < OUT; ++o)
    for (int d = 0; d < 3; ++d) {
      float value = 0;
      for (int v = 0; v < kGates; ++v) value += w.mix[o * kGates + v] * row.inner[v][d];
      row.mixed[o][d] = value;
    }
}

// Vectors that pass the columns of a row of the bias and of what the lengths add: z + b + sum_v |U_v| W_v.
template <int N>
GEOTDM_INLINE Batch<N> gvp_before(const GVPWeights& w, const float* z, const GVPRow& row, int64_t c) {
  auto value = load<N>(z + c) + load<N>(w.bias + c);
  for (int v = 0; v < kGates; ++v) value = value + load<N>(w.length[v] + c) * row.length[v];
  return value;
}

// sigmoid(G p + d) of the row p.
template <int OUT>
GEOTDM_INLINE void gvp_gates(const GVPWeights& w, const float* p, int64_t stride, GVPRow& row) {
  for (int o = 0; o < OUT; ++o) {
    const float a = dot_row(p, w.gate[o], stride) + w.gate_bias[o];
    row.gate[o] = sum(sigmoid(splat<1>(a)).v[0]) / kWidth;
  }
}

GEOTDM_INLINE void load_vector(float (&to)[3], const float* from, int64_t dim) {
  for (int64_t d = 0; d < 3; ++d) to[d] = d < dim ? from[d] : 0.0f;
}

inline int64_t gv_ff_scratch(const GVFFSizes& size) {
  return 3 * kTileRows * size.stride + 2 * kTileRows * (int64_t(sizeof(GVPRow)) / 4) + 128;
}

// Scratch memory of a tile: k in padded rows, p, and the second layer.
struct GVFFScratch {
  float *k, *p, *q;
  GVPRow *first, *second;
  GEOTDM_INLINE GVFFScratch(const GVFFSizes& size, Scratch& scratch)
      : k(scratch.take(kTileRows * size.stride)),
        p(scratch.take(kTileRows * size.stride)),
        q(scratch.take(kTileRows * size.stride)),
        first(reinterpret_cast<GVPRow*>(scratch.take(kTileRows * (sizeof(GVPRow) / 4)))),
        second(reinterpret_cast<GVPRow*>(scratch.take(kTileRows * (sizeof(GVPRow) / 4)))) {}
};

// A tile of `rows` rows from `row`: p and q in padded rows, and what the vectors of every row are. slope: of silu in
// the first layer, in padded rows, or null.
template <typename Args>
GEOTDM_INLINE void gv_ff_tile(const Args& a, int64_t row, int64_t rows, const GVFFScratch& s, float* slope) {
  const int64_t width = a.size.width, stride = a.size.stride, dim = a.size.dim;
  gemm(rows, width, width, a.k + row * width, width, a.first.feature, s.p, stride);
  for (int64_t r = 0; r < rows; ++r) {
    GVPRow& vectors = s.first[r];
    float u[1][3];
    load_vector(u[0], a.u + (row + r) * dim, dim);
    gvp_inner<1>(a.first, u, vectors);
    gvp_mix<kGates>(a.first, vectors);
    float* p = s.p + r * stride;
    for_columns(stride, [&]<int N>(int64_t c, std::integral_constant<int, N>) GEOTDM_INLINE_LAMBDA {
      const auto z = gvp_before<N>(a.first, p, vectors, c);
      if (slope) {
        Batch<N> steep;
        store(p + c, silu_and_slope(z, steep));
        store(slope + r * stride + c, steep);
      } else {
        store(p + c, silu(z));
      }
    });
    gvp_gates<kGates>(a.first, p, stride, vectors);
    float gated[kGates][3];
    for (int v = 0; v < kGates; ++v)
      for (int d = 0; d < 3; ++d) gated[v][d] = vectors.gate[v] * vectors.mixed[v][d];
    gvp_inner<kGates>(a.second, gated, s.second[r]);
    gvp_mix<1>(a.second, s.second[r]);
  }
  gemm(rows, width, width, s.p, stride, a.second.feature, s.q, stride);
  for (int64_t r = 0; r < rows; ++r) {
    float* q = s.q + r * stride;
    for_columns(stride, [&]<int N>(int64_t c, std::integral_constant<int, N>)
                            GEOTDM_INLINE_LAMBDA { store(q + c, gvp_before<N>(a.second, q, s.second[r], c)); });
    gvp_gates<1>(a.second, q, stride, s.second[r]);
  }
}

// Rows first .. last - 1.
inline void gv_ff_rows(const GVFFForward& a, int64_t first, int64_t last, float* memory) {
  const int64_t width = a.size.width, stride = a.size.stride, dim = a.size.dim;
  Scratch scratch{memory};
  const GVFFScratch s(a.size, scratch);
  for (int64_t row = first; row < last; row += kTileRows) {
    const int64_t rows = smaller(kTileRows, last - row);
    gv_ff_tile(a, row, rows, s, nullptr);
    copy_out(a.q + row * width, width, s.q, stride, rows);
    for (int64_t r = 0; r < rows; ++r)
      for (int64_t d = 0; d < dim; ++d) a.w[(row + r) * dim + d] = s.second[r].gate[0] * s.second[r].mixed[0][d];
  }
}

}  // namespace geotdm::GEOTDM_ISA
