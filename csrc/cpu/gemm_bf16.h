// Matrix products of numbers rounded to bfloat16 by AVX512_BF16, two steps of K at a time; the sums are float32. A is
// rounded for a block of rows at a time. What a row of C gets depends on its own row of A alone, not on the block that
// it is in.
#pragma once

#define GEOTDM_PAIR_STEP 1
#include "pack_bf16.h"

namespace geotdm::GEOTDM_ISA {

struct ProductUnit {};

struct Products {
  typedef Pair Element;
  typedef Pairs Factors;
  static GEOTDM_INLINE Pairs load(const float* p) { return load_pairs(p); }
  static GEOTDM_INLINE Pairs splat(Pair pair) { return pair - Pairs{}; }
  static GEOTDM_INLINE Vec add(Vec sum, Pairs a, Pairs b) { return add_pair_products(sum, a, b); }
};

inline void multiply(int64_t m, int64_t n, int64_t k, const float* a, int64_t a_stride, const float* packed_b,
                     int64_t panel_step, float* c, int64_t c_stride, bool accumulate) {
  alignas(64) Pair block[kRows * kDepthPairs];
  for (int64_t i = 0; i < m; i += kRows, a += kRows * a_stride, c += kRows * c_stride) {
    const int64_t rows = smaller(m - i, kRows);
    int64_t k0 = 0;
    do {  // once also for k = 0, which writes zeros
      const int64_t depth = smaller(k - k0, kDepth);
      pair_columns(block, kDepthPairs, a + k0, a_stride, rows, depth);
      const float* b = packed_b + packed_rows(k0);
      for (int64_t n0 = 0; n0 < n; n0 += kPanel, b += panel_step)
        panel_remainder<kRows, Products>(rows, pairs_in(depth), block, kDepthPairs, 1, b, kPanel, c + n0, c_stride,
                                         accumulate || k0 > 0);
      k0 += kDepth;
    } while (k0 < k);
  }
}

struct ByPairs {
  static constexpr int64_t kColumnsA = 4 * kRows;
  static_assert(kColumnsA % kWidth == 0);
  static GEOTDM_INLINE void round_a(Pair* to, const float* a, int64_t a_stride, int64_t summed, int64_t columns) {
    pair_rows(to, kColumnsA, a, a_stride, summed, columns);
  }
  static GEOTDM_INLINE void add_at(int64_t rows, int64_t columns, int64_t summed, const Pair* a, const Pair* b,
                                   float* c, int64_t c_stride) {
    for (int64_t i = 0; i < rows; i += kRows)
      for (int64_t j = 0; j < columns; j += kPanel)
        panel_remainder<kRows, Products>(smaller(rows - i, kRows), pairs_in(summed), a + i, 1, kColumnsA,
                                         reinterpret_cast<const float*>(b + j), kColumnsB, c + i * c_stride + j,
                                         c_stride, true);
  }
};

inline void gemm_at(int64_t k, int64_t n, int64_t m, const float* a, int64_t a_stride, const float* b, int64_t b_stride,
                    float* c, int64_t c_stride) {
  gemm_at_rounded<ByPairs>(k, n, m, a, a_stride, b, b_stride, c, c_stride);
}

}  // namespace geotdm::GEOTDM_ISA
