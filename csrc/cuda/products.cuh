// Products of small matrices by one warp: tiles in shared memory, and what a lane holds of their factors.
//
// A step is 16 deep, two units of 8. With g = lane / 4 and t = lane % 4 a lane holds, of a factor's row (a: rows g and
// g + 8 of 16; b: column g of 8), the columns 2 t and 2 t + 1 of each unit; of a result [16 x 8] the same columns of
// rows g and g + 8. So results are factors of a next product without moving: as rows of a, or as columns of b. (tf32
// instructions number the depth otherwise; as long as both factors agree, that is of no account.)
#pragma once

#include "block.cuh"
#include "temporal_attention.h"

namespace geotdm::cuda {

// How numbers of a precision are kept in memory: bfloat16 as bits; float32, for tf32 rounded before.
template <Precision P>
struct Number {
  using Element = float;
};
template <>
struct Number<kBf16> {
  using Element = uint16_t;
};
template <Precision P>
using Element = typename Number<P>::Element;

constexpr int kStep = 16;  // depth of a step
constexpr int kPad = 8;    // elements between rows of a tile, so that the rows of a matrix lie in different banks

GEOTDM_DEVICE int lane_index() { return thread_index() % 32; }
GEOTDM_DEVICE int warp_index() { return thread_index() / 32; }
GEOTDM_DEVICE int lane_row() { return lane_index() / 4; }
GEOTDM_DEVICE int lane_column() { return 2 * (lane_index() % 4); }

// Two neighbours of a row, as they lie in memory.
template <Precision P>
struct Pair {
  Float2 bits;
};
template <>
struct Pair<kBf16> {
  uint32_t bits;
};

template <Precision P>
GEOTDM_DEVICE Pair<P> make_pair(float first, float second) {
  if constexpr (P == kBf16)
    return {pack_bf16(first, second)};
  else if constexpr (P == kTf32)
    return {{round_tf32(first), round_tf32(second)}};
  else
    return {{first, second}};
}

template <Precision P>
GEOTDM_DEVICE Float2 values(Pair<P> pair) {
  if constexpr (P == kBf16)
    return {low_bf16(pair.bits), high_bf16(pair.bits)};
  else
    return pair.bits;
}

template <Precision P>
GEOTDM_DEVICE Pair<P> load_pair(const Element<P>* from) {
  return {*reinterpret_cast<const decltype(Pair<P>::bits)*>(from)};
}
template <Precision P>
GEOTDM_DEVICE void store_pair(Element<P>* to, Pair<P> pair) {
  *reinterpret_cast<decltype(Pair<P>::bits)*>(to) = pair.bits;
}

// A matrix in shared memory, rows `stride` elements apart.
template <Precision P>
struct Tile {
  Shared<Element<P>> at;
  int stride;

