// Operations on tiles of rows in cache, between the matrix products.
#pragma once

#include "gemm.h"

namespace geotdm::GEOTDM_ISA {

// Cuts arrays off a thread's scratch memory.
struct Scratch {
  float* next;
  GEOTDM_INLINE float* take(int64_t count) {
    float* taken = next;
    next += (count + 15) / 16 * 16;
    return taken;
  }
};

GEOTDM_INLINE int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }
GEOTDM_INLINE int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }

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

inline void add_bias(float* z, const float* bias, int64_t rows, int64_t stride) {
  for (int64_t r = 0; r < rows; ++r, z += stride)
    for (int64_t c = 0; c < stride; c += kWidth) store(z + c, load(z + c) + load(bias + c));
}

// z becomes silu(z + bias).
inline void bias_silu(float* z, const float* bias, int64_t rows, int64_t stride) {
  for (int64_t r = 0; r < rows; ++r, z += stride)
    for (int64_t c = 0; c < stride; c += kWidth) store(z + c, silu(load(z + c) + load(bias + c)));
}

// The same, keeping the slope of silu for the way back.
inline void bias_silu_slope(float* z, float* slope, const float* bias, int64_t rows, int64_t stride) {
  for (int64_t r = 0; r < rows; ++r, z += stride, slope += stride)
    for (int64_t c = 0; c < stride; c += kWidth) {
      Vec s;
      store(z + c, silu_and_slope(load(z + c) + load(bias + c), s));
      store(slope + c, s);
    }
}

// z *= slope, and total += sum over rows of the product: a gradient through an activation, and its bias's. A tile is
// summed apart first: fewer roundings than adding every row to the total.
inline void scale_and_total(float* z, const float* slope, float* total, int64_t rows, int64_t stride) {
  for (int64_t c = 0; c < stride; c += kWidth) {
    Vec sum{};
    for (int64_t r = 0; r < rows; ++r) {
      const Vec v = load(z + r * stride + c) * load(slope + r * stride + c);
      store(z + r * stride + c, v);
      sum += v;
    }
    store(total + c, load(total + c) + sum);
  }
}

inline void add_total(const float* z, float* total, int64_t rows, int64_t stride) {
  for (int64_t c = 0; c < stride; c += kWidth) {
    Vec sum{};
    for (int64_t r = 0; r < rows; ++r) sum += load(z + r * stride + c);
    store(total + c, load(total + c) + sum);
  }
}

GEOTDM_INLINE void add_row(float* to, const float* from, int64_t stride) {
  for (int64_t c = 0; c < stride; c += kWidth) store(to + c, load(to + c) + load(from + c));
}

GEOTDM_INLINE float dot_row(const float* a, const float* b, int64_t stride) {
  Vec total{};
  for (int64_t c = 0; c < stride; c += kWidth) total += load(a + c) * load(b + c);
  return sum(total);
}

}  // namespace geotdm::GEOTDM_ISA
