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

#ifdef __AVX2__
#include <immintrin.h>
#endif

#define GEOTDM_INLINE inline __attribute__((always_inline))
#define GEOTDM_INLINE_LAMBDA __attribute__((always_inline))

namespace geotdm::GEOTDM_ISA {

constexpr int kWidth = GEOTDM_WIDTH;  // floats in a vector

GEOTDM_INLINE int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }
GEOTDM_INLINE int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }

typedef float Vec __attribute__((vector_size(kWidth * 4)));
typedef int32_t VecInt __attribute__((vector_size(kWidth * 4)));
typedef float UnalignedVec __attribute__((vector_size(kWidth * 4), aligned(4), may_alias));

GEOTDM_INLINE Vec load(const float* p) { return *reinterpret_cast<const UnalignedVec*>(p); }
GEOTDM_INLINE void store(float* p, Vec v) { *reinterpret_cast<UnalignedVec*>(p) = v; }
// Not 0 + value: that turns -0 into 0, so it costs an addition.
GEOTDM_INLINE Vec splat(float value) { return value - Vec{}; }

// By halves: the shortest chain of additions.
template <int W = kWidth>
GEOTDM_INLINE float sum(const float* p) {
  if constexpr (W == 1) {
    return *p;
  } else {
    float half[W / 2];
#pragma GCC unroll 8
    for (int i = 0; i < W / 2; ++i) half[i] = p[i] + p[i + W / 2];
    return sum<W / 2>(half);
  }
}
GEOTDM_INLINE float sum(Vec v) {
  float p[kWidth];
  std::memcpy(p, &v, sizeof p);
  return sum<>(p);
}

// The greatest of numbers of which none is NaN.
GEOTDM_INLINE float greatest(Vec v) {
  float p[kWidth];
  std::memcpy(p, &v, sizeof p);
#pragma GCC unroll 4
  for (int half = kWidth / 2; half > 0; half /= 2)
#pragma GCC unroll 8
    for (int i = 0; i < half; ++i) p[i] = p[i] > p[i + half] ? p[i] : p[i + half];
  return p[0];
}

// a if it is below (above) b, else b: a NaN in b stays, as minps and maxps have it.
GEOTDM_INLINE Vec min(Vec a, Vec b) {
#if defined(__AVX512F__)
  return Vec(_mm512_maskz_min_ps(-1, __m512(a), __m512(b)));
#elif defined(__AVX2__) && GEOTDM_WIDTH == 8
  return Vec(_mm256_min_ps(__m256(a), __m256(b)));
#else
  return a < b ? a : b;
#endif
}
GEOTDM_INLINE Vec max(Vec a, Vec b) {
#if defined(__AVX512F__)
  return Vec(_mm512_maskz_max_ps(-1, __m512(a), __m512(b)));
#elif defined(__AVX2__) && GEOTDM_WIDTH == 8
  return Vec(_mm256_max_ps(__m256(a), __m256(b)));
#else
  return a > b ? a : b;
#endif
}

// 2^n p, where the low bits of `biased` hold n, and neither p nor the result is beyond what a normal float holds.
GEOTDM_INLINE Vec scale_by_power(Vec p, Vec biased) {
  VecInt n, bits;
  std::memcpy(&n, &biased, sizeof n);
  std::memcpy(&bits, &p, sizeof bits);
  bits += n << 23;
  std::memcpy(&p, &bits, sizeof p);
  return p;
}

// N vectors, computed side by side: exp is a chain of dependent steps, and one vector alone leaves the units idle.
template <int N>
struct Batch {
  Vec v[N];
};

template <int N, typename F>
GEOTDM_INLINE Batch<N> each(F f) {
  Batch<N> out;
#pragma GCC unroll 8
  for (int i = 0; i < N; ++i) out.v[i] = f(i);
  return out;
}

template <int N>
GEOTDM_INLINE Batch<N> load(const float* p) {
  return each<N>([&](int i) GEOTDM_INLINE_LAMBDA { return load(p + i * kWidth); });
}
template <int N>
GEOTDM_INLINE void store(float* p, const Batch<N>& a) {
#pragma GCC unroll 8
  for (int i = 0; i < N; ++i) store(p + i * kWidth, a.v[i]);
}

#define GEOTDM_OPERATOR(op)                                                       \
  template <int N>                                                                \
  GEOTDM_INLINE Batch<N> operator op(const Batch<N>& a, const Batch<N>& b) {      \
    return each<N>([&](int i) GEOTDM_INLINE_LAMBDA { return a.v[i] op b.v[i]; }); \
  }                                                                               \
  template <int N>                                                                \
  GEOTDM_INLINE Batch<N> operator op(const Batch<N>& a, float b) {                \
    return each<N>([&](int i) GEOTDM_INLINE_LAMBDA { return a.v[i] op b; });      \
  }                                                                               \
  template <int N>                                                                \
  GEOTDM_INLINE Batch<N> operator op(float a, const Batch<N>& b) {                \
    return each<N>([&](int i) GEOTDM_INLINE_LAMBDA { return a op b.v[i]; });      \
  }
GEOTDM_OPERATOR(+)
GEOTDM_OPERATOR(-)
GEOTDM_OPERATOR(*)
GEOTDM_OPERATOR(/)
#undef GEOTDM_OPERATOR

template <int N>
GEOTDM_INLINE Vec sum(const Batch<N>& a) {
  Vec total = a.v[0];
#pragma GCC unroll 8
  for (int i = 1; i < N; ++i) total += a.v[i];
  return total;
}
template <int N>
GEOTDM_INLINE Batch<N> min(const Batch<N>& a, const Batch<N>& b) {
  return each<N>([&](int i) GEOTDM_INLINE_LAMBDA { return min(a.v[i], b.v[i]); });
}
template <int N>
GEOTDM_INLINE Batch<N> max(const Batch<N>& a, const Batch<N>& b) {
  return each<N>([&](int i) GEOTDM_INLINE_LAMBDA { return max(a.v[i], b.v[i]); });
}
template <int N>
GEOTDM_INLINE Batch<N> scale_by_power(const Batch<N>& p, const Batch<N>& biased) {
  return each<N>([&](int i) GEOTDM_INLINE_LAMBDA { return scale_by_power(p.v[i], biased.v[i]); });
}
template <int N>
GEOTDM_INLINE Batch<N> splat(float value) {
  return each<N>([&](int) GEOTDM_INLINE_LAMBDA { return splat(value); });
}

}  // namespace geotdm::GEOTDM_ISA
