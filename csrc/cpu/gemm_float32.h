// Matrix products of float32 numbers. B is packed into panels of kPanel columns, zero-padded, so that the inner loop
// reads it in order.
#pragma once

#include "register_tile.h"

namespace geotdm::GEOTDM_ISA {

struct ProductUnit {};

struct Products {
  typedef float Element;
  typedef Vec Factors;
  static GEOTDM_INLINE Vec load(const float* p) { return GEOTDM_ISA::load(p); }
  static GEOTDM_INLINE Vec splat(float value) { return GEOTDM_ISA::splat(value); }
  static GEOTDM_INLINE Vec add(Vec sum, Vec a, Vec b) { return sum + a * b; }
};

// Floats that k rows of a packed panel take.
GEOTDM_INLINE int64_t packed_rows(int64_t k) { return k * kPanel; }

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

// The longest chain of additions: longer sums are summed in parts, which rounds less.
constexpr int64_t kChain = 128;

// b_stride and panel_step tell where B's rows and panels lie: (kPanel, packed_rows(k)) packed, (row stride, kPanel) as
// it is.
inline void multiply_panels(int64_t m, int64_t n, int64_t k, const float* a, int64_t row_stride, int64_t k_stride,
                            const float* b, int64_t b_stride, int64_t panel_step, float* c, int64_t c_stride,
                            bool accumulate) {
  for (int64_t n0 = 0; n0 < n; n0 += kPanel, b += panel_step) {
    int64_t k0 = 0;
    do {  // once also for k = 0, which writes zeros
      const int64_t chain = smaller(k - k0, kChain);
      const float *a_part = a + k0 * k_stride, *b_part = b + k0 * b_stride;
      const bool add = accumulate || k0 > 0;
      for (int64_t i = 0, rows; i < m; i += rows) {
        rows = block_rows(m - i);
        panel_remainder<kRows, Products>(rows, chain, a_part + i * row_stride, row_stride, k_stride, b_part, b_stride,
                                         c + i * c_stride + n0, c_stride, add);
      }
      k0 += kChain;
    } while (k0 < k);
  }
}

inline void multiply(int64_t m, int64_t n, int64_t k, const float* a, int64_t a_stride, const float* packed_b,
                     int64_t panel_step, float* c, int64_t c_stride, bool accumulate) {
  multiply_panels(m, n, k, a, a_stride, 1, packed_b, kPanel, panel_step, c, c_stride, accumulate);
}

inline void gemm_at(int64_t k, int64_t n, int64_t m, const float* a, int64_t a_stride, const float* b, int64_t b_stride,
                    float* c, int64_t c_stride) {
  multiply_panels(k, n, m, a, 1, a_stride, b, b_stride, kPanel, c, c_stride, true);
}

}  // namespace geotdm::GEOTDM_ISA
