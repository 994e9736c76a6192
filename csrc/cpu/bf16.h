// Pairs of bfloat16 numbers in the lanes of a vector of floats, by AVX512_BF16. With GEOTDM_EMULATE the same is
// computed without it, for tests: products of two bfloat16 are exact in float32, so only the order of the two sums has
// to be the instruction's. (It also takes numbers below 2^-126 as zero.)
#pragma once

#include "simd.h"

#if defined(__AVX512BF16__)
#include <immintrin.h>
#elif !defined(GEOTDM_EMULATE)
#error "compile with -mavx512bf16"
#endif

namespace geotdm::GEOTDM_ISA {

typedef int32_t Pair __attribute__((may_alias));  // the earlier number in the low half
typedef VecInt Pairs;
typedef int32_t UnalignedPairs __attribute__((vector_size(kWidth * 4), aligned(4), may_alias));
typedef uint32_t VecBits __attribute__((vector_size(kWidth * 4)));

GEOTDM_INLINE Pairs load_pairs(const void* p) { return *static_cast<const UnalignedPairs*>(p); }
GEOTDM_INLINE void store(void* p, Pairs v) { *static_cast<UnalignedPairs*>(p) = v; }

#if defined(__AVX512BF16__)

static_assert(kWidth == 16);

// (x0, x1), (x2, x3), ... of the 2 kWidth numbers of two vectors.
GEOTDM_INLINE Pairs pairs_in_order(Vec first, Vec second) { return (Pairs)_mm512_cvtne2ps_pbh(second, first); }

// (low0, high0), (low1, high1), ...
GEOTDM_INLINE Pairs pairs_across(Vec low, Vec high) {
  const __m512i order = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6, 21,
                                         5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
  return (Pairs)_mm512_permutexvar_epi16(order, (__m512i)_mm512_cvtne2ps_pbh(high, low));
}

// sum + a.high b.high + a.low b.low, rounded after each addition, in this order.
GEOTDM_INLINE Vec add_pair_products(Vec sum, Pairs a, Pairs b) {
  return _mm512_dpbf16_ps(sum, (__m512bh)a, (__m512bh)b);
}

// The first `count` floats, zeros after them; nothing behind them is read.
GEOTDM_INLINE Vec load_first(const float* p, int64_t count) {
  if (count >= kWidth) return load(p);
  return _mm512_maskz_loadu_ps(count > 0 ? (1u << count) - 1 : 0, p);
}

#else

// To the nearest, half to even, in the high half of each lane; NaN stays NaN.
GEOTDM_INLINE VecBits rounded_bits(Vec v) {
  VecBits bits;
  std::memcpy(&bits, &v, sizeof bits);
  const VecBits nan = (VecBits)(v != v);
  return (~nan & (bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000) | (nan & ((bits & 0xFFFF0000) | 0x400000));
}

GEOTDM_INLINE Pairs pairs_across(Vec low, Vec high) { return (Pairs)((rounded_bits(low) >> 16) | rounded_bits(high)); }

GEOTDM_INLINE Pairs pairs_in_order(Vec first, Vec second) {
  Vec low, high;
  for (int i = 0; i < kWidth / 2; ++i) {
    low[i] = first[2 * i], high[i] = first[2 * i + 1];
    low[kWidth / 2 + i] = second[2 * i], high[kWidth / 2 + i] = second[2 * i + 1];
  }
  return pairs_across(low, high);
}

GEOTDM_INLINE Vec low_numbers(Pairs p) { return (Vec)((VecBits)p << 16); }
GEOTDM_INLINE Vec high_numbers(Pairs p) { return (Vec)((VecBits)p & 0xFFFF0000); }
GEOTDM_INLINE Vec add_pair_products(Vec sum, Pairs a, Pairs b) {
  sum += high_numbers(a) * high_numbers(b);
  return sum + low_numbers(a) * low_numbers(b);
}

GEOTDM_INLINE Vec load_first(const float* p, int64_t count) {
  Vec v{};
  for (int i = 0; i < kWidth; ++i)
    if (i < count) v[i] = p[i];
  return v;
}

#endif

}  // namespace geotdm::GEOTDM_ISA
