// Operations on tiles of rows in cache, between the matrix products.
#pragma once

#include <type_traits>

#include "activation.h"
#include "gemm.h"

namespace geotdm::GEOTDM_ISA {

constexpr int64_t kMaxStride = 256;  // the widest H, whole panels in every instruction set

// Cuts arrays off a thread's scratch memory.
struct Scratch {
  float* next;
  GEOTDM_INLINE float* take(int64_t count) {
    float* taken = next;
    next += (count + 15) / 16 * 16;
    return taken;
  }
};

GEOTDM_INLINE void fill_zero(float* p, int64_t count) {
  if (count > 0) std::memset(p, 0, count * sizeof(float));  // empty tensors may have no address
}

// Dense rows to padded ones and back; the padding is zero.
inline void copy_rows(float* to, int64_t to_stride, const float* from, int64_t from_stride, int64_t rows,
                      int64_t width) {
  for (int64_t r = 0; r < rows; ++r) {
    std::memcpy(to + r * to_stride, from + r * from_stride, width * sizeof(float));
    for (int64_t c = width; c < to_stride; ++c) to[r * to_stride + c] = 0;
  }
}

inline void copy_out(float* to, int64_t width, const float* from, int64_t stride, int64_t rows) {
  for (int64_t r = 0; r < rows; ++r) std::memcpy(to + r * width, from + r * stride, width * sizeof(float));
}

// Dense rows as padded ones: the rows themselves where the width is whole panels, else a copy of them in `room`.
GEOTDM_INLINE const float* as_padded(const float* dense, int64_t width, float* room, int64_t stride, int64_t rows) {
  if (width == stride) return dense;
  copy_rows(room, stride, dense, width, rows, width);
  return room;
}

// Where padded rows are computed that become dense ones: in the dense ones themselves where the width is whole panels,
// else in `room`; then copy_result() copies them out.
GEOTDM_INLINE float* result_rows(float* dense, int64_t width, float* room, int64_t stride) {
  return width == stride ? dense : room;
}
GEOTDM_INLINE void copy_result(float* dense, int64_t width, const float* result, int64_t stride, int64_t rows) {
  if (width < stride) copy_out(dense, width, result, stride, rows);
}

// f(c, batch) for the columns c of a row, a batch of vectors at a time; `stride` is a whole number of panels.
template <typename F>
GEOTDM_INLINE void for_columns(int64_t stride, F f) {
  int64_t c = 0;
  for (; c + 4 * kWidth <= stride; c += 4 * kWidth) f(c, std::integral_constant<int, 4>());
  for (; c < stride; c += kPanel) f(c, std::integral_constant<int, kVectors>());
}

inline void add_bias(float* z, const float* bias, int64_t rows, int64_t stride) {
  for (int64_t r = 0; r < rows; ++r, z += stride)
    for (int64_t c = 0; c < stride; c += kWidth) store(z + c, load(z + c) + load(bias + c));
}

// out = silu(z + bias); out may be z.
inline void bias_silu(float* out, const float* z, const float* bias, int64_t rows, int64_t stride) {
  for (int64_t r = 0; r < rows; ++r, z += stride, out += stride)
    for_columns(stride, [&]<int N>(int64_t c, std::integral_constant<int, N>)
                            GEOTDM_INLINE_LAMBDA { store(out + c, silu(load<N>(z + c) + load<N>(bias + c))); });
}

// The same, and the slope of silu for the way back.
inline void bias_silu_slope(float* out, float* slope, const float* z, const float* bias, int64_t rows, int64_t stride) {
  for (int64_t r = 0; r < rows; ++r, z += stride, out += stride, slope += stride)
    for_columns(stride, [&]<int N>(int64_t c, std::integral_constant<int, N>) GEOTDM_INLINE_LAMBDA {
      Batch<N> s;
      store(out + c, silu_and_slope(load<N>(z + c) + load<N>(bias + c), s));
      store(slope + c, s);
    });
}

// total += sum over rows of row(r, c, N), c the first column of a batch. A tile is summed apart first: fewer roundings
// than adding every row to the total.
template <typename F>
GEOTDM_INLINE void total_rows(float* total, int64_t rows, int64_t stride, F row) {
  float sums[kMaxStride];
  fill_zero(sums, stride);
  for (int64_t r = 0; r < rows; ++r)
    for_columns(stride, [&]<int N>(int64_t c, std::integral_constant<int, N> n)
                            GEOTDM_INLINE_LAMBDA { store(sums + c, load<N>(sums + c) + row(r * stride + c, n)); });
  for (int64_t c = 0; c < stride; c += kWidth) store(total + c, load(total + c) + load(sums + c));
}

// z *= slope, and total += sum over rows of the product: a gradient through an activation, and its bias's.
inline void scale_and_total(float* z, const float* slope, float* total, int64_t rows, int64_t stride) {
  total_rows(total, rows, stride, [&]<int N>(int64_t at, std::integral_constant<int, N>) GEOTDM_INLINE_LAMBDA {
    const auto v = load<N>(z + at) * load<N>(slope + at);
    store(z + at, v);
    return v;
  });
}

inline void add_total(const float* z, float* total, int64_t rows, int64_t stride) {
  total_rows(total, rows, stride,
             [&]<int N>(int64_t at, std::integral_constant<int, N>) GEOTDM_INLINE_LAMBDA { return load<N>(z + at); });
}

GEOTDM_INLINE void add_row(float* to, const float* from, int64_t stride) {
  for (int64_t c = 0; c < stride; c += kWidth) store(to + c, load(to + c) + load(from + c));
}

GEOTDM_INLINE void add_row(float* to, const float* from, float factor, int64_t stride) {
  for (int64_t c = 0; c < stride; c += kWidth) store(to + c, load(to + c) + load(from + c) * factor);
}

// weight . silu(z + bias) for one row: a last layer of one output.
GEOTDM_INLINE float silu_dot(const float* z, const float* bias, const float* weight, int64_t stride) {
  Vec total{};
  for_columns(stride, [&]<int N>(int64_t c, std::integral_constant<int, N>) GEOTDM_INLINE_LAMBDA {
    total += sum(silu(load<N>(z + c) + load<N>(bias + c)) * load<N>(weight + c));
  });
  return sum(total);
}

GEOTDM_INLINE float dot_row(const float* a, const float* b, int64_t stride) {
  Vec total{};
  for_columns(stride, [&]<int N>(int64_t c, std::integral_constant<int, N>)
                          GEOTDM_INLINE_LAMBDA { total += sum(load<N>(a + c) * load<N>(b + c)); });
  return sum(total);
}

}  // namespace geotdm::GEOTDM_ISA
