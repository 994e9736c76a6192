// Small matrix products on tiles that stay in cache: C[M, N] (+)= A[M, K] B[K, N], float32.
//
// B is packed into panels of kPanel columns, zero-padded, so that the inner loop reads it in order. Rows of C (and of
// every tile) are `padded(N)` floats apart, so that whole vectors may be written.
#pragma once

#include "simd.h"

namespace geotdm::GEOTDM_ISA {

constexpr int kVectors = GEOTDM_PANEL_VECTORS;  // vectors across a panel
constexpr int kPanel = kVectors * kWidth;
constexpr int kRows = GEOTDM_PANEL_ROWS;  // rows of C held in registers

GEOTDM_INLINE int64_t padded(int64_t n) { return (n + kPanel - 1) / kPanel * kPanel; }
GEOTDM_INLINE int64_t packed_size(int64_t k, int64_t n) { return k * padded(n); }

// B[k, n] is at b[k * k_stride + n * n_stride]: a transpose is packed by swapping the strides.
inline void pack(float* packed, const float* b, int64_t k, int64_t n, int64_t k_stride, int64_t n_stride) {
  for (int64_t n0 = 0; n0 < n; n0 += kPanel) {
    const int64_t columns = n - n0 < kPanel ? n - n0 : kPanel;
    for (int64_t i = 0; i < k; ++i, packed += kPanel) {
      const float* source = b + i * k_stride + n0 * n_stride;
      for (int64_t c = 0; c < columns; ++c) packed[c] = source[c * n_stride];
      for (int64_t c = columns; c < kPanel; ++c) packed[c] = 0;
    }
  }
}

// ROWS rows of C times one panel. A[m, k] is at a[m * row_stride + k * k_stride]. What is accumulated is summed apart
// first: over many tiles that rounds less than adding every product to C.
template <int ROWS>
GEOTDM_INLINE void panel_rows(int64_t k, const float* a, int64_t row_stride, int64_t k_stride, const float* b,
                              int64_t b_stride, float* c, int64_t c_stride, bool accumulate) {
  Vec acc[ROWS][kVectors];
#pragma GCC unroll 16
  for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) acc[r][v] = Vec{};
  for (int64_t i = 0; i < k; ++i) {
    Vec row[kVectors];
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) row[v] = load(b + i * b_stride + v * kWidth);
#pragma GCC unroll 16
    for (int r = 0; r < ROWS; ++r) {
      const Vec scale = splat(a[r * row_stride + i * k_stride]);
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) acc[r][v] += scale * row[v];
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) {
      float* to = c + r * c_stride + v * kWidth;
      store(to, accumulate ? load(to) + acc[r][v] : acc[r][v]);
    }
}

template <int ROWS>
GEOTDM_INLINE void panel_remainder(int64_t rows, int64_t k, const float* a, int64_t row_stride, int64_t k_stride,
                                   const float* b, int64_t b_stride, float* c, int64_t c_stride, bool accumulate) {
  if (rows == ROWS) {
    panel_rows<ROWS>(k, a, row_stride, k_stride, b, b_stride, c, c_stride, accumulate);
  } else if constexpr (ROWS > 1) {
    panel_remainder<ROWS - 1>(rows, k, a, row_stride, k_stride, b, b_stride, c, c_stride, accumulate);
  }
}

// The longest chain of additions: longer sums are summed in parts, which rounds less.
constexpr int64_t kChain = 128;

// b_stride and panel_step tell where B's rows and panels lie: (kPanel, k * kPanel) packed, (row stride, kPanel) as it
// is.
inline void multiply(int64_t m, int64_t n, int64_t k, const float* a, int64_t row_stride, int64_t k_stride,
                     const float* b, int64_t b_stride, int64_t panel_step, float* c, int64_t c_stride,
                     bool accumulate) {
  for (int64_t n0 = 0; n0 < n; n0 += kPanel, b += panel_step) {
    for (int64_t k0 = 0; k0 < k; k0 += kChain) {
      const int64_t chain = k - k0 < kChain ? k - k0 : kChain;
      const float *a_part = a + k0 * k_stride, *b_part = b + k0 * b_stride;
      const bool add = accumulate || k0 > 0;
      int64_t i = 0;
      for (; i + kRows <= m; i += kRows)
        panel_rows<kRows>(chain, a_part + i * row_stride, row_stride, k_stride, b_part, b_stride, c + i * c_stride + n0,
                          c_stride, add);
      if (i < m)
        panel_remainder<kRows - 1>(m - i, chain, a_part + i * row_stride, row_stride, k_stride, b_part, b_stride,
                                   c + i * c_stride + n0, c_stride, add);
    }
  }
}

// C (+)= A B, B packed.
inline void gemm(int64_t m, int64_t n, int64_t k, const float* a, int64_t a_stride, const float* packed_b, float* c,
                 int64_t c_stride, bool accumulate = false) {
  multiply(m, n, k, a, a_stride, 1, packed_b, kPanel, k * kPanel, c, c_stride, accumulate);
}

// C[K, N] += A[M, K]^T B[M, N]: a weight's gradient from a tile of M rows; B as it is, rows padded(N) apart.
inline void gemm_at(int64_t k, int64_t n, int64_t m, const float* a, int64_t a_stride, const float* b, int64_t b_stride,
                    float* c, int64_t c_stride) {
  multiply(k, n, m, a, 1, a_stride, b, b_stride, kPanel, c, c_stride, true);
}

}  // namespace geotdm::GEOTDM_ISA
