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

// Sizes of blocks that are rounded at a time, on the stack: 6 KB of A in `multiply`, 6 KB of A and 16 KB of B in
// `gemm_at`.
constexpr int64_t kSummedRows = 64, kColumnsA = 4 * kRows, kColumnsB = 4 * kPanel;
static_assert(kColumnsA % kWidth == 0);

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

inline void gemm_at(int64_t k, int64_t n, int64_t m, const float* a, int64_t a_stride, const float* b, int64_t b_stride,
                    float* c, int64_t c_stride) {
  alignas(64) Pair block_a[kSummedRows / 2 * kColumnsA], block_b[kSummedRows / 2 * kColumnsB];
  for (int64_t m0 = 0; m0 < m; m0 += kSummedRows, a += kSummedRows * a_stride, b += kSummedRows * b_stride) {
    const int64_t summed = smaller(m - m0, kSummedRows);
    for (int64_t n0 = 0; n0 < n; n0 += kColumnsB) {
      const int64_t columns = smaller(padded(n - n0), kColumnsB);
      pair_rows(block_b, kColumnsB, b + n0, b_stride, summed, columns);
      for (int64_t k0 = 0; k0 < k; k0 += kColumnsA) {
        const int64_t rows = smaller(k - k0, kColumnsA);
        pair_rows(block_a, kColumnsA, a + k0, a_stride, summed, rows);
        for (int64_t i = 0; i < rows; i += kRows)
          for (int64_t j = 0; j < columns; j += kPanel)
            panel_remainder<kRows, Products>(smaller(rows - i, kRows), pairs_in(summed), block_a + i, 1, kColumnsA,
                                             reinterpret_cast<const float*>(block_b + j), kColumnsB,
                                             c + (k0 + i) * c_stride + n0 + j, c_stride, true);
      }
    }
  }
}

}  // namespace geotdm::GEOTDM_ISA
