// Vectors of floats in the width of the instruction set that this file is compiled for, and the functions on them.
//
// Every kernel file is compiled once for each instruction set, in a namespace of its own (GEOTDM_ISA); kernels.cpp
// chooses at run time. Nothing here may call a function that the linker could take from another of those copies.
#pragma once

#include <cstdint>
#include <cstring>

#ifndef GEOTDM_ISA
#error "compile through a kernels_*.cpp file, which defines GEOTDM_ISA and GEOTDM_WIDTH"
#endif

#define GEOTDM_INLINE inline __attribute__((always_inline))

namespace geotdm::GEOTDM_ISA {

constexpr int kWidth = GEOTDM_WIDTH;  // floats in a vector

typedef float Vec __attribute__((vector_size(kWidth * 4)));
typedef int32_t VecInt __attribute__((vector_size(kWidth * 4)));
typedef float UnalignedVec __attribute__((vector_size(kWidth * 4), aligned(4), may_alias));

GEOTDM_INLINE Vec load(const float* p) { return *reinterpret_cast<const UnalignedVec*>(p); }
GEOTDM_INLINE void store(float* p, Vec v) { *reinterpret_cast<UnalignedVec*>(p) = v; }
GEOTDM_INLINE Vec splat(float value) { return Vec{} + value; }

GEOTDM_INLINE float sum(Vec v) {
  float total = 0;
  for (int i = 0; i < kWidth; ++i) total += v[i];
  return total;
}

// exp(x) to 2 ulp for |x| <= 87, clamped outside: 2^n exp(r) with |r| <= ln(2) / 2, exp(r) by a polynomial (Cephes).
GEOTDM_INLINE Vec exp(Vec x) {
  const Vec high = splat(87.0f), low = splat(-87.0f);
  x = x > high ? high : x;
  x = x < low ? low : x;
  const Vec shift = splat(12582912.0f);  // 1.5 * 2^23: adding it rounds to the nearest integer
  const Vec biased = x * 1.44269504088896341f + shift;
  const Vec n = biased - shift;
  Vec r = x - n * 0.693359375f;
  r = r + n * 2.12194440e-4f;
  Vec p = splat(1.9875691500e-4f);
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * (r * r) + r + 1.0f;
  VecInt bits;
  std::memcpy(&bits, &biased, sizeof bits);
  bits = (bits + 127) << 23;  // the low bits of `biased` hold n
  Vec scale;
  std::memcpy(&scale, &bits, sizeof scale);
  return p * scale;
}

GEOTDM_INLINE Vec sigmoid(Vec x) { return 1.0f / (1.0f + exp(-x)); }
GEOTDM_INLINE Vec silu(Vec x) { return x * sigmoid(x); }

// d silu / dx = s (1 + x (1 - s)), s = sigmoid(x); returns silu(x) beside it.
GEOTDM_INLINE Vec silu_and_slope(Vec x, Vec& slope) {
  const Vec s = sigmoid(x);
  slope = s * (1.0f + x * (1.0f - s));
  return x * s;
}

}  // namespace geotdm::GEOTDM_ISA
