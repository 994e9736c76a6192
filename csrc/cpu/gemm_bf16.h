// Matrix products of numbers rounded to bfloat16, two steps of K at a time; the sums are float32. A packed panel holds
// pairs of rows of B (an odd last row with a row of zeros), A is rounded for a block of rows at a time. What a row of C
// gets depends on its own row of A alone, not on the block that it is in.
#pragma once

#include "bf16.h"
#include "register_tile.h"

namespace geotdm::GEOTDM_ISA {

struct Products {
  typedef Pair Element;
  typedef Pairs Factors;
  static GEOTDM_INLINE Pairs load(const float* p) { return load_pairs(p); }
  static GEOTDM_INLINE Pairs splat(Pair pair) { return pair - Pairs{}; }
  static GEOTDM_INLINE Vec add(Vec sum, Pairs a, Pairs b) { return add_pair_products(sum, a, b); }
};

GEOTDM_INLINE int64_t pairs_in(int64_t k) { return (k + 1) / 2; }
GEOTDM_INLINE int64_t packed_rows(int64_t k) { return pairs_in(k) * kPanel; }

// Sizes of blocks that are rounded at a time, on the stack: 6 KB of A in `multiply`, 6 KB of A and 16 KB of B in
// `gemm_at` (AVX-512).
constexpr int64_t kDepth = 256, kDepthPairs = kDepth / 2;  // of K
constexpr int64_t kSummedRows = 64, kColumnsA = 4 * kRows, kColumnsB = 4 * kPanel;
static_assert(kColumnsA % kWidth == 0);

// [rows, k] as pairs along k <= kDepth, rows kDepthPairs apart.
GEOTDM_INLINE void pair_columns(Pair* to, const float* from, int64_t stride, int64_t rows, int64_t k) {
  for (int64_t r = 0; r < rows; ++r, from += stride, to += kDepthPairs) {
    int64_t i = 0;
    for (; i + 2 * kWidth <= k; i += 2 * kWidth)
      store(to + i / 2, pairs_in_order(load(from + i), load(from + i + kWidth)));
    const int64_t next = smaller(i + kWidth, k);
    if (i < k) store(to + i / 2, pairs_in_order(load_first(from + i, k - i), load_first(from + next, k - next)));
  }
}

// [rows, columns] as pairs of rows, `step` apart; reads whole vectors.
GEOTDM_INLINE void pair_rows(Pair* to, int64_t step, const float* from, int64_t stride, int64_t rows, int64_t columns) {
  for (int64_t i = 0; i < rows; i += 2, from += 2 * stride, to += step)
    for (int64_t c = 0; c < columns; c += kWidth)
      store(to + c, pairs_across(load(from + c), i + 1 < rows ? load(from + stride + c) : Vec{}));
}

// kWidth numbers `stride` apart, of which there are `count`.
GEOTDM_INLINE Vec gather_first(const float* p, int64_t stride, int64_t count) {
  if (stride == 1) return load_first(p, count);
  float v[kWidth] = {};
  for (int64_t i = 0; i < smaller(count, kWidth); ++i) v[i] = p[i * stride];
  return load(v);
}

inline void pack(float* packed, const float* b, int64_t k, int64_t n, int64_t k_stride, int64_t n_stride) {
  alignas(64) Pair block[kPanel * kDepthPairs];
  auto* to = reinterpret_cast<Pair*>(packed);
  for (int64_t n0 = 0; n0 < n; n0 += kPanel, b += kPanel * n_stride) {
    const int64_t columns = smaller(n - n0, kPanel);
    if (k_stride == 1) {
      for (int64_t k0 = 0; k0 < k; k0 += kDepth) {
        const int64_t depth = smaller(k - k0, kDepth);
        pair_columns(block, b + k0, n_stride, columns, depth);
        for (int64_t i = 0; i < pairs_in(depth); ++i, to += kPanel)
          for (int64_t c = 0; c < kPanel; ++c) to[c] = c < columns ? block[c * kDepthPairs + i] : 0;
      }
    } else {
      for (int64_t i = 0; i < k; i += 2, to += kPanel)
        for (int64_t c = 0; c < kPanel; c += kWidth) {
          const float* row = b + i * k_stride + smaller(c, columns) * n_stride;
          const Vec low = gather_first(row, n_stride, columns - c);
          store(to + c, pairs_across(low, i + 1 < k ? gather_first(row + k_stride, n_stride, columns - c) : Vec{}));
        }
    }
  }
}

inline void multiply(int64_t m, int64_t n, int64_t k, const float* a, int64_t a_stride, const float* packed_b,
                     int64_t panel_step, float* c, int64_t c_stride, bool accumulate) {
  alignas(64) Pair block[kRows * kDepthPairs];
  for (int64_t i = 0; i < m; i += kRows, a += kRows * a_stride, c += kRows * c_stride) {
    const int64_t rows = smaller(m - i, kRows);
    int64_t k0 = 0;
    do {  // once also for k = 0, which writes zeros
      const int64_t depth = smaller(k - k0, kDepth);
      pair_columns(block, a + k0, a_stride, rows, depth);
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
