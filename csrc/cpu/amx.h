// The eight tile registers of AMX: 16 rows of 16 floats, or of 16 pairs of bfloat16 numbers. With GEOTDM_EMULATE the
// same is computed without them, for tests: a tile's products are summed apart, those of the earlier and of the later
// numbers of the pairs each in a chain of fused additions, then both are added, then the tile's. (The instruction also
// takes numbers below 2^-126 as zero.)
#pragma once

#include "bf16.h"

namespace geotdm::GEOTDM_ISA {

constexpr int64_t kTile = 16;
static_assert(kWidth == kTile);

#if !defined(GEOTDM_EMULATE)

// A thread has tiles from here to the end of the object's life.
class Tiles {
 public:
  GEOTDM_INLINE Tiles() {
    struct alignas(64) {
      uint8_t palette = 1, start_row = 0, reserved[14] = {};
      uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
      uint8_t rows[16] = {kTile, kTile, kTile, kTile, kTile, kTile, kTile, kTile};
    } const layout;
    static_assert(sizeof layout == 64);
    asm volatile("ldtilecfg %0" ::"m"(layout));
  }
  GEOTDM_INLINE ~Tiles() { asm volatile("tilerelease"); }
  Tiles(const Tiles&) = delete;
  Tiles& operator=(const Tiles&) = delete;
};

// Written out: the compilers' own functions do not all say that memory is read and written.
template <int TILE>
GEOTDM_INLINE void clear_tile() {
  asm volatile("tilezero %%tmm%c0" ::"i"(TILE));
}
// Rows `stride` numbers of four bytes apart.
template <int TILE>
GEOTDM_INLINE void load_tile(const void* p, int64_t stride) {
  asm volatile("tileloadd (%0,%1,1), %%tmm%c2" ::"r"(p), "r"(stride * 4), "i"(TILE) : "memory");
}
template <int TILE>
GEOTDM_INLINE void store_tile(float* p, int64_t stride) {
  asm volatile("tilestored %%tmm%c2, (%0,%1,1)" ::"r"(p), "r"(stride * 4), "i"(TILE) : "memory");
}
// C += A B: A has rows of pairs, B pairs of rows.
template <int C, int A, int B>
GEOTDM_INLINE void add_tile_products() {
  asm volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(C), "i"(A), "i"(B));
}

#else

struct Tiles {
  GEOTDM_INLINE Tiles() {}
  GEOTDM_INLINE ~Tiles() {}
};

inline thread_local Pair tile_registers[8][kTile][kTile];

template <int TILE>
GEOTDM_INLINE void clear_tile() {
  std::memset(tile_registers[TILE], 0, sizeof tile_registers[TILE]);
}
template <int TILE>
GEOTDM_INLINE void load_tile(const void* p, int64_t stride) {
  for (int64_t r = 0; r < kTile; ++r)
    std::memcpy(tile_registers[TILE][r], static_cast<const Pair*>(p) + r * stride, sizeof tile_registers[TILE][r]);
}
template <int TILE>
GEOTDM_INLINE void store_tile(float* p, int64_t stride) {
  for (int64_t r = 0; r < kTile; ++r) std::memcpy(p + r * stride, tile_registers[TILE][r], kTile * sizeof(float));
}
template <int C, int A, int B>
GEOTDM_INLINE void add_tile_products() {
  for (int64_t r = 0; r < kTile; ++r) {
    Vec low{}, high{};
    for (int64_t i = 0; i < kTile; ++i) {
      const Pairs a = tile_registers[A][r][i] - Pairs{}, b = load_pairs(tile_registers[B][i]);
      low += low_numbers(a) * low_numbers(b);
      high += high_numbers(a) * high_numbers(b);
    }
    auto* c = reinterpret_cast<float*>(tile_registers[C][r]);
    store(c, load(c) + (low + high));
  }
}

#endif

// 16 vectors of pairs, rows and columns exchanged.
GEOTDM_INLINE void transpose(Pairs* v) {
#if !defined(GEOTDM_EMULATE)
  // Rounds of 1, 2, 4 and 8 columns: in each, half of every vector is exchanged with one of its partner.
  __m512i a[16], b[16];
#pragma GCC unroll 8
  for (int i = 0; i < 16; i += 2) {
    a[i] = _mm512_maskz_unpacklo_epi32(-1, (__m512i)v[i], (__m512i)v[i + 1]);
    a[i + 1] = _mm512_maskz_unpackhi_epi32(-1, (__m512i)v[i], (__m512i)v[i + 1]);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 16; i += 4) {
    b[i] = _mm512_maskz_unpacklo_epi64(-1, a[i], a[i + 2]);
    b[i + 1] = _mm512_maskz_unpackhi_epi64(-1, a[i], a[i + 2]);
    b[i + 2] = _mm512_maskz_unpacklo_epi64(-1, a[i + 1], a[i + 3]);
    b[i + 3] = _mm512_maskz_unpackhi_epi64(-1, a[i + 1], a[i + 3]);
  }
  // b[4 g + j]: in its lane l, column 4 l + j of rows 4 g .. 4 g + 3
#pragma GCC unroll 4
  for (int j = 0; j < 4; ++j) {
    const __m512i even_low = _mm512_maskz_shuffle_i32x4(-1, b[j], b[4 + j], 0x88),
                  odd_low = _mm512_maskz_shuffle_i32x4(-1, b[j], b[4 + j], 0xDD);
    const __m512i even_high = _mm512_maskz_shuffle_i32x4(-1, b[8 + j], b[12 + j], 0x88);
    const __m512i odd_high = _mm512_maskz_shuffle_i32x4(-1, b[8 + j], b[12 + j], 0xDD);
    v[j] = (Pairs)_mm512_maskz_shuffle_i32x4(-1, even_low, even_high, 0x88);
    v[8 + j] = (Pairs)_mm512_maskz_shuffle_i32x4(-1, even_low, even_high, 0xDD);
    v[4 + j] = (Pairs)_mm512_maskz_shuffle_i32x4(-1, odd_low, odd_high, 0x88);
    v[12 + j] = (Pairs)_mm512_maskz_shuffle_i32x4(-1, odd_low, odd_high, 0xDD);
  }
#else
  for (int i = 0; i < 16; ++i)
    for (int j = 0; j < i; ++j) {
      const Pair kept = v[i][j];
      v[i][j] = v[j][i], v[j][i] = kept;
    }
#endif
}

}  // namespace geotdm::GEOTDM_ISA
