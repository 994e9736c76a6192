// Attention of 32 query rows over 32 key rows by one warp, in registers: logits, mask, softmax, coordinates.
#pragma once

#include <type_traits>

#include "rows.cuh"

namespace geotdm::cuda {

constexpr float kNever = -1e30f;  // a logit that counts for nothing; finite, so that differences are numbers
constexpr float kLog2E = 1.4426950408889634f;

template <int M>
using Scores = Result<M, 4>;  // [16 M queries x 32 keys]

// Which keys a query row attends to: of its own node, near enough, and there. Rows follow one another as frames do, so
// these keys do too.
struct Mask {
  WarpRows queries, keys;
  int window;

  struct Range {
    int first, size;
    GEOTDM_DEVICE bool has(int row) const { return static_cast<unsigned>(row - first) < static_cast<unsigned>(size); }
  };
  GEOTDM_DEVICE Range keys_of(int query) const {
    const int node = queries.node(query) * queries.frames, place = queries.first_frame + query - keys.first_frame;
    const int first = larger(node, place - window);
    const int end = smaller(smaller(node + queries.frames, keys.count), place + window + 1);
    return {first, query < queries.count && end > first ? end - first : 0};
  }
  GEOTDM_DEVICE bool operator()(int query, int key) const {
    const Range range = keys_of(query);
    return key >= range.first && key < range.first + range.size;
  }

 private:
  GEOTDM_DEVICE static int larger(int a, int b) { return a > b ? a : b; }
  GEOTDM_DEVICE static int smaller(int a, int b) { return a < b ? a : b; }
};

// A lane's rows of a result are 8 apart: row i of the lane is 8 i + lane / 4, entries [i / 2][.][2 (i % 2) ..].
GEOTDM_DEVICE int lane_row(int i) { return 8 * i + lane_row(); }

template <int M, int N, class Each>
GEOTDM_DEVICE void for_row(Result<M, N>& c, int i, Each&& each) {
  GEOTDM_UNROLL
  for (int n = 0; n < N; ++n) GEOTDM_UNROLL
  for (int j = 0; j < 2; ++j) each(8 * n + lane_column() + j, c[i / 2][n][i % 2 * 2 + j]);
}

template <int M, int N, class Each>
GEOTDM_DEVICE void for_row_pairs(Result<M, N>& c, int i, Each&& each) {
  GEOTDM_UNROLL
  for (int n = 0; n < N; ++n) each(n, c[i / 2][n][i % 2 * 2], c[i / 2][n][i % 2 * 2 + 1]);
}

// A pair of neighbours in a row of a float array, of which the first `left` exist. kEven: both or none.
template <bool kEven>
GEOTDM_DEVICE Float2 load_existing(const float* from, int left) {
  if constexpr (kEven)
    return left > 0 ? *reinterpret_cast<const Float2*>(from) : Float2{};
  else
    return {left > 0 ? from[0] : 0.0f, left > 1 ? from[1] : 0.0f};
}
template <bool kEven>
GEOTDM_DEVICE void store_existing(float* to, int left, float first, float second) {
  if constexpr (kEven) {
    if (left > 0) *reinterpret_cast<Float2*>(to) = {first, second};
  } else {
    if (left > 0) to[0] = first;
    if (left > 1) to[1] = second;
  }
}

// each(first, second, offset, left, is_even) for the pairs of a result whose columns are those of an array [.., width]
// from `column` on: where in the array the pair is, and how many of its row's columns are left, none beyond `count`.
template <int M, int N, class Each>
GEOTDM_DEVICE void for_places(Result<M, N>& c, int column, int width, int count, Each&& each) {
  const auto all = [&](auto is_even) {
    GEOTDM_UNROLL
    for (int i = 0; i < 2 * M; ++i) {
      const int row = lane_row(i), offset = row * width + column + lane_column();
      const int left = row < count ? width - column - lane_column() : 0;
      for_row_pairs(c, i, [&](int n, float& v, float& w) { each(v, w, offset + 8 * n, left - 8 * n, is_even); });
    }
  };
  if (width % 2 == 0)
    all(std::true_type());
  else
    all(std::false_type());
}

// Results as rows of a float array have them; zeros beyond. All of them before any is stored: for all that the compiler
// knows the arrays are the same, and a load would wait for the store before it.
template <int M, int N>
GEOTDM_DEVICE void load_result(Result<M, N>& to, const float* from, int column, int width, int count) {
  for_places(to, column, width, count, [&](float& v, float& w, int offset, int left, auto is_even) {
    const Float2 pair = load_existing<decltype(is_even)::value>(from + offset, left);
    v = pair.x, w = pair.y;
  });
}
template <int M, int N>
GEOTDM_DEVICE void store_result(float* to, Result<M, N>& from, int column, int width, int count) {
  for_places(from, column, width, count, [&](float v, float w, int offset, int left, auto is_even) {
    store_existing<decltype(is_even)::value>(to + offset, left, v, w);
  });
}

template <Precision P>
GEOTDM_DEVICE float exp_of(float v) {
  return P == kFp32 ? exp_exact(v) : exp2_approx(v * kLog2E);
}

// Weights times rows of a tile [32, 8 N]: c += p v.
template <Precision P, int M, int N>
GEOTDM_DEVICE void add_values(Result<M, N>& c, Scores<M>& p, const Tile<P>& v) {
  GEOTDM_UNROLL
  for (int first = 0; first < kRows; first += kStep)
    product_step<P>(
        c, first, [&](int row, int k) { return as_a<P>(p[row / 16][k / 8], p[row / 16][k / 8 + 1]); },
        [&](FactorB<P>(&f)[2], int column, int k) { load_b_transposed(f, v, k, column); });
}

// What the coordinate update takes from each row: the gate g, and g (x - x_0), x_0 the node's first frame.
struct GateRows {
  Shared<float> at;  // [32, 4]
  static constexpr int kBytes = kRows * 4 * sizeof(float);

