// Gradients of the attention, recomputed in tiles: one kernel for what belongs to the queries, one for the keys. No sum
// is shared between warps, so every run gives the same bits.
#pragma once

#include "attend.cuh"

namespace geotdm::cuda {

// The incoming gradient of x' of a row.
GEOTDM_DEVICE Float4 position_gradient(const TemporalAttention& in, const float* grad_x_out, const WarpRows& rows,
                                       int row) {
  Float4 g{};
  if (row >= rows.count) return g;
  const float* from = grad_x_out + (rows.first + row) * in.dim;
  g.x = from[0], g.y = from[1];
  if (in.dim == 3) g.z = from[2];
  return g;
}

// grad_t . (y_t - y_s), which times g_s is the coordinates' part of d alpha_ts. Differences first: they may cancel.
GEOTDM_DEVICE float apart(const Float4& gradient, const Float4& y_t, const Float4& y_s) {
  return gradient.x * (y_t.x - y_s.x) + gradient.y * (y_t.y - y_s.y) + gradient.z * (y_t.z - y_s.z);
}

// Positions of a tile's rows, as `relative_position`, and in the fourth place their gates.
GEOTDM_DEVICE void load_positions(const GateRows& to, const TemporalAttention& in, const float* gate,
                                  const WarpRows& rows) {
  const int row = lane_index();
  Float4 y = relative_position(in, rows, row);
  y.w = row < rows.count ? gate[rows.first + row] : 0;
  to.store(row, y);
}

template <Precision P>
struct AttentionGradientArguments {
  TemporalAttention in;
  RowTiling tiling;
  RowArrays<P> rows;
  const float* grad_x_out;
  float* grad_x;
};

// Some columns of rows of an array [.., H], in the background.
template <Precision P, int H, int kColumns>
GEOTDM_DEVICE void copy_columns(const Tile<P>& to, const Element<P>* from, int stride, int count) {
  constexpr int kPiece = 16 / sizeof(Element<P>), kPieces = kColumns / kPiece;
  for (int i = lane_index(); i < kRows * kPieces; i += 32) {
    const int row = i / kPieces, column = i % kPieces * kPiece;
    copy_async(to.place(row, column), from + (row < count ? row * stride + column : 0), row < count);
  }
}

// 16 queries of a warp: the softmax's statistics, then d q, d (time_w^T q), and the queries' part of d x.
template <Precision P, int H>
struct QueryGradient {
  using Arguments = AttentionGradientArguments<P>;
  static constexpr int kMaxWarps = 4, kThreads = 32 * kMaxWarps, kBlocks = 1, kWarpsOfTile = 2;
  static constexpr int kColumns = H < 128 ? H : 128, kParts = H / kColumns, kQueries = kRows / kWarpsOfTile;

  // q with its turns | gradient of h' with its turns | v, then k | turns of the keys | their positions and gates
  static constexpr int kQueryBytes = tile_bytes<P>(kQueries, H + kTurns), kKeyBytes = tile_bytes<P>(kRows, H);
  static constexpr int kTurnBytes = tile_bytes<P>(kRows, kTurns);
  static constexpr int kWarpBytes = 2 * kQueryBytes + kKeyBytes + kTurnBytes + GateRows::kBytes, kBlockBytes = 0;

  struct Tiles {
    Tile<P> q, grad, keys, turns;
    GateRows positions;
  };

