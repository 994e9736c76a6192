// The launch of a grid, block after block, and what a test may ask afterwards.
#pragma once

#include <cxxabi.h>

#include <typeinfo>

#include "warpgroups.h"

namespace geotdm::emulation {

// The limits of compute capability 8.0 and above.
constexpr int kMaxSharedBytes = 227 * 1024, kMaxBlocksY = 65535;
constexpr int64_t kMaxBlocksX = 2147483647;

inline bool has_warpgroups = true;

inline std::string readable_name(const std::type_info& type) {
  int status;
  char* demangled = abi::__cxa_demangle(type.name(), nullptr, nullptr, &status);
  std::string name = status == 0 ? demangled : type.name();
  std::free(demangled);
  return name;
}

// 0, or 1 if there is a report.
inline int launch(const std::type_info& kernel, int threads, void (*entry)(), int64_t blocks_x, int blocks_y,
                  int shared_bytes) {
  block.text.clear();
  const std::string name = readable_name(kernel);
  if (blocks_x < 0 || blocks_x > kMaxBlocksX || blocks_y < 0 || blocks_y > kMaxBlocksY || shared_bytes < 0 ||
      shared_bytes > kMaxSharedBytes) {
    block.text = name + ": no GPU launches " + std::to_string(blocks_x) + " x " + std::to_string(blocks_y) +
                 " blocks of " + std::to_string(shared_bytes) + " bytes of shared memory";
    return 1;
  }
  const int64_t blocks = blocks_x * blocks_y;
  for (int64_t i = 0; i < blocks; ++i) {
    const int64_t index = block.order == Order::kForward ? i : blocks - 1 - i;
    block.x = index % blocks_x;
    block.y = static_cast<int>(index / blocks_x);
    shared.start(shared_bytes, threads);
    products.start(threads);
    if (!block.run(name.c_str(), threads, entry)) return 1;
  }
  return 0;
}

}  // namespace geotdm::emulation

#define GEOTDM_EMULATION_FUNCTION extern "C" __attribute__((visibility("default"), used)) inline

// What went wrong in the last launch, or an empty text.
GEOTDM_EMULATION_FUNCTION const char* geotdm_emulation_report() { return geotdm::emulation::block.text.c_str(); }

// In which order threads and blocks run from now on; numbers that change with it show a race.
GEOTDM_EMULATION_FUNCTION void geotdm_emulation_order(geotdm::emulation::Order order, uint32_t seed) {
  geotdm::emulation::block.order = order;
  geotdm::emulation::block.seed = seed;
}

// Whether the GPU is one of compute capability 9.0 from now on, as it is at first.
GEOTDM_EMULATION_FUNCTION void geotdm_emulation_has_warpgroups(bool has) { geotdm::emulation::has_warpgroups = has; }

// The events since the last call.
GEOTDM_EMULATION_FUNCTION void geotdm_emulation_take_counts(geotdm::emulation::Counts* counts) {
  *counts = geotdm::emulation::block.counts;
  geotdm::emulation::block.counts = {};
}
