// What a warp does with 32 rows (node, frame): layers of the MLPs, turns, and reading and writing rows.
#pragma once

#include "weights.cuh"

namespace geotdm::cuda {

constexpr int kRows = 32;  // of a warp

// y + y tanh(y) with y = z / 2 is silu(z); float32 through the exact exponential.
template <Precision P>
GEOTDM_DEVICE float silu_of_half(float y) {
  if constexpr (P == kFp32)
    return 2 * y / (1 + exp_exact(-2 * y));
  else
    return y + y * tanh_approx(y);
}

// silu'(z), z = 2 y.
template <Precision P>
GEOTDM_DEVICE float silu_slope_of_half(float y) {
  const float sigma = P == kFp32 ? 1 / (1 + exp_exact(-2 * y)) : 0.5f + 0.5f * tanh_approx(y);
  return sigma * (1 + 2 * y * (1 - sigma));
}

// Which rows a warp has. For T <= 32 they are those of as many whole nodes as fit, else frames of one node.
struct WarpRows {
  int64_t first;    // row of the whole call
  int count;        // rows that exist, at most 32
  int first_frame;  // frame of the first
  int frames;       // T
  int inverse;      // 65536 / T + 1, or 0: all rows are of one node

  // 0, 1, ... within the warp's nodes; exact for rows below 32 and T up to 32.
  GEOTDM_DEVICE int node(int row) const { return row * inverse >> 16; }
  GEOTDM_DEVICE int frame(int row) const { return first_frame + row - node(row) * frames; }
};

// How the rows of all nodes are dealt out to warps.
struct RowTiling {
  int64_t num_rows;
  int frames, rows_of_tile, tiles_of_node, inverse;

  RowTiling() = default;
  RowTiling(int64_t num_nodes, int num_frames)
      : num_rows(num_nodes * num_frames),
        frames(num_frames),
        rows_of_tile(num_frames <= kRows ? kRows / num_frames * num_frames : kRows),
        tiles_of_node(num_frames <= kRows ? 1 : (num_frames + kRows - 1) / kRows),
        inverse(num_frames <= kRows ? 65536 / num_frames + 1 : 0) {}

  int64_t num_tiles() const {
    return inverse ? (num_rows + rows_of_tile - 1) / rows_of_tile : num_rows / frames * tiles_of_node;
  }

  // Of a warp beyond the last tile, no row.
  GEOTDM_DEVICE WarpRows tile(int64_t i) const {
    WarpRows rows{0, 0, 0, frames, inverse};
    int64_t left;
    if (inverse) {
      rows.first = i * rows_of_tile;
      left = num_rows - rows.first;
    } else {
      const int64_t node = i / tiles_of_node;
      rows.first_frame = static_cast<int>(i - node * tiles_of_node) * kRows;
      rows.first = node * frames + rows.first_frame;
      left = rows.first < num_rows ? frames - rows.first_frame : 0;
    }
    rows.count = cut(left);
    return rows;
  }
  // The same for T <= 32.
  GEOTDM_DEVICE WarpRows whole_nodes(int64_t i) const {
    const int64_t first = i * rows_of_tile;
    return {first, cut(num_rows - first), 0, frames, inverse};
  }

