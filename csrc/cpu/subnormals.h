// Numbers below 2^-126, which processors take a hundred times as long for: a softmax and silu far from zero make many.
#pragma once

#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

#include "simd.h"

namespace geotdm::GEOTDM_ISA {

// While it lives, its thread takes them as zero, in what it reads and in what it computes.
class FlushSubnormals {
#if defined(__x86_64__)
 public:
  GEOTDM_INLINE FlushSubnormals() : before_(_mm_getcsr()) { _mm_setcsr(before_ | kFlushToZero | kTakenAsZero); }
  GEOTDM_INLINE ~FlushSubnormals() { _mm_setcsr(before_); }
  FlushSubnormals(const FlushSubnormals&) = delete;
  FlushSubnormals& operator=(const FlushSubnormals&) = delete;

 private:
  static constexpr unsigned kFlushToZero = 0x8000, kTakenAsZero = 0x0040;
  unsigned before_;
#endif
};

}  // namespace geotdm::GEOTDM_ISA
