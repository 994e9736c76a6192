#include "kernels.h"

#include <cstdlib>
#include <stdexcept>
#include <string>

namespace geotdm {

namespace {

bool has_avx2() {
#if defined(__x86_64__)
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
#else
  return false;
#endif
}

bool has_avx512() {
#if defined(__x86_64__)
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512bw");
#else
  return false;
#endif
}

const Kernels& choose() {
  const char* variable = std::getenv("GEOTDM_CPU_ISA");
  const std::string wanted = variable ? variable : "";
  if (!wanted.empty() && wanted != "baseline" && wanted != "avx2" && wanted != "avx512")
    throw std::invalid_argument("GEOTDM_CPU_ISA must be baseline, avx2 or avx512, got " + wanted);
#if defined(__x86_64__)
  if ((wanted.empty() || wanted == "avx512") && has_avx512()) return kernels_avx512;
  if (wanted != "baseline" && has_avx2()) return kernels_avx2;
#endif
  return kernels_baseline;
}

}  // namespace

const Kernels& kernels() {
  static const Kernels& chosen = choose();
  return chosen;
}

}  // namespace geotdm