  GEOTDM_DEVICE Shared<Element<P>> place(int row, int column) const { return at + (row * stride + column); }
  GEOTDM_DEVICE Tile columns(int first) const { return {at + first, stride}; }
  GEOTDM_DEVICE Float2 pair(int row, int column) const {
    return values<P>({at.template load_as<decltype(Pair<P>::bits)>(row * stride + column)});
  }
  // Entries (row, column) and (row + 1, column), of float32 tiles.
  GEOTDM_DEVICE Float2 column_pair(int row, int column) const {
    return {at.load(row * stride + column), at.load((row + 1) * stride + column)};
  }
  GEOTDM_DEVICE void store(int row, int column, float first, float second) const {
    at.store_as(row * stride + column, make_pair<P>(first, second).bits);
  }
};

template <Precision P>
GEOTDM_ANYWHERE constexpr int tile_bytes(int rows, int columns) {
  return rows * (columns + kPad) * static_cast<int>(sizeof(Element<P>));
}

// A lane's part of a [16 x 16] factor: pairs of row g, then of row g + 8, of the first unit, then of the second.
template <Precision P>
struct FactorA {
  uint32_t r[4];
};
template <>
struct FactorA<kTf32> {
  float r[2][4];
};
// float32 as the sum of three bfloat16 numbers, exactly: 8 bits each. tf32 numbers are no faster, and two are 22 bits.
constexpr int kParts = 3;
template <>
struct FactorA<kFp32> {
  uint32_t r[kParts][4];
};

// A lane's part of a [16 x 8] factor: a pair of each unit.
template <Precision P>
struct FactorB {
  uint32_t r[2];
};
template <>
struct FactorB<kTf32> {
  float r[2][2];
};
template <>
struct FactorB<kFp32> {
  uint32_t r[kParts][2];
};

// Two numbers as the sums of `kParts` pairs, into place i of each part.
template <int N>
GEOTDM_DEVICE void split(uint32_t (&parts)[kParts][N], int i, float first, float second) {
  GEOTDM_UNROLL
  for (int part = 0; part < kParts; ++part) {
    parts[part][i] = pack_bf16(first, second);
    first -= low_bf16(parts[part][i]), second -= high_bf16(parts[part][i]);
  }
}

// The pair of row g (half 0) or g + 8 of a unit; for tf32 the numbers are rounded.
template <Precision P>
GEOTDM_DEVICE void set(FactorA<P>& a, int unit, int half, float first, float second) {
  if constexpr (P == kBf16)
    a.r[2 * unit + half] = pack_bf16(first, second);
  else if constexpr (P == kTf32)
    a.r[unit][half] = first, a.r[unit][half + 2] = second;
  else
    split(a.r, 2 * unit + half, first, second);
}
template <Precision P>
GEOTDM_DEVICE void set(FactorB<P>& b, int unit, float first, float second) {
  if constexpr (P == kBf16)
    b.r[unit] = pack_bf16(first, second);
  else if constexpr (P == kTf32)
    b.r[unit][0] = first, b.r[unit][1] = second;
  else
    split(b.r, unit, first, second);
}

// c += a b. For float32 the six products of parts that count, the small ones first; those left out are 2^-26 of the
// whole. They are summed apart, because the matrix units cut off what the sum so far has no room for, and an addition
// rounds. kFlipped: a b is the transpose of another product b' a', and is to have its bits.
template <Precision P, bool kFlipped = false>
GEOTDM_DEVICE void multiply_add(float (&c)[4], const FactorA<P>& a, const FactorB<P>& b) {
  if constexpr (P == kBf16) {
    mma_bf16(c, a.r, b.r);
  } else if constexpr (P == kTf32) {
    mma_tf32(c, a.r[0], b.r[0]);
    mma_tf32(c, a.r[1], b.r[1]);
  } else {
    float sum[4]{};
    GEOTDM_UNROLL
    for (int level = kParts - 1; level >= 0; --level) GEOTDM_UNROLL
    for (int i = 0; i <= level; ++i) {
      const int of_a = kFlipped ? level - i : i;
      mma_bf16(sum, a.r[of_a], b.r[level - of_a]);
    }
    GEOTDM_UNROLL
    for (int i = 0; i < 4; ++i) c[i] += sum[i];
  }
}

// Rows row .. row + 15 of a tile, columns column .. column + 15.
template <Precision P>
GEOTDM_DEVICE FactorA<P> load_a(const Tile<P>& tile, int row, int column) {
  FactorA<P> a;
  const int lane = lane_index();
  if constexpr (P == kBf16) {
    load_matrices(a.r, tile.place(row + lane % 16, column + lane / 16 * 8));
  } else {
    GEOTDM_UNROLL
    for (int unit = 0; unit < 2; ++unit) GEOTDM_UNROLL
    for (int half = 0; half < 2; ++half) {
      const Float2 v = tile.pair(row + lane_row() + 8 * half, column + 8 * unit + lane_column());
      set<P>(a, unit, half, v.x, v.y);
    }
  }
  return a;
}

// The transpose of rows row .. row + 15, columns column .. column + 15: the columns are the factor's rows.
template <Precision P>
GEOTDM_DEVICE FactorA<P> load_a_transposed(const Tile<P>& tile, int row, int column) {
  FactorA<P> a;
  const int lane = lane_index();
  if constexpr (P == kBf16) {
    load_matrices_transposed(a.r, tile.place(row + lane % 8 + lane / 16 * 8, column + lane / 8 % 2 * 8));
  } else {
    GEOTDM_UNROLL
    for (int unit = 0; unit < 2; ++unit) GEOTDM_UNROLL
    for (int half = 0; half < 2; ++half) {
      const Float2 v = tile.column_pair(row + 8 * unit + lane_column(), column + 8 * half + lane_row());
      set<P>(a, unit, half, v.x, v.y);
    }
  }
  return a;
}

// Rows row .. row + 15 of a tile as the columns of two factors, over columns column .. column + 15.
template <Precision P>
GEOTDM_DEVICE void load_b(FactorB<P> (&b)[2], const Tile<P>& tile, int row, int column) {
  const int lane = lane_index();
  if constexpr (P == kBf16) {
    uint32_t r[4];
    load_matrices(r, tile.place(row + lane % 8 + lane / 16 * 8, column + lane / 8 % 2 * 8));
    b[0].r[0] = r[0], b[0].r[1] = r[1], b[1].r[0] = r[2], b[1].r[1] = r[3];
  } else {
    GEOTDM_UNROLL
    for (int n = 0; n < 2; ++n) GEOTDM_UNROLL
    for (int unit = 0; unit < 2; ++unit) {
      const Float2 v = tile.pair(row + 8 * n + lane_row(), column + 8 * unit + lane_column());
      set<P>(b[n], unit, v.x, v.y);
    }
  }
}

// Columns column .. column + 15 of a tile as those of two factors, over rows row .. row + 15.
template <Precision P>
GEOTDM_DEVICE void load_b_transposed(FactorB<P> (&b)[2], const Tile<P>& tile, int row, int column) {
  const int lane = lane_index();
  if constexpr (P == kBf16) {
    uint32_t r[4];
    load_matrices_transposed(r, tile.place(row + lane % 16, column + lane / 16 * 8));
    b[0].r[0] = r[0], b[0].r[1] = r[1], b[1].r[0] = r[2], b[1].r[1] = r[3];
  } else {
    GEOTDM_UNROLL
    for (int n = 0; n < 2; ++n) GEOTDM_UNROLL
    for (int unit = 0; unit < 2; ++unit) {
      const Float2 v = tile.column_pair(row + 8 * unit + lane_column(), column + 8 * n + lane_row());
      set<P>(b[n], unit, v.x, v.y);
    }
  }
}

// A result as numbers of a precision.
template <Precision P>
GEOTDM_DEVICE float rounded(float value) {
  return P == kTf32 ? round_tf32(value) : value;
}

// Results [16 x 16], two units, as a factor: its rows.
template <Precision P>
GEOTDM_DEVICE FactorA<P> as_a(const float (&first)[4], const float (&second)[4]) {
  FactorA<P> a;
  GEOTDM_UNROLL
  for (int half = 0; half < 2; ++half) {
    set<P>(a, 0, half, rounded<P>(first[2 * half]), rounded<P>(first[2 * half + 1]));
    set<P>(a, 1, half, rounded<P>(second[2 * half]), rounded<P>(second[2 * half + 1]));
  }
  return a;
}

// Results [16 x 16], two units, as two factors: row g is column g of the first, row g + 8 that of the second.
template <Precision P>
GEOTDM_DEVICE void as_b(FactorB<P> (&b)[2], const float (&first)[4], const float (&second)[4]) {
  GEOTDM_UNROLL
  for (int half = 0; half < 2; ++half) {
    set<P>(b[half], 0, rounded<P>(first[2 * half]), rounded<P>(first[2 * half + 1]));
    set<P>(b[half], 1, rounded<P>(second[2 * half]), rounded<P>(second[2 * half + 1]));
  }
}

// A lane's part of a result [16 M x 8 N].
template <int M, int N>
using Result = float[M][N][4];

template <int M, int N>
GEOTDM_DEVICE void clear(Result<M, N>& c) {
  GEOTDM_UNROLL
  for (int m = 0; m < M; ++m) GEOTDM_UNROLL
  for (int n = 0; n < N; ++n) GEOTDM_UNROLL
  for (int i = 0; i < 4; ++i) c[m][n][i] = 0;
}

// each(row, column, first, second) for the pairs that the lane holds.
template <int M, int N, class Each>
GEOTDM_DEVICE void for_pairs(Result<M, N>& c, Each&& each) {
  GEOTDM_UNROLL
  for (int m = 0; m < M; ++m) GEOTDM_UNROLL
  for (int half = 0; half < 2; ++half) GEOTDM_UNROLL
  for (int n = 0; n < N; ++n)
    each(16 * m + 8 * half + lane_row(), 8 * n + lane_column(), c[m][n][2 * half], c[m][n][2 * half + 1]);
}

// The same of two results at once: each(row, column, a's pair, b's pair).
template <int M, int N, class Each>
GEOTDM_DEVICE void for_pairs(const Result<M, N>& a, const Result<M, N>& b, Each&& each) {
  GEOTDM_UNROLL
  for (int m = 0; m < M; ++m) GEOTDM_UNROLL
  for (int half = 0; half < 2; ++half) GEOTDM_UNROLL
  for (int n = 0; n < N; ++n)
    each(16 * m + 8 * half + lane_row(), 8 * n + lane_column(), Float2{a[m][n][2 * half], a[m][n][2 * half + 1]},
         Float2{b[m][n][2 * half], b[m][n][2 * half + 1]});
}

template <int M, int N>
GEOTDM_DEVICE void add(Result<M, N>& c, const Result<M, N>& other) {
  GEOTDM_UNROLL
  for (int m = 0; m < M; ++m) GEOTDM_UNROLL
  for (int n = 0; n < N; ++n) GEOTDM_UNROLL
  for (int i = 0; i < 4; ++i) c[m][n][i] += other[m][n][i];
}

// c += a b over one step: get_a(row, k) gives a factor of 16 rows, get_b(factors, column, k) two of 8 columns.
template <Precision P, bool kFlipped = false, int M, int N, class GetA, class GetB>
GEOTDM_DEVICE void product_step(Result<M, N>& c, int k, GetA&& get_a, GetB&& get_b) {
  FactorA<P> a[M];
  GEOTDM_UNROLL
  for (int m = 0; m < M; ++m) a[m] = get_a(16 * m, k);
  GEOTDM_UNROLL
  for (int n = 0; n < N; n += 2) {
    FactorB<P> b[2];
    get_b(b, 8 * n, k);
    GEOTDM_UNROLL
    for (int m = 0; m < M; ++m) {
      multiply_add<P, kFlipped>(c[m][n], a[m], b[0]);
      multiply_add<P, kFlipped>(c[m][n + 1], a[m], b[1]);
    }
  }
}

// c += a b over `depth`, from memory: two steps in flight, or one where a step is long enough by itself.
template <Precision P, bool kFlipped = false, int M, int N, class GetA, class GetB>
GEOTDM_DEVICE void sum_products(Result<M, N>& c, int depth, GetA&& get_a, GetB&& get_b) {
  if constexpr (P == kBf16) {
    GEOTDM_UNROLL_TWICE
    for (int k = 0; k < depth; k += kStep) product_step<P, kFlipped>(c, k, get_a, get_b);
  } else {
    GEOTDM_NO_UNROLL
    for (int k = 0; k < depth; k += kStep) product_step<P, kFlipped>(c, k, get_a, get_b);
  }
}

// c += a b^T of two tiles.
template <Precision P, bool kFlipped = false, int M, int N>
GEOTDM_DEVICE void product(Result<M, N>& c, int depth, const Tile<P>& a, const Tile<P>& b) {
  sum_products<P, kFlipped>(
      c, depth, [&](int row, int k) { return load_a(a, row, k); },
      [&](FactorB<P>(&f)[2], int column, int k) { load_b(f, b, column, k); });
}

}  // namespace geotdm::cuda
