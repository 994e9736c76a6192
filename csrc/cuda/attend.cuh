// Attention from the arrays of `ProjectRows`: a warp has 16 query rows and some channels of their result, and goes over
// the keys in tiles of 32 with a softmax kept up to date (Milakov & Gimelshein 2018), so that memory is linear in T.
#pragma once

#include "project.cuh"

namespace geotdm::cuda {

// The tiles of keys that a warp's queries meet, and the other way round.
struct TileRange {
  int64_t first_tile;  // of the tiling
  int begin, end;      // tiles of the node

  GEOTDM_DEVICE TileRange(const RowTiling& tiling, int64_t tile, const WarpRows& rows, int window) {
    begin = 0, end = rows.count > 0;
    first_tile = tile;
    if (tiling.inverse) return;
    first_tile = tile / tiling.tiles_of_node * tiling.tiles_of_node;
    const int64_t low = static_cast<int64_t>(rows.first_frame) - window;
    const int64_t high = static_cast<int64_t>(rows.first_frame) + rows.count + window;  // one beyond
    begin = low > 0 ? static_cast<int>(low / kRows) : 0;
    const int64_t last = high < rows.frames ? high : rows.frames;
    end = rows.count > 0 ? static_cast<int>((last + kRows - 1) / kRows) : begin;
  }
};

// Gates of a tile's rows, with positions, from the arrays.
GEOTDM_DEVICE void load_gates(const GateRows& to, const TemporalAttention& in, const float* gate,
                              const WarpRows& rows) {
  const int row = lane_index();
  const float g = row < rows.count ? gate[rows.first + row] : 0;
  to.store_pull(row, g, relative_position(in, rows, row));
}

template <Precision P, int H>
struct Attend {
  struct Arguments {
    TemporalAttention in;
    RowTiling tiling;
    Weights<P> weights;
    RowArrays<P> from;
    float *x_out, *h_out;
  };
  static constexpr int kMaxWarps = 4, kThreads = 32 * kMaxWarps, kBlocks = 1, kWarpsOfTile = 2;
  static constexpr int kColumns = H < 128 ? H : 128, kParts = H / kColumns;
  static constexpr int kQueries = kRows / kWarpsOfTile;

  // q with its turns | k, then v of the warp's channels | turns of the keys | gates
  static constexpr int kQueryBytes = tile_bytes<P>(kQueries, H + kTurns), kKeyBytes = tile_bytes<P>(kRows, H);
  static constexpr int kTurnBytes = tile_bytes<P>(kRows, kTurns);
  static constexpr int kWarpBytes = kQueryBytes + kKeyBytes + kTurnBytes + GateRows::kBytes, kBlockBytes = 0;

