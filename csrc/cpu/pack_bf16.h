// Tiles of float32 numbers, rounded to bfloat16 in pairs along K: what both kinds of bfloat16 products multiply. A
// packed panel holds pairs of rows of B, zeros after an odd last one. GEOTDM_PAIR_STEP pairs are multiplied at a time:
// a panel and a row of A are filled up with pairs of zeros.
#pragma once

#include "bf16.h"
#include "register_tile.h"

namespace geotdm::GEOTDM_ISA {

constexpr int64_t kPairStep = GEOTDM_PAIR_STEP;
static_assert(kWidth % kPairStep == 0);

GEOTDM_INLINE int64_t pairs_in(int64_t k) { return ((k + 1) / 2 + kPairStep - 1) / kPairStep * kPairStep; }
GEOTDM_INLINE int64_t packed_rows(int64_t k) { return pairs_in(k) * kPanel; }

constexpr int64_t kDepth = 256, kDepthPairs = kDepth / 2;  // of K, rounded at a time

// [rows, k] as pairs along k, rows `step` pairs apart; whole vectors are written.
GEOTDM_INLINE void pair_columns(Pair* to, int64_t step, const float* from, int64_t stride, int64_t rows, int64_t k) {
  for (int64_t r = 0; r < rows; ++r, from += stride, to += step) {
    int64_t i = 0;
    for (; i + 2 * kWidth <= k; i += 2 * kWidth)
      store(to + i / 2, pairs_in_order(load(from + i), load(from + i + kWidth)));
    const int64_t next = smaller(i + kWidth, k);
    if (i < k) store(to + i / 2, pairs_in_order(load_first(from + i, k - i), load_first(from + next, k - next)));
  }
}

// Rows i and i + 1 of `rows` as pairs, from column c; zeros for rows that there are not.
GEOTDM_INLINE Pairs pair_of_rows(const float* from, int64_t stride, int64_t rows, int64_t i, int64_t c) {
  const Vec low = i < rows ? load(from + i * stride + c) : Vec{};
  return pairs_across(low, i + 1 < rows ? load(from + (i + 1) * stride + c) : Vec{});
}

// [rows, columns] as pairs of rows, `step` apart; reads whole vectors.
GEOTDM_INLINE void pair_rows(Pair* to, int64_t step, const float* from, int64_t stride, int64_t rows, int64_t columns) {
  for (int64_t i = 0; i < 2 * pairs_in(rows); i += 2, to += step)
    for (int64_t c = 0; c < columns; c += kWidth) store(to + c, pair_of_rows(from, stride, rows, i, c));
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
        pair_columns(block, kDepthPairs, b + k0, n_stride, columns, depth);
        for (int64_t i = 0; i < pairs_in(depth); ++i, to += kPanel)
          for (int64_t c = 0; c < kPanel; ++c) to[c] = c < columns ? block[c * kDepthPairs + i] : 0;
      }
    } else {
      for (int64_t i = 0; i < 2 * pairs_in(k); i += 2, to += kPanel)
        for (int64_t c = 0; c < kPanel; c += kWidth) {
          const float* row = b + i * k_stride + smaller(c, columns) * n_stride;
          const Vec low = i < k ? gather_first(row, n_stride, columns - c) : Vec{};
          store(to + c, pairs_across(low, i + 1 < k ? gather_first(row + k_stride, n_stride, columns - c) : Vec{}));
        }
    }
  }
}

// `gemm_at` of gemm.h, rounding kSummedRows rows of B and kColumnsA columns of A at a time. A kind of products has
//   kColumnsA, the columns of such a block of A;
//   round_a(to, a, a_stride, summed, columns): the block, in the order that `add_at` reads;
//   add_at(rows, columns, summed, a, b, c, c_stride): C += A^T B of the rounded blocks, B's rows of pairs kColumnsB
//   apart.
constexpr int64_t kSummedRows = 64, kColumnsB = 128;
static_assert(kColumnsB % kPanel == 0);

template <typename Kind>
GEOTDM_INLINE void gemm_at_rounded(int64_t k, int64_t n, int64_t m, const float* a, int64_t a_stride, const float* b,
                                   int64_t b_stride, float* c, int64_t c_stride) {
  alignas(64) Pair block_a[kSummedRows / 2 * Kind::kColumnsA], block_b[kSummedRows / 2 * kColumnsB];
  for (int64_t m0 = 0; m0 < m; m0 += kSummedRows, a += kSummedRows * a_stride, b += kSummedRows * b_stride) {
    const int64_t summed = smaller(m - m0, kSummedRows);
    for (int64_t n0 = 0; n0 < n; n0 += kColumnsB) {
      const int64_t columns = smaller(padded(n - n0), kColumnsB);
      pair_rows(block_b, kColumnsB, b + n0, b_stride, summed, columns);
      for (int64_t k0 = 0; k0 < k; k0 += Kind::kColumnsA) {
        const int64_t rows = smaller(k - k0, Kind::kColumnsA);
        Kind::round_a(block_a, a + k0, a_stride, summed, rows);
        Kind::add_at(rows, columns, summed, block_a, block_b, c + k0 * c_stride + n0, c_stride);
      }
    }
  }
}

}  // namespace geotdm::GEOTDM_ISA
