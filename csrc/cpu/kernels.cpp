#include "kernels.h"

#include <algorithm>
#include <cstdlib>
#include <stdexcept>
#include <string>

namespace geotdm {

namespace {

#if defined(GEOTDM_EMULATE)  // for tests: every file is compiled for any x86-64
#define GEOTDM_SUPPORTS(feature) true
#else
#define GEOTDM_SUPPORTS(feature) __builtin_cpu_supports(feature)
#endif

enum Isa { kBaseline, kAVX2, kAVX512, kAVX512BF16 };

Isa widest() {
#if defined(__x86_64__)
  if (!GEOTDM_SUPPORTS("avx2") || !GEOTDM_SUPPORTS("fma")) return kBaseline;
  if (!GEOTDM_SUPPORTS("avx512f") || !GEOTDM_SUPPORTS("avx512vl") || !GEOTDM_SUPPORTS("avx512dq") ||
      !GEOTDM_SUPPORTS("avx512bw"))
    return kAVX2;
  return GEOTDM_SUPPORTS("avx512bf16") ? kAVX512BF16 : kAVX512;
#else
  return kBaseline;
#endif
}

Isa choose() {
  const char* variable = std::getenv("GEOTDM_CPU_ISA");
  const std::string wanted = variable ? variable : "";
  if (wanted.empty()) return widest();
  const char* names[] = {"baseline", "avx2", "avx512", "avx512bf16"};
  for (int isa = kBaseline; isa <= kAVX512BF16; ++isa)
    if (wanted == names[isa]) return std::min(Isa(isa), widest());
  throw std::invalid_argument("GEOTDM_CPU_ISA must be baseline, avx2, avx512 or avx512bf16, got " + wanted);
}

}  // namespace

const Kernels& kernels(bool low_precision) {
  static const Isa isa = choose();
#if defined(__x86_64__)
  if (isa == kAVX512BF16 && low_precision) return kernels_avx512bf16;
  if (isa >= kAVX512) return kernels_avx512;
  if (isa == kAVX2) return kernels_avx2;
#endif
  static_cast<void>(low_precision);
  return kernels_baseline;
}

}  // namespace geotdm