  GEOTDM_DEVICE Float4 row(int i) const { return at.load_as<Float4>(4 * i); }
  GEOTDM_DEVICE void store(int i, Float4 v) const { at.store_as(4 * i, v); }
  // The row of a gate g and a position y. Rounded, so that a row alone is not moved: `moved_position` takes g y off.
  GEOTDM_DEVICE void store_pull(int i, float g, const Float4& y) const {
    store(i, {multiply_rounded(g, y.x), multiply_rounded(g, y.y), multiply_rounded(g, y.z), g});
  }
};

// x of a row minus x of its node's first frame, so that a far origin costs no digits. Zeros for rows that are not
// there.
GEOTDM_DEVICE Float4 relative_position(const TemporalAttention& in, const WarpRows& rows, int row) {
  Float4 y{};
  if (row >= rows.count) return y;
  const float* x = in.x + (rows.first + row) * in.dim;
  const float* origin = x - static_cast<int64_t>(rows.frame(row)) * in.dim;
  y.x = x[0] - origin[0], y.y = x[1] - origin[1];
  if (in.dim == 3) y.z = x[2] - origin[2];
  return y;
}

// A lane's part of the gates: gate_i += the hidden layer's columns, of which c holds some, times the last layer. The
// vectors are given from the lane's first column on.
template <Precision P, int M, int N>
GEOTDM_DEVICE void add_gates(float (&gate)[2 * M], Result<M, N>& c, const float* bias, const float* weight) {
  GEOTDM_UNROLL
  for (int n = 0; n < N; ++n) {
    const Float2 b = pair_of(bias, 8 * n), w = pair_of(weight, 8 * n);
    GEOTDM_UNROLL
    for (int i = 0; i < 2 * M; ++i) {
      gate[i] += silu_of_half<P>(c[i / 2][n][i % 2 * 2] + b.x) * w.x;
      gate[i] += silu_of_half<P>(c[i / 2][n][i % 2 * 2 + 1] + b.y) * w.y;
    }
  }
}

// A lane's part of sum_s p g_s y_s (x, y, z) and sum_s p g_s (w), for its rows.
template <int M>
GEOTDM_DEVICE void add_pulls(Float4 (&pull)[2 * M], Scores<M>& p, const GateRows& gates) {
  GEOTDM_UNROLL
  for (int n = 0; n < 4; ++n) GEOTDM_UNROLL
  for (int j = 0; j < 2; ++j) {
    const Float4 key = gates.row(8 * n + lane_column() + j);
    GEOTDM_UNROLL
    for (int i = 0; i < 2 * M; ++i) {
      const float weight = p[i / 2][n][i % 2 * 2 + j];
      if (weight == 0) continue;  // of another node, maybe, and zero times its NaN is none of ours
      pull[i].x += weight * key.x, pull[i].y += weight * key.y;
      pull[i].z += weight * key.z, pull[i].w += weight * key.w;
    }
  }
}

// Coordinates of a query row: x + (y (sum alpha g) - sum alpha g y), the two sums being `pull`.w and the rest.
GEOTDM_DEVICE Float4 moved_position(const TemporalAttention& in, const WarpRows& rows, int row, const Float4& y,
                                    const Float4& pull) {
  const float* x = in.x + (rows.first + row) * in.dim;
  const auto moved = [](float at, float from, float weight, float sum) {
    return at + (multiply_rounded(from, weight) - sum);
  };
  return {moved(x[0], y.x, pull.w, pull.x), moved(x[1], y.y, pull.w, pull.y),
          in.dim == 3 ? moved(x[2], y.z, pull.w, pull.z) : 0.0f, 0.0f};
}
GEOTDM_DEVICE void store_position(const TemporalAttention& in, float* x_out, const WarpRows& rows, int row,
                                  const Float4& x) {
  float* to = x_out + (rows.first + row) * in.dim;
  to[0] = x.x, to[1] = x.y;
  if (in.dim == 3) to[2] = x.z;
}

}  // namespace geotdm::cuda
