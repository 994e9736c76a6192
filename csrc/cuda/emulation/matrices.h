// The instructions of a whole warp on matrices, and the formats of their numbers, as the PTX ISA has them ("Matrix
// fragments for mma.m16n8k16 with floating point type", "... mma.m16n8k8", "ldmatrix").
#pragma once

#include <algorithm>

#include "shared_memory.h"

namespace geotdm::emulation {

inline float from_bf16(uint32_t bits) { return std::bit_cast<float>(bits << 16); }

// To nearest even; every NaN is the same one.
inline uint32_t to_bf16(float value) {
  const auto bits = std::bit_cast<uint32_t>(value);
  if (value != value) return 0x7fff;
  return (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
}

// To nearest, ties away from zero.
inline float round_tf32(float value) {
  if (value != value) return std::bit_cast<float>(0x7fffffff);
  return std::bit_cast<float>((std::bit_cast<uint32_t>(value) + 0x1000) & ~0x1fffu);
}
inline float truncate_tf32(float value) { return std::bit_cast<float>(std::bit_cast<uint32_t>(value) & ~0x1fffu); }

struct LoadMatrices {
  uint32_t* r;  // [4]
  int64_t row;
};

template <class ArgumentOf>
void load_matrices(ArgumentOf of, bool transposed, Place place) {
  const int warp = block.self / kWarp * kWarp;
  for (int matrix = 0; matrix < 4; ++matrix) {
    uint16_t m[8][8];
    int rows_in_bank[8] = {}, most = 0;  // eight groups of four banks
    for (int row = 0; row < 8; ++row) {
      const int lane = 8 * matrix + row;
      const int64_t at = static_cast<LoadMatrices*>(of(lane))->row;
      const auto bytes = shared.load_row(at, warp + lane, place, [&](int column) {
        return warp + (transposed ? 4 * column + row / 2 : 4 * row + column / 2);
      });
      std::memcpy(m[row], bytes, sizeof m[row]);
      most = std::max(most, ++rows_in_bank[at / 16 % 8]);
    }
    block.counts.bank_conflicts += most - 1;
    for (int lane = 0; lane < kWarp; ++lane) {
      const int i = lane / 4, j = lane % 4 * 2;
      const uint32_t low = transposed ? m[j][i] : m[i][j], high = transposed ? m[j + 1][i] : m[i][j + 1];
      static_cast<LoadMatrices*>(of(lane))->r[matrix] = low | high << 16;
    }
  }
  ++block.counts.load_matrices;
}

template <class Number>
struct Mma {
  float* c;             // [4]
  const Number *a, *b;  // [4], [2]
};

// c += a b; the products are exact in float32, and added in the order of k.
template <int K>
void multiply(float (&c)[16][8], const float (&a)[16][K], const float (&b)[K][8]) {
  for (int i = 0; i < 16; ++i)
    for (int k = 0; k < K; ++k)
      for (int j = 0; j < 8; ++j) c[i][j] += a[i][k] * b[k][j];
}

// Runs body(lane's argument, lane / 4, lane % 4) for every lane.
template <class Argument, class ArgumentOf, class Body>
void for_lanes(ArgumentOf of, Body body) {
  for (int lane = 0; lane < kWarp; ++lane) body(*static_cast<Argument*>(of(lane)), lane / 4, lane % 4);
}

template <class Argument, class ArgumentOf, int K>
void multiply_fragments(ArgumentOf of, const float (&a)[16][K], const float (&b)[K][8]) {
  float c[16][8];
  for_lanes<Argument>(of, [&](Argument& lane, int g, int t) {
    for (int i = 0; i < 4; ++i) c[g + i / 2 * 8][2 * t + i % 2] = lane.c[i];
  });
  multiply(c, a, b);
  for_lanes<Argument>(of, [&](Argument& lane, int g, int t) {
    for (int i = 0; i < 4; ++i) lane.c[i] = c[g + i / 2 * 8][2 * t + i % 2];
  });
}

using MmaBf16 = Mma<uint32_t>;
template <class ArgumentOf>
void mma_bf16(ArgumentOf of) {
  float a[16][16], b[16][8];
  for_lanes<MmaBf16>(of, [&](MmaBf16& lane, int g, int t) {
    for (int half = 0; half < 2; ++half) {
      for (int i = 0; i < 4; ++i)
        a[g + i % 2 * 8][2 * t + i / 2 * 8 + half] = from_bf16(lane.a[i] >> 16 * half & 0xffff);
      for (int i = 0; i < 2; ++i) b[2 * t + i * 8 + half][g] = from_bf16(lane.b[i] >> 16 * half & 0xffff);
    }
  });
  multiply_fragments<MmaBf16>(of, a, b);
  ++block.counts.mma_bf16;
}

using MmaTf32 = Mma<float>;
template <class ArgumentOf>
void mma_tf32(ArgumentOf of) {
  float a[16][8], b[8][8];
  for_lanes<MmaTf32>(of, [&](MmaTf32& lane, int g, int t) {
    for (int i = 0; i < 4; ++i) a[g + i % 2 * 8][t + i / 2 * 4] = truncate_tf32(lane.a[i]);
    for (int i = 0; i < 2; ++i) b[t + i * 4][g] = truncate_tf32(lane.b[i]);
  });
  multiply_fragments<MmaTf32>(of, a, b);
  ++block.counts.mma_tf32;
}

}  // namespace geotdm::emulation
