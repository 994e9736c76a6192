// Matrix products of numbers rounded to bfloat16 by AMX, 32 steps of K at a time; the sums are float32. A is rounded
// for a block of rows at a time. What a row of C gets depends on its own row of A alone, not on the block that it is
// in.
#pragma once

#define GEOTDM_PAIR_STEP 16
#include "amx.h"
#include "pack_bf16.h"

namespace geotdm::GEOTDM_ISA {

typedef Tiles ProductUnit;

// A block of C: two tiles down, two across a panel.
constexpr int64_t kBlock = 2 * kTile;
static_assert(kPanel == kBlock && kPairStep == kTile);

constexpr int64_t kRowsA = 64;  // of A, rounded at a time in `multiply`: 32 KB on the stack

// C (+)= A B for 1 .. kBlock rows and a panel: `pairs` along K, A's rows a_stride pairs apart, B's b_stride. All rows
// of A's tiles are read, those that are too many into numbers that nobody sees. What is accumulated is summed apart
// first.
GEOTDM_INLINE void multiply_block(int64_t rows, int64_t pairs, const Pair* a, int64_t a_stride, const Pair* b,
                                  int64_t b_stride, float* c, int64_t c_stride, bool accumulate) {
  const bool is_tall = rows > kTile;
  clear_tile<0>(), clear_tile<1>(), clear_tile<2>(), clear_tile<3>();
  for (int64_t i = 0; i < pairs; i += kTile, b += kTile * b_stride) {
    load_tile<4>(a + i, a_stride);
    load_tile<6>(b, b_stride);
    load_tile<7>(b + kTile, b_stride);
    add_tile_products<0, 4, 6>();
    add_tile_products<1, 4, 7>();
    if (!is_tall) continue;
    load_tile<5>(a + i + kTile * a_stride, a_stride);
    add_tile_products<2, 5, 6>();
    add_tile_products<3, 5, 7>();
  }
  alignas(64) float sums[kBlock * kBlock];
  const bool is_direct = rows == kBlock && !accumulate;
  float* to = is_direct ? c : sums;
  const int64_t stride = is_direct ? c_stride : kBlock;
  store_tile<0>(to, stride), store_tile<1>(to + kTile, stride);
  if (is_tall) store_tile<2>(to + kTile * stride, stride), store_tile<3>(to + kTile * stride + kTile, stride);
  if (is_direct) return;
  for (int64_t r = 0; r < rows; ++r, c += c_stride)
    for (int64_t v = 0; v < kBlock; v += kWidth) {
      const Vec sum = load(sums + r * kBlock + v);
      store(c + v, accumulate ? load(c + v) + sum : sum);
    }
}

inline void multiply(int64_t m, int64_t n, int64_t k, const float* a, int64_t a_stride, const float* packed_b,
                     int64_t panel_step, float* c, int64_t c_stride, bool accumulate) {
  alignas(64) Pair block[kRowsA * kDepthPairs];
  for (int64_t i = 0; i < m; i += kRowsA, a += kRowsA * a_stride, c += kRowsA * c_stride) {
    const int64_t rows = smaller(m - i, kRowsA);
    int64_t k0 = 0;
    do {  // once also for k = 0, which writes zeros
      const int64_t depth = smaller(k - k0, kDepth), pairs = pairs_in(depth);
      pair_columns(block, pairs, a + k0, a_stride, rows, depth);
      const float* b = packed_b + packed_rows(k0);
      for (int64_t n0 = 0; n0 < n; n0 += kPanel, b += panel_step)
        for (int64_t r = 0; r < rows; r += kBlock)
          multiply_block(smaller(rows - r, kBlock), pairs, block + r * pairs, pairs, reinterpret_cast<const Pair*>(b),
                         kPanel, c + r * c_stride + n0, c_stride, accumulate || k0 > 0);
      k0 += kDepth;
    } while (k0 < k);
  }
}

// [rows, columns] as pairs of rows, those of a column together, columns `step` pairs apart; reads whole vectors.
GEOTDM_INLINE void pair_rows_by_column(Pair* to, int64_t step, const float* from, int64_t stride, int64_t rows,
                                       int64_t columns) {
  for (int64_t c = 0; c < columns; c += kTile, to += kTile * step)
    for (int64_t i = 0; i < pairs_in(rows); i += kTile) {
      Pairs v[kTile];
#pragma GCC unroll 16
      for (int64_t p = 0; p < kTile; ++p) v[p] = pair_of_rows(from, stride, rows, 2 * (i + p), c);
      transpose(v);
#pragma GCC unroll 16
      for (int64_t p = 0; p < kTile; ++p) store(to + p * step + i, v[p]);
    }
}

struct ByTiles {
  static constexpr int64_t kColumnsA = 128;
  static GEOTDM_INLINE void round_a(Pair* to, const float* a, int64_t a_stride, int64_t summed, int64_t columns) {
    pair_rows_by_column(to, pairs_in(summed), a, a_stride, summed, columns);
  }
  static GEOTDM_INLINE void add_at(int64_t rows, int64_t columns, int64_t summed, const Pair* a, const Pair* b,
                                   float* c, int64_t c_stride) {
    const int64_t pairs = pairs_in(summed);
    for (int64_t j = 0; j < columns; j += kPanel)
      for (int64_t i = 0; i < rows; i += kBlock)
        multiply_block(smaller(rows - i, kBlock), pairs, a + i * pairs, pairs, b + j, kColumnsB, c + i * c_stride + j,
                       c_stride, true);
  }
};

inline void gemm_at(int64_t k, int64_t n, int64_t m, const float* a, int64_t a_stride, const float* b, int64_t b_stride,
                    float* c, int64_t c_stride) {
  gemm_at_rounded<ByTiles>(k, n, m, a, a_stride, b, b_stride, c, c_stride);
}

}  // namespace geotdm::GEOTDM_ISA
