// The functions of single numbers between the matrix products: exp, and silu with its slope.
#pragma once

#include "simd.h"

namespace geotdm::GEOTDM_ISA {

constexpr float kShift = 12582912.0f;  // 1.5 * 2^23: adding it rounds to the nearest integer

// exp(x) to 2 ulp for |x| <= 87, clamped outside: 2^n exp(r) with |r| <= ln(2) / 2, exp(r) by a polynomial.
template <int N>
GEOTDM_INLINE Batch<N> exp(Batch<N> x) {
  x = max(splat<N>(-87.0f), min(splat<N>(87.0f), x));
  const Batch<N> biased = x * 1.44269504088896341f + kShift;
  const Batch<N> n = biased - kShift;
  Batch<N> r = x - n * 0.693359375f;  // ln(2) in two parts, the first of few bits
  r = r + n * 2.12194440e-4f;
  Batch<N> p = r * 1.3814598788e-3f + 8.3687165752e-3f;  // degree 6, fitted to 4e-9 of exp(r)
  p = p * r + 4.1668388993e-2f;
  p = p * r + 1.6666521132e-1f;
  p = p * r + 4.9999994040e-1f;
  p = p * r + 1.0f;
  p = p * r + 1.0f;
  return scale_by_power(p, biased);
}

// exp(-x), clamped for |x| > 87.
#if defined(__FMA__)
// In eight products and sums of products in place of ten, so that silu is right to 4 ulp in place of 2: f is -x / ln(2)
// less its integer, which a product that is rounded with its sum alone leaves exact.
template <int N>
GEOTDM_INLINE Batch<N> exp_of_negative(Batch<N> x) {
  constexpr float kPerOne = -1.44269504088896341f;
  constexpr float kRest = -1.44269504088896341 - kPerOne;
  x = max(splat<N>(-87.0f), min(splat<N>(87.0f), x));
  const Batch<N> biased = x * kPerOne + kShift;
  const Batch<N> f = x * kRest + (x * kPerOne - (biased - kShift));
  Batch<N> p = f * 1.3276472e-3f + 9.6755415e-3f;  // degree 5, fitted to 7.5e-8 of 2^f for |f| <= 1/2
  p = p * f + 5.5507133e-2f;
  p = p * f + 2.4022120e-1f;
  p = p * f + 6.9314697e-1f;
  p = p * f + 1.0000001f;
  return scale_by_power(p, biased);
}
#else
template <int N>
GEOTDM_INLINE Batch<N> exp_of_negative(const Batch<N>& x) {
  return exp(-1.0f * x);
}
#endif

// 2^y to 3e-6 of it, where factors of products are rounded to 2^-9 of them.
template <int N>
GEOTDM_INLINE Batch<N> exp2_low_precision(Batch<N> y) {
  y = max(splat<N>(-125.0f), min(splat<N>(125.0f), y));
  const Batch<N> biased = y + kShift, f = y - (biased - kShift);
  Batch<N> p = f * 0.00957011f + 0.0559179f;  // degree 4, fitted for |f| <= 1/2
  p = p * f + 0.24024745f;
  p = p * f + 0.69312181f;
  p = p * f + 0.99999926f;
  return scale_by_power(p, biased);
}

// x / (1 + exp(-x)) and 1 / (1 + exp(-x)).
#if defined(GEOTDM_LOW_PRECISION) && defined(__AVX512F__)
template <int N>
GEOTDM_INLINE Batch<N> sigmoid(const Batch<N>& x) {
  // The reciprocal to 2^-14: a division takes as long as all the rest.
  const Batch<N> v = 1.0f + exp2_low_precision(-1.44269504088896341f * x);
  return each<N>([&](int i) GEOTDM_INLINE_LAMBDA { return Vec(_mm512_maskz_rcp14_ps(-1, v.v[i])); });
}
template <int N>
GEOTDM_INLINE Batch<N> silu(const Batch<N>& x) {
  return x * sigmoid(x);
}
#else
template <int N>
GEOTDM_INLINE Batch<N> sigmoid(const Batch<N>& x) {
  return 1.0f / (1.0f + exp_of_negative(x));
}
template <int N>
GEOTDM_INLINE Batch<N> silu(const Batch<N>& x) {
  return x / (1.0f + exp_of_negative(x));
}
#endif

// d silu / dx = s (1 + x (1 - s)), s the sigmoid of x; returns silu(x) beside it.
template <int N>
GEOTDM_INLINE Batch<N> silu_and_slope(const Batch<N>& x, Batch<N>& slope) {
  const Batch<N> s = sigmoid(x), value = x * s;
  slope = s + value * (1.0f - s);
  return value;
}

}  // namespace geotdm::GEOTDM_ISA
