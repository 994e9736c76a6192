#include "kernels.h"

#include <algorithm>
#include <cstdlib>
#include <stdexcept>
#include <string>

#include "radius_search.h"

#if defined(__x86_64__) && defined(__linux__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace geotdm {

namespace {

#if defined(GEOTDM_EMULATE)  // for tests: every file is compiled for any x86-64
#define GEOTDM_SUPPORTS(feature) true
#else
#define GEOTDM_SUPPORTS(feature) __builtin_cpu_supports(feature)
#endif

enum Isa { kBaseline, kAVX2, kAVX512, kAVX512BF16, kAMX };
constexpr const char* kNames[] = {"baseline", "avx2", "avx512", "avx512bf16", "amx"};

enum class AMX { kNone, kForbidden, kUsable };

// The tiles' 8 KB are kept for a process only after it has asked the kernel (Linux 5.16 or newer).
AMX amx() {
#if defined(GEOTDM_EMULATE)
  return AMX::kUsable;
#elif defined(__x86_64__) && defined(__linux__)
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  constexpr unsigned kBF16 = 1u << 22, kTiles = 1u << 24;
  if (!__get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) || !(edx & kBF16) || !(edx & kTiles)) return AMX::kNone;
  constexpr long kRequestPermission = 0x1023, kTileData = 18;  // ARCH_REQ_XCOMP_PERM of asm/prctl.h
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0 ? AMX::kUsable : AMX::kForbidden;
#else
  return AMX::kNone;
#endif
}

Isa widest() {
#if defined(__x86_64__)
  if (!GEOTDM_SUPPORTS("avx2") || !GEOTDM_SUPPORTS("fma")) return kBaseline;
  if (!GEOTDM_SUPPORTS("avx512f") || !GEOTDM_SUPPORTS("avx512vl") || !GEOTDM_SUPPORTS("avx512dq") ||
      !GEOTDM_SUPPORTS("avx512bw"))
    return kAVX2;
  if (!GEOTDM_SUPPORTS("avx512bf16")) return kAVX512;
  switch (amx()) {
    case AMX::kUsable:
      return kAMX;
    case AMX::kForbidden:  // these processors have AVX512_BF16 too, at half the rate of float32
      return kAVX512;
    case AMX::kNone:
      return kAVX512BF16;
  }
#endif
  return kBaseline;
}

Isa choose() {
  const char* variable = std::getenv("GEOTDM_CPU_ISA");
  const std::string wanted = variable ? variable : "";
  if (wanted.empty()) return widest();
  for (int isa = kBaseline; isa <= kAMX; ++isa)
    if (wanted == kNames[isa]) return std::min(Isa(isa), widest());
  throw std::invalid_argument("GEOTDM_CPU_ISA must be baseline, avx2, avx512, avx512bf16 or amx, got " + wanted);
}

Isa chosen() {
  static const Isa isa = choose();
  return isa;
}

}  // namespace

const Kernels& kernels(bool low_precision) {
  const Isa isa = chosen();
#if defined(__x86_64__)
  if (isa == kAMX && low_precision) return kernels_amx;
  if (isa == kAVX512BF16 && low_precision) return kernels_avx512bf16;
  if (isa >= kAVX512) return kernels_avx512;
  if (isa == kAVX2) return kernels_avx2;
#endif
  static_cast<void>(low_precision);
  return kernels_baseline;
}

const RadiusSearch& radius_search() {
#if defined(__x86_64__)
  if (chosen() >= kAVX512) return radius_search_avx512;
  if (chosen() == kAVX2) return radius_search_avx2;
#endif
  return radius_search_baseline;
}

}  // namespace geotdm