 private:
  GEOTDM_DEVICE int cut(int64_t left) const {
    return left < 0 ? 0 : static_cast<int>(left < rows_of_tile ? left : rows_of_tile);
  }
};

// Rows of a float array [.., width] into a tile of H columns; zeros beyond.
template <Precision P, int H>
GEOTDM_DEVICE void load_rows(const Tile<P>& to, const float* from, int width, int count) {
  if (width % 4 == 0) {
    // Lanes side by side have a row, or a part of it, and so many loads of each lane are on their way at a time.
    constexpr int kLanes = H < 128 ? H / 4 : 32, kRowsAtOnce = 32 / kLanes, kAtOnce = 8;
    const int lane_row = lane_index() / kLanes, lane_column = lane_index() % kLanes * 4;
    GEOTDM_NO_UNROLL
    for (int i = 0; i < kRows * H / 128; i += kAtOnce) {
      const int row = lane_row + i % kRows * kRowsAtOnce, column = lane_column + i / kRows * 128;
      const float* at = from + row * width + column;
      const int left = column < width ? count - row : 0;
      Float4 v[kAtOnce];
      GEOTDM_UNROLL
      for (int j = 0; j < kAtOnce; ++j)
        v[j] = j * kRowsAtOnce < left ? *reinterpret_cast<const Float4*>(at + j * kRowsAtOnce * width) : Float4{};
      GEOTDM_UNROLL
      for (int j = 0; j < kAtOnce; ++j) {
        to.store(row + j * kRowsAtOnce, column, v[j].x, v[j].y);
        to.store(row + j * kRowsAtOnce, column + 2, v[j].z, v[j].w);
      }
    }
  } else {
    for (int i = lane_index(); i < kRows * H / 2; i += 32) {
      const int row = i / (H / 2), column = i % (H / 2) * 2;
      const auto at = [&](int c) { return row < count && c < width ? from[row * width + c] : 0.0f; };
      to.store(row, column, at(column), at(column + 1));
    }
  }
}

// Rows of an array of elements [.., kColumns] into a tile, in the background; zeros beyond.
template <Precision P, int kColumns, int kCount = kRows>
GEOTDM_DEVICE void copy_rows(const Tile<P>& to, const Element<P>* from, int count) {
  constexpr int kPiece = 16 / sizeof(Element<P>), kPieces = kColumns / kPiece;
  for (int i = lane_index(); i < kCount * kPieces; i += 32) {
    const int row = i / kPieces, column = i % kPieces * kPiece;
    // Where nothing is read the address still has to be one of the array.
    const bool inside = row < count;
    copy_async(to.place(row, column), from + (inside ? row * kColumns + column : 0), inside);
  }
}

// Rows of a tile into an array of elements [.., kColumns], `stride` elements from one to the next.
template <Precision P, int kColumns>
GEOTDM_DEVICE void store_rows(Element<P>* to, int stride, const Tile<P>& from, int count) {
  constexpr int kPiece = 16 / sizeof(Element<P>), kPieces = kColumns / kPiece;
  for (int i = lane_index(); i < count * kPieces; i += 32) {
    const int row = i / kPieces, column = i % kPieces * kPiece;
    *reinterpret_cast<Float4*>(to + row * stride + column) =
        from.at.template load_as<Float4>(row * from.stride + column);
  }
}

// cos and sin of a frame's angle, by the column of the pair.
GEOTDM_DEVICE Float2 turn_at(const TemporalAttention& in, int frame, int column) {
  if (column >= in.num_turns) return {};
  return *reinterpret_cast<const Float2*>(in.turns + (frame * in.num_turns + column));
}

// The turns of a warp's rows, [32, kTurns].
template <Precision P>
GEOTDM_DEVICE void load_turns(const Tile<P>& to, const TemporalAttention& in, const WarpRows& rows) {
  for (int i = lane_index(); i < kRows * kTurns / 2; i += 32) {
    const int row = i / (kTurns / 2), column = i % (kTurns / 2) * 2;
    const Float2 turn = row < rows.count ? turn_at(in, rows.frame(row), column) : Float2{};
    to.store(row, column, turn.x, turn.y);
  }
}

// The turns of a result's rows, the first of which is `base` of the warp's.
template <int M>
GEOTDM_DEVICE void load_turns(Result<M, kTurns / 8>& to, const TemporalAttention& in, const WarpRows& rows,
                              int base = 0) {
  for_pairs(to, [&](int row, int column, float& v, float& w) {
    const Float2 turn = base + row < rows.count ? turn_at(in, rows.frame(base + row), column) : Float2{};
    v = turn.x, w = turn.y;
  });
}

// A pair (of sine, of cosine) turned by a frame's angle, and turned back; each is the other's transpose.
GEOTDM_DEVICE Float2 turned(Float2 v, Float2 turn) {
  return {v.x * turn.y + v.y * turn.x, v.y * turn.y - v.x * turn.x};
}
GEOTDM_DEVICE Float2 turned_back(Float2 v, Float2 turn) {
  return {v.x * turn.y - v.y * turn.x, v.x * turn.x + v.y * turn.y};
}

// A result begins with a bias, given from the lane's first column on.
template <int M, int N>
GEOTDM_DEVICE void begin(Result<M, N>& c, const float* bias) {
  GEOTDM_UNROLL
  for (int n = 0; n < N; ++n) {
    const Float2 b = pair_of(bias, 8 * n);
    GEOTDM_UNROLL
    for (int m = 0; m < M; ++m) c[m][n][0] = b.x, c[m][n][1] = b.y, c[m][n][2] = b.x, c[m][n][3] = b.y;
  }
}

// One layer of a warp's rows: sink(column, result [32 x columns of a stage]) for each stage of its matrix [H, depth].
template <Precision P, int H, class Sink>
GEOTDM_DEVICE void layer(WeightStream<P, H>& weights, const Tile<P>& in, Sink&& sink, int depth = H) {
  constexpr int kColumns = stage_rows<P>(H);
  GEOTDM_NO_UNROLL
  for (int column = 0; column < H; column += kColumns) {
    const Tile<P> stage = weights.next();
    Result<2, kColumns / 8> c;
    clear(c);
    product<P>(c, depth, in, stage);
    sink(column, c);
  }
}

// to = silu(in W^T + bias), W and bias halved; keep(row, column, y, z) is shown the halves of what silu is taken of.
template <Precision P, int H, class Keep>
GEOTDM_DEVICE void hidden_layer(WeightStream<P, H>& weights, const Tile<P>& in, const float* bias, const Tile<P>& to,
                                Keep&& keep) {
  layer<P, H>(weights, in, [&](int first, auto& c) {
    for_pairs(c, [&](int row, int column, float& v, float& w) {
      const Float2 b = pair_of(bias, first + column);
      keep(row, first + column, v + b.x, w + b.y);
      to.store(row, first + column, silu_of_half<P>(v + b.x), silu_of_half<P>(w + b.y));
    });
  });
}
struct KeepNothing {
  GEOTDM_DEVICE void operator()(int, int, float, float) const {}
};

// to = in W^T + bias. kFinite is for values: nodes share tiles, and a weight of zero times NaN would be NaN in the
// neighbour's sum; a node with NaN in h has NaN among its own weights.
template <Precision P, int H, bool kFinite = false>
GEOTDM_DEVICE void linear_layer(WeightStream<P, H>& weights, const Tile<P>& in, const float* bias, const Tile<P>& to) {
  layer<P, H>(weights, in, [&](int first, auto& c) {
    for_pairs(c, [&](int row, int column, float& v, float& w) {
      const Float2 b = pair_of(bias, first + column);
      v += b.x, w += b.y;
      to.store(row, first + column, kFinite ? finite(v) : v, kFinite ? finite(w) : w);
    });
  });
}

// Rows of `in` [32, H] times time_w, turned by the angle of each row's frame, into `to` [32, kTurns].
template <Precision P, int H>
GEOTDM_DEVICE void to_turns(WeightStream<P, H>& weights, const Tile<P>& in, const TemporalAttention& problem,
                            const WarpRows& rows, const Tile<P>& to) {
  Result<2, kTurns / 8> c, turn;
  load_turns(turn, problem, rows);
  const Tile<P> stage = weights.next();
  clear(c);
  product<P>(c, H, in, stage);
  for_pairs(c, turn, [&](int row, int column, const Float2& u, const Float2& angle) {
    const Float2 v = turned(u, angle);
    to.store(row, column, v.x, v.y);
  });
}

// The sum over the four lanes that share a result's rows.
GEOTDM_DEVICE float quad_sum(float v) {
  v += shuffle_xor(v, 1);
  return v + shuffle_xor(v, 2);
}
GEOTDM_DEVICE float quad_max(float v) {
  float other = shuffle_xor(v, 1);
  v = v > other ? v : other;
  other = shuffle_xor(v, 2);
  return v > other ? v : other;
}

}  // namespace geotdm::cuda
