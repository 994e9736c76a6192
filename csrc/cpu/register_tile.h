// The inner loop of the matrix products: a block of C in registers. gemm_float32.h and gemm_bf16.h, which include it,
// say what one factor is (Element, 4 bytes), a vector of them (Factors), and how their products are added.
#pragma once

#include "simd.h"

namespace geotdm::GEOTDM_ISA {

constexpr int kVectors = GEOTDM_PANEL_VECTORS;  // vectors across a panel
constexpr int kPanel = kVectors * kWidth;
constexpr int kRows = GEOTDM_PANEL_ROWS;  // rows of C held in registers

GEOTDM_INLINE int64_t padded(int64_t n) { return (n + kPanel - 1) / kPanel * kPanel; }

// ROWS rows of C times one panel: step i takes a[r * row_stride + i * step_stride] for row r, and B's b[i * b_stride].
// What is accumulated is summed apart first: over many tiles that rounds less than adding every product to C.
template <int ROWS, typename Products>
GEOTDM_INLINE void panel_rows(int64_t steps, const typename Products::Element* a, int64_t row_stride,
                              int64_t step_stride, const float* b, int64_t b_stride, float* c, int64_t c_stride,
                              bool accumulate) {
  Vec acc[ROWS][kVectors];
#pragma GCC unroll 16
  for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) acc[r][v] = Vec{};
  for (int64_t i = 0; i < steps; ++i) {
    typename Products::Factors row[kVectors];
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) row[v] = Products::load(b + i * b_stride + v * kWidth);
#pragma GCC unroll 16
    for (int r = 0; r < ROWS; ++r) {
      const typename Products::Factors scale = Products::splat(a[r * row_stride + i * step_stride]);
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) acc[r][v] = Products::add(acc[r][v], scale, row[v]);
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

// Rows of the next block where `left` are left. Few rows have too few sums for the FMA units, which begin the next
// before the last is done: so the last two blocks share such a remainder.
GEOTDM_INLINE int64_t block_rows(int64_t left) {
  constexpr int64_t kSumsAtOnce = 8;  // two units, each four cycles from a product to its sum
  if (left <= kRows) return left;
  const bool few = left < 2 * kRows && (left - kRows) * kVectors < kSumsAtOnce;
  return few ? (left + 1) / 2 : kRows;
}

// panel_rows for 1 .. ROWS rows.
template <int ROWS, typename Products>
GEOTDM_INLINE void panel_remainder(int64_t rows, int64_t steps, const typename Products::Element* a, int64_t row_stride,
                                   int64_t step_stride, const float* b, int64_t b_stride, float* c, int64_t c_stride,
                                   bool accumulate) {
  if (rows == ROWS) {
    panel_rows<ROWS, Products>(steps, a, row_stride, step_stride, b, b_stride, c, c_stride, accumulate);
  } else if constexpr (ROWS > 1) {
    panel_remainder<ROWS - 1, Products>(rows, steps, a, row_stride, step_stride, b, b_stride, c, c_stride, accumulate);
  }
}

}  // namespace geotdm::GEOTDM_ISA
