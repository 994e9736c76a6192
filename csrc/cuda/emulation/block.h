// Every name of block.cuh's device part on the host, so that kernels compile with a plain C++ compiler and run in
// tests.
//
// What a GPU would let pass or answer with garbage ends the launch: `launch` returns 1, and geotdm_emulation_report()
// says which kernel, block, thread and line. Link it into one library with -fvisibility=hidden.
#pragma once

#include <cmath>
#include <limits>
#include <typeinfo>

#include "launch.h"

#define GEOTDM_DEVICE inline
#define GEOTDM_ANYWHERE
#define GEOTDM_UNROLL
#define GEOTDM_UNROLL_TWICE
#define GEOTDM_UNROLL_FOUR_TIMES
#define GEOTDM_NO_UNROLL

namespace geotdm::cuda {

using Stream = void*;
using emulation::Place;

struct alignas(8) Float2 {
  float x, y;
};
struct alignas(16) Float4 {
  float x, y, z, w;
};

inline int thread_index() { return emulation::block.self; }
inline int block_threads() { return emulation::block.count(); }
inline int64_t block_index() { return emulation::block.x; }
inline int block_index_y() { return emulation::block.y; }

inline void sync_block(Place place = Place::here()) { emulation::block.sync_block(place); }
inline void sync_warp(Place place = Place::here()) { emulation::block.sync_warp(place); }

inline float shuffle_xor(float value, int mask, Place place = Place::here()) {
  struct Shuffle {
    float value;
    int mask;
    float result;
  } mine{value, mask, 0};
  emulation::block.meet_warp(emulation::Operation::kShuffleXor, &mine, place, [](auto of) {
    for (int lane = 0; lane < emulation::kWarp; ++lane) {
      auto to = static_cast<Shuffle*>(of(lane));
      to->result = static_cast<Shuffle*>(of((lane ^ to->mask) % emulation::kWarp))->value;
    }
    ++emulation::block.counts.shuffle;
  });
  return mine.result;
}

inline int anew(int value) { return value; }

template <class T>
struct Shared {
  int64_t at;  // in bytes
  Shared operator+(int offset) const { return {at + offset * int64_t(sizeof(T))}; }
  T load(int i = 0, Place place = Place::here()) const { return load_as<T>(i, place); }
  void store(int i, T value, Place place = Place::here()) const { store_as<T>(i, value, place); }
  template <class V>
  V load_as(int i, Place place = Place::here()) const {
    return emulation::shared.load<V>((*this + i).at, place);
  }
  template <class V>
  void store_as(int i, V value, Place place = Place::here()) const {
    emulation::shared.store<V>((*this + i).at, value, place);
  }
  template <class U>
  Shared<U> as() const {
    return {at};
  }
};

inline Shared<unsigned char> shared_memory() { return {0}; }

template <class T>
void copy_async(Shared<T> to, const void* from, bool inside, Place place = Place::here()) {
  emulation::shared.copy_async(to.at, from, inside, place);
}
inline void commit_copies() { emulation::shared.commit_copies(); }
template <int N>
void wait_copies() {
  emulation::shared.wait_copies(N);
}

inline void prefetch(const void*) {}

template <class T>
void load_matrices(uint32_t (&r)[4], Shared<T> row, Place place = Place::here()) {
  emulation::LoadMatrices mine{r, row.at};
  emulation::block.meet_warp(emulation::Operation::kLoadMatrices, &mine, place,
                             [=](auto of) { emulation::load_matrices(of, false, place); });
}
template <class T>
void load_matrices_transposed(uint32_t (&r)[4], Shared<T> row, Place place = Place::here()) {
  emulation::LoadMatrices mine{r, row.at};
  emulation::block.meet_warp(emulation::Operation::kLoadMatricesTransposed, &mine, place,
                             [=](auto of) { emulation::load_matrices(of, true, place); });
}

inline void mma_bf16(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], Place place = Place::here()) {
  emulation::MmaBf16 mine{c, a, b};
  emulation::block.meet_warp(emulation::Operation::kMmaBf16, &mine, place, [](auto of) { emulation::mma_bf16(of); });
}
inline void mma_tf32(float (&c)[4], const float (&a)[4], const float (&b)[2], Place place = Place::here()) {
  emulation::MmaTf32 mine{c, a, b};
  emulation::block.meet_warp(emulation::Operation::kMmaTf32, &mine, place, [](auto of) { emulation::mma_tf32(of); });
}