  static GEOTDM_DEVICE void run(const Arguments& a) {
    const TemporalAttention& in = a.in;
    const int warp = warp_index();
    const int64_t half = block_index() * (block_threads() / 32) + warp, tile = half / kWarpsOfTile;
    const int part = block_index_y() * kColumns, base = static_cast<int>(half % kWarpsOfTile) * kQueries;
    const WarpRows rows = a.tiling.tile(tile);
    const int64_t first = rows.first + base;
    const auto own = shared_memory() + warp * kWarpBytes;
    const Tiles t{{own.template as<Element<P>>(), H + kTurns + kPad},
                  {(own + kQueryBytes).template as<Element<P>>(), H + kTurns + kPad},
                  {(own + 2 * kQueryBytes).template as<Element<P>>(), H + kPad},
                  {(own + (2 * kQueryBytes + kKeyBytes)).template as<Element<P>>(), kTurns + kPad},
                  {(own + (2 * kQueryBytes + kKeyBytes + kTurnBytes)).template as<float>()}};
    copy_rows<P, H + kTurns, kQueries>(t.q, a.rows.q + first * (H + kTurns), rows.count - base);
    copy_rows<P, H + kTurns, kQueries>(t.grad, a.rows.grad_out + first * (H + kTurns), rows.count - base);
    commit_copies();
    Float4 gradient[2], y[2];
    GEOTDM_UNROLL
    for (int i = 0; i < 2; ++i) {
      gradient[i] = position_gradient(in, a.grad_x_out, rows, base + lane_row(i));
      y[i] = relative_position(in, rows, base + lane_row(i));
    }

    // Logits, kNever where masked, and the gradients of alpha; the keys are in their tile afterwards.
    const auto scores = [&](const WarpRows& keys, Scores<1>& s, Scores<1>& grad_alpha) {
      clear(s), clear(grad_alpha);
      copy_rows<P, H>(t.keys, a.rows.v + keys.first * H, keys.count);
      commit_copies();
      load_turns(t.turns, in, keys);
      load_positions(t.positions, in, a.rows.gate, keys);
      wait_copies<0>();
      sync_warp();
      product<P>(grad_alpha, H, t.grad, t.keys);
      product<P>(grad_alpha, kTurns, t.grad.columns(H), t.turns);
      sync_warp();
      copy_rows<P, H>(t.keys, a.rows.k + keys.first * H, keys.count);
      commit_copies();
      wait_copies<0>();
      sync_warp();
      product<P>(s, H, t.q, t.keys);
      product<P>(s, kTurns, t.q.columns(H), t.turns);
      const Mask mask{rows, keys, in.window};
      GEOTDM_UNROLL
      for (int i = 0; i < 2; ++i) {
        for_row(s, i, [&](int key, float& v) { v = mask(base + lane_row(i), key) ? v : kNever; });
        for_row(grad_alpha, i, [&](int key, float& v) {
          const Float4 other = t.positions.row(key);
          v += other.w * apart(gradient[i], y[i], other);
        });
      }
    };

    Scores<1> s, grad_alpha;
    const TileRange range(a.tiling, tile, rows, in.window);
    float highest[2]{kNever, kNever}, total[2]{}, weighted[2]{};
    for (int other = range.begin; other < range.end; ++other) {
      scores(a.tiling.tile(range.first_tile + other), s, grad_alpha);
      GEOTDM_UNROLL
      for (int i = 0; i < 2; ++i) {
        float now = highest[i];
        for_row(s, i, [&](int, float& v) { now = v > now ? v : now; });
        now = quad_max(now);
        const float shrink = exp_of<P>(highest[i] - now);
        highest[i] = now, total[i] *= shrink, weighted[i] *= shrink;
        GEOTDM_UNROLL
        for (int n = 0; n < 4; ++n) GEOTDM_UNROLL
        for (int j = 0; j < 2; ++j) {
          const float v = s[0][n][2 * i + j], e = v == kNever ? 0.0f : exp_of<P>(v - now);
          total[i] += e, weighted[i] += e * grad_alpha[0][n][2 * i + j];
        }
      }
      sync_warp();
    }
    float scale[2], mean[2];
    GEOTDM_UNROLL
    for (int i = 0; i < 2; ++i) {
      const float sum = quad_sum(total[i]), weighted_sum = quad_sum(weighted[i]);
      scale[i] = sum > 0 ? 1 / sum : 0.0f;
      mean[i] = weighted_sum * scale[i];
      const int row = base + lane_row(i);
      if (part == 0 && lane_column() == 0 && row < rows.count) {
        const int64_t at = rows.first + row;
        a.rows.highest[at] = highest[i], a.rows.scale[at] = scale[i], a.rows.mean[at] = mean[i];
      }
    }

    Result<1, kColumns / 8> grad_q;
    Result<1, kTurns / 8> grad_turns, sums;
    clear(grad_q), clear(grad_turns), clear(sums);
    float gates[2]{};  // sum_s alpha_ts g_s
    const bool again = range.end - range.begin > 1;
    for (int other = range.begin; other < range.end; ++other) {
      if (again) scores(a.tiling.tile(range.first_tile + other), s, grad_alpha);
      GEOTDM_UNROLL
      for (int i = 0; i < 2; ++i) GEOTDM_UNROLL
      for (int n = 0; n < 4; ++n) GEOTDM_UNROLL
      for (int j = 0; j < 2; ++j) {
        float& v = s[0][n][2 * i + j];
        float& g = grad_alpha[0][n][2 * i + j];
        v = v == kNever ? 0.0f : exp_of<P>(v - highest[i]) * scale[i];
        g = v * (g - mean[i]);
      }
      GEOTDM_UNROLL
      for (int i = 0; i < 2; ++i) for_row(s, i, [&](int key, float& v) { gates[i] += v * t.positions.row(key).w; });
      add_values<P>(sums, s, t.turns);
      add_values<P>(grad_turns, grad_alpha, t.turns);
      add_values<P>(grad_q, grad_alpha, t.keys.columns(part));
      sync_warp();
    }
    wait_copies<0>();

    GEOTDM_UNROLL
    for (int i = 0; i < 2; ++i) {
      const int row = base + lane_row(i);
      const float pull = quad_sum(gates[i]);
      if (row >= rows.count) continue;
      const int64_t at = rows.first + row;
      for_row_pairs(grad_q, i, [&](int n, float& v, float& w) {
        store_pair<P>(a.rows.grad_q + at * H + part + 8 * n + lane_column(), make_pair<P>(v, w));
      });
      if (part != 0) continue;
      GEOTDM_UNROLL
      for (int n = 0; n < kTurns / 8; ++n) {
        const int column = 8 * n + lane_column();
        const Float2 turn = turn_at(in, rows.frame(row), column);
        const Float2 u = turned_back({grad_turns[0][n][2 * i], grad_turns[0][n][2 * i + 1]}, turn);
        const Float2 e = turned_back({sums[0][n][2 * i], sums[0][n][2 * i + 1]}, turn);
        store_pair<P>(a.rows.grad_turned + at * kTurns + column, make_pair<P>(u.x, u.y));
        store_pair<P>(a.rows.turned_sums + at * kTurns + column, make_pair<P>(e.x, e.y));
      }
      if (lane_column() == 0) {
        float* to = a.grad_x + at * in.dim;
        to[0] = pull * gradient[i].x, to[1] = pull * gradient[i].y;
        if (in.dim == 3) to[2] = pull * gradient[i].z;
      }
    }
  }
};

// 16 keys of a warp: d k, d v, d gate, and the keys' part of d x, after the queries' part is written.
template <Precision P, int H>
struct KeyGradient {
  using Arguments = AttentionGradientArguments<P>;
  static constexpr int kMaxWarps = 4, kThreads = 32 * kMaxWarps, kBlocks = 1, kWarpsOfTile = 2;
  static constexpr int kColumns = H < 128 ? H : 128, kParts = H / kColumns, kKeys = kRows / kWarpsOfTile;