  static GEOTDM_DEVICE void run(const Arguments& a) {
    const TemporalAttention& in = a.in;
    const int warp = warp_index();
    const int64_t half = block_index() * (block_threads() / 32) + warp, tile = half / kWarpsOfTile;
    const int part = block_index_y() * kColumns, base = static_cast<int>(half % kWarpsOfTile) * kQueries;
    const WarpRows rows = a.tiling.tile(tile);
    const auto own = shared_memory() + warp * kWarpBytes;
    const Tile<P> q{own.template as<Element<P>>(), H + kTurns + kPad};
    const Tile<P> k{(own + kQueryBytes).template as<Element<P>>(), H + kPad};
    const Tile<P> turns{(own + (kQueryBytes + kKeyBytes)).template as<Element<P>>(), kTurns + kPad};
    const GateRows gates{(own + (kQueryBytes + kKeyBytes + kTurnBytes)).template as<float>()};

    copy_rows<P, H + kTurns, kQueries>(q, a.from.q + (rows.first + base) * (H + kTurns), rows.count - base);
    commit_copies();
    float highest[2]{kNever, kNever}, total[2]{};
    Float4 pull[2]{};
    Result<1, kColumns / 8> c;
    Result<1, kTurns / 8> y;
    clear(c), clear(y);

    const TileRange range(a.tiling, tile, rows, in.window);
    for (int other = range.begin; other < range.end; ++other) {
      const WarpRows keys = a.tiling.tile(range.first_tile + other);
      copy_rows<P, H>(k, a.from.k + keys.first * H, keys.count);
      commit_copies();
      load_turns(turns, in, keys);
      load_gates(gates, in, a.from.gate, keys);
      wait_copies<0>();
      sync_warp();
      Scores<1> p;
      clear(p);
      product<P>(p, H, q, k);
      product<P>(p, kTurns, q.columns(H), turns);
      sync_warp();
      const Tile<P> v{k.at, kColumns + kPad};
      copy_part(v, a.from.v + keys.first * H + part, keys.count);
      commit_copies();
      update(p, base, {rows, keys, in.window}, highest, total, pull, c, y);
      add_pulls(pull, p, gates);
      add_values<P>(y, p, turns);
      wait_copies<0>();
      sync_warp();
      add_values<P>(c, p, v);
      sync_warp();
    }
    wait_copies<0>();
    sync_warp();

    float scale[2];
    GEOTDM_UNROLL
    for (int i = 0; i < 2; ++i) {
      const int row = base + lane_row(i);
      const float sum = quad_sum(total[i]);
      scale[i] = sum > 0 ? 1 / sum : 0.0f;
      const Float4 whole{quad_sum(pull[i].x) * scale[i], quad_sum(pull[i].y) * scale[i], quad_sum(pull[i].z) * scale[i],
                         quad_sum(pull[i].w) * scale[i]};
      if (part == 0 && lane_column() == 0 && row < rows.count) {
        const Float4 y = relative_position(in, rows, row);
        store_position(in, a.x_out, rows, row, moved_position(in, rows, row, y, whole));
      }
    }
    const Tile<P> turned_sums = q.columns(H), from_turns{k.at, kTurns + kPad};
    GEOTDM_UNROLL
    for (int i = 0; i < 2; ++i)
      for_row_pairs(y, i, [&](int n, float& first, float& second) {
        const int row = base + lane_row(i), column = 8 * n + lane_column();
        const Float2 turn = row < rows.count ? turn_at(in, rows.frame(row), column) : Float2{};
        const Float2 e = turned_back({first * scale[i], second * scale[i]}, turn);
        turned_sums.store(lane_row(i), column, e.x, e.y);
      });
    GEOTDM_UNROLL
    for (int first = 0; first < kColumns; first += kRows) {
      sync_warp();
      copy_rows<P, kTurns>(from_turns, a.weights.matrices + PackedLayout<H>::from_turns() + (part + first) * kTurns,
                           kRows);
      commit_copies();
      wait_copies<0>();
      sync_warp();
      Result<1, kRows / 8> e, old;
      const int64_t at = (rows.first + base) * in.width;
      load_result(old, in.h + at, part + first, in.width, rows.count - base);
      clear(e);
      product<P>(e, kTurns, turned_sums, from_turns);
      GEOTDM_UNROLL
      for (int i = 0; i < 2; ++i)
        for_row_pairs(e, i, [&](int n, float& u, float& w) {
          const float* sums = &c[0][first / 8 + n][2 * i];
          const Float2 b = pair_of(a.weights.vector(kTimeBias, H), part + first + 8 * n + lane_column());
          u += sums[0] * scale[i] + b.x, w += sums[1] * scale[i] + b.y;
        });
      add(e, old);
      store_result(a.h_out + at, e, part + first, in.width, rows.count - base);
    }
  }

  // Columns of v that the warp sums.
  static GEOTDM_DEVICE void copy_part(const Tile<P>& to, const Element<P>* from, int count) {
    constexpr int kPiece = 16 / sizeof(Element<P>), kPieces = kColumns / kPiece;
    for (int i = lane_index(); i < kRows * kPieces; i += 32) {
      const int row = i / kPieces, column = i % kPieces * kPiece;
      copy_async(to.place(row, column), from + (row < count ? row * H + column : 0), row < count);
    }
  }

  // Logits to exp(logit - highest) with the highest so far, the sums so far scaled to match.
  static GEOTDM_DEVICE void update(Scores<1>& p, int base, const Mask& mask, float (&highest)[2], float (&total)[2],
                                   Float4 (&pull)[2], Result<1, kColumns / 8>& c, Result<1, kTurns / 8>& y) {
    GEOTDM_UNROLL
    for (int i = 0; i < 2; ++i) {
      const int query = base + lane_row(i);
      float now = highest[i];
      for_row(p, i, [&](int key, float& v) {
        v = mask(query, key) ? v : kNever;
        now = v > now ? v : now;
      });
      now = quad_max(now);
      const float shrink = exp_of<P>(highest[i] - now);
      highest[i] = now;
      total[i] *= shrink;
      pull[i].x *= shrink, pull[i].y *= shrink, pull[i].z *= shrink, pull[i].w *= shrink;
      for_row(c, i, [&](int, float& v) { v *= shrink; });
      for_row(y, i, [&](int, float& v) { v *= shrink; });
      for_row(p, i, [&](int, float& v) {
        v = v == kNever ? 0.0f : exp_of<P>(v - now);
        total[i] += v;
      });
    }
  }
};

}  // namespace geotdm::cuda