constexpr bool kHasWarpgroups = true;

inline void fence_for_products() { emulation::shared.fence_for_products(); }
template <int K>
void settle(uint32_t (&)[K][4]) {}
inline void start_products() { emulation::products.start_products(); }
inline void commit_products() { emulation::products.commit(); }
template <int N, int kUnits>
void wait_products(float (&c)[kUnits][4], Place place = Place::here()) {
  float* mine = c[0];
  emulation::block.meet_warp(emulation::Operation::kWaitProducts, &mine, place,
                             [=](auto of) { emulation::products.wait(of, N, place); });
}

constexpr int swizzled_piece(int row, int piece) { return 8 * row + (piece ^ row % 8); }
struct SwizzledMatrix {
  int64_t at;
  SwizzledMatrix operator+(int bytes) const { return {at + bytes}; }
};
inline SwizzledMatrix anew(SwizzledMatrix matrix) { return matrix; }
template <class T>
SwizzledMatrix swizzled_matrix(Shared<T> place) {
  return {place.at};
}
template <bool kAdd, int kUnits>
void multiply_async(float (&c)[kUnits][4], const uint32_t (&a)[4], SwizzledMatrix b, Place place = Place::here()) {
  static_assert(kUnits == 8 || kUnits == 16);
  emulation::Product mine{c[0], a, b.at, 8 * kUnits, kAdd};
  emulation::block.meet_warp(emulation::Operation::kMultiplyAsync, &mine, place,
                             [=](auto of) { emulation::products.multiply(of, place); });
}

inline uint32_t pack_bf16(float low, float high) { return emulation::to_bf16(low) | emulation::to_bf16(high) << 16; }
inline float low_bf16(uint32_t packed) { return emulation::from_bf16(packed & 0xffff); }
inline float high_bf16(uint32_t packed) { return emulation::from_bf16(packed >> 16); }
inline float round_tf32(float value) { return emulation::round_tf32(value); }

inline float multiply_rounded(float a, float b) {
  volatile float product = a * b;  // what is stored is not fused with what follows
  return product;
}
inline float finite(float value) { return std::fmin(std::fmax(value, -3e38f), 3e38f); }
inline uint32_t finite_pair(uint32_t packed) { return pack_bf16(finite(low_bf16(packed)), finite(high_bf16(packed))); }

// As far off as the instruction may be: 2^-11 of the value.
inline float tanh_approx(float value) {
  ++emulation::block.counts.tanh;
  return emulation::round_tf32(std::tanh(value));
}
inline float flush_subnormal(float value) {
  return std::abs(value) < std::numeric_limits<float>::min() ? std::copysign(0.f, value) : value;
}
inline float exp2_approx(float value) {
  ++emulation::block.counts.exp2;
  return flush_subnormal(std::exp2(flush_subnormal(value)));
}
inline float exp_exact(float value) {
  ++emulation::block.counts.exp;
  return std::exp(value);
}

inline int shared_limit() { return emulation::kMaxSharedBytes; }
inline const char* error_text(int) { return emulation::block.text.c_str(); }

inline int multiprocessors() { return 1; }

template <class Kernel>
bool has_warpgroups() {
  return emulation::has_warpgroups;
}

template <class Kernel>
int launch(const typename Kernel::Arguments& arguments, int64_t blocks_x, int blocks_y, int threads, int shared_bytes,
           Stream) {
  static_assert(Kernel::kThreads % emulation::kWarp == 0 && Kernel::kThreads <= emulation::kMaxThreads);
  static_assert(Kernel::kBlocks >= 1);
  static const typename Kernel::Arguments* given;
  given = &arguments;
  const auto entry = [] {
    Kernel::run(*given);
    emulation::shared.check_copies();
    emulation::products.check_end();
    emulation::block.end();
  };
  return emulation::launch(typeid(Kernel), threads, entry, blocks_x, blocks_y, shared_bytes);
}

}  // namespace geotdm::cuda