  // k | v | turns of the keys | q with its turns, then the gradient of h' with its turns | some columns of q | incoming
  // gradients of x', positions, and statistics of the queries
  static constexpr int kKeyBytes = tile_bytes<P>(kKeys, H), kTurnBytes = tile_bytes<P>(kRows, kTurns);
  static constexpr int kQueryBytes = tile_bytes<P>(kRows, H + kTurns), kPartBytes = tile_bytes<P>(kRows, kColumns);
  static constexpr int kStatisticsBytes = 3 * kRows * static_cast<int>(sizeof(float));
  static constexpr int kWarpBytes =
      2 * kKeyBytes + kTurnBytes + kQueryBytes + kPartBytes + 2 * GateRows::kBytes + kStatisticsBytes;
  static constexpr int kBlockBytes = 0;

  static GEOTDM_DEVICE void run(const Arguments& a) {
    const TemporalAttention& in = a.in;
    const int warp = warp_index();
    const int64_t half = block_index() * (block_threads() / 32) + warp, tile = half / kWarpsOfTile;
    const int part = block_index_y() * kColumns, base = static_cast<int>(half % kWarpsOfTile) * kKeys;
    const WarpRows rows = a.tiling.tile(tile);
    const int64_t first = rows.first + base;
    auto own = shared_memory() + warp * kWarpBytes;
    const auto take = [&](int bytes) {
      const auto place = own;
      own = own + bytes;
      return place;
    };
    const Tile<P> k{take(kKeyBytes).template as<Element<P>>(), H + kPad};
    const Tile<P> v{take(kKeyBytes).template as<Element<P>>(), H + kPad};
    const Tile<P> turns{take(kTurnBytes).template as<Element<P>>(), kTurns + kPad};
    const Tile<P> queries{take(kQueryBytes).template as<Element<P>>(), H + kTurns + kPad};
    const Tile<P> q_part{take(kPartBytes).template as<Element<P>>(), kColumns + kPad};
    const GateRows gradients{take(GateRows::kBytes).template as<float>()};
    const GateRows positions{take(GateRows::kBytes).template as<float>()};
    const auto statistics = take(kStatisticsBytes).template as<float>();

    copy_rows<P, H, kKeys>(k, a.rows.k + first * H, rows.count - base);
    copy_rows<P, H, kKeys>(v, a.rows.v + first * H, rows.count - base);
    commit_copies();
    load_turns(turns, in, rows);
    const Tile<P> own_turns{turns.at + base * turns.stride, turns.stride};
    Float4 y[2];
    float gate[2];
    GEOTDM_UNROLL
    for (int i = 0; i < 2; ++i) {
      const int row = base + lane_row(i);
      y[i] = relative_position(in, rows, row);
      gate[i] = row < rows.count ? a.rows.gate[rows.first + row] : 0;
    }
    Result<1, kColumns / 8> grad_k, grad_v;
    clear(grad_k), clear(grad_v);
    Float4 sums[2]{};  // of alpha times the gradients of x'; of alpha times `apart`

    // Whom a key is near to is near to it.
    const TileRange range(a.tiling, tile, rows, in.window);
    for (int other = range.begin; other < range.end; ++other) {
      const WarpRows asking = a.tiling.tile(range.first_tile + other);
      copy_rows<P, H + kTurns>(queries, a.rows.q + asking.first * (H + kTurns), asking.count);
      commit_copies();
      const int lane = lane_index();
      gradients.store(lane, position_gradient(in, a.grad_x_out, asking, lane));
      positions.store(lane, relative_position(in, asking, lane));
      const auto keep = [&](int place, const float* of) {
        statistics.store(place * kRows + lane, lane < asking.count ? of[asking.first + lane] : 0);
      };
      keep(0, a.rows.highest), keep(1, a.rows.scale), keep(2, a.rows.mean);
      wait_copies<0>();
      sync_warp();
      Scores<1> p, grad;
      clear(p), clear(grad);
      product<P, true>(p, H, k, queries);
      product<P, true>(p, kTurns, own_turns, queries.columns(H));
      sync_warp();
      copy_rows<P, H + kTurns>(queries, a.rows.grad_out + asking.first * (H + kTurns), asking.count);
      copy_columns<P, H, kColumns>(q_part, a.rows.q + asking.first * (H + kTurns) + part, H + kTurns, asking.count);
      commit_copies();
      const Mask mask{rows, asking, in.window};  // who attends to whom is mutual
      GEOTDM_UNROLL
      for (int i = 0; i < 2; ++i) {
        const Mask::Range range = mask.keys_of(base + lane_row(i));
        for_row(p, i, [&](int query, float& v) {
          v = range.has(query) ? exp_of<P>(v - statistics.load(query)) * statistics.load(kRows + query) : 0.0f;
        });
      }
      wait_copies<0>();
      sync_warp();
      product<P, true>(grad, H, v, queries);
      product<P, true>(grad, kTurns, own_turns, queries.columns(H));
      GEOTDM_UNROLL
      for (int i = 0; i < 2; ++i) GEOTDM_UNROLL
      for (int n = 0; n < 4; ++n) GEOTDM_UNROLL
      for (int j = 0; j < 2; ++j) {
        const int query = 8 * n + lane_column() + j;
        const float alpha = p[0][n][2 * i + j];
        const Float4 gradient = gradients.row(query);
        const float distance = apart(gradient, positions.row(query), y[i]);
        float& g = grad[0][n][2 * i + j];
        g = alpha * (g + gate[i] * distance - statistics.load(2 * kRows + query));
        sums[i].x += alpha * gradient.x, sums[i].y += alpha * gradient.y, sums[i].z += alpha * gradient.z;
        sums[i].w += alpha * distance;
      }
      add_values<P>(grad_v, p, queries.columns(part));
      add_values<P>(grad_k, grad, q_part);
      sync_warp();
    }
    wait_copies<0>();

    GEOTDM_UNROLL
    for (int i = 0; i < 2; ++i) {
      const int row = base + lane_row(i);
      const Float4 sum{quad_sum(sums[i].x), quad_sum(sums[i].y), quad_sum(sums[i].z), quad_sum(sums[i].w)};
      if (row >= rows.count) continue;
      const int64_t at = rows.first + row;
      for_row_pairs(grad_k, i, [&](int n, float& v, float& w) {
        store_pair<P>(a.rows.grad_k + at * H + part + 8 * n + lane_column(), make_pair<P>(v, w));
      });
      for_row_pairs(grad_v, i, [&](int n, float& v, float& w) {
        store_pair<P>(a.rows.grad_v + at * H + part + 8 * n + lane_column(), make_pair<P>(v, w));
      });
      if (part != 0 || lane_column() != 0) continue;
      a.rows.grad_gate[at] = sum.w;
      // The incoming gradient comes last: what is added before is much smaller.
      float* to = a.grad_x + at * in.dim;
      const float* incoming = a.grad_x_out + at * in.dim;
      to[0] = (to[0] - gate[i] * sum.x) + incoming[0], to[1] = (to[1] - gate[i] * sum.y) + incoming[1];
      if (in.dim == 3) to[2] = (to[2] - gate[i] * sum.z) + incoming[2];
    }
  }
};

}  // namespace geotdm::cuda
