// The whole layer for T <= 32: a warp takes as many nodes as fit into 32 rows from h to h', and nothing but x, h and
// the weights is read, nothing but x', h' written.
#pragma once

#include "attention.cuh"

namespace geotdm::cuda {

template <Precision P, int H>
struct FusedForward {
  struct Arguments {
    TemporalAttention in;
    RowTiling tiling;
    Weights<P> weights;
    StageList stages;
    float *x_out, *h_out;
  };
  static constexpr int kMaxWarps = 8, kThreads = 32 * kMaxWarps, kBlocks = 1, kWarpsOfTile = 1;

  // h, later v | hidden layers | q and its turns, later the turned sums | gates; the turns are the block's.
  static constexpr int kRowsBytes = tile_bytes<P>(kRows, H), kQueryBytes = tile_bytes<P>(kRows, H + kTurns);
  static constexpr int kWarpBytes = 2 * kRowsBytes + kQueryBytes + GateRows::kBytes;
  static constexpr int kTurnBytes = tile_bytes<P>(kRows, kTurns);
  static constexpr int kBlockBytes = WeightStream<P, H>::kBytes + kTurnBytes;

  static StageList stages() {
    using Layout = PackedLayout<H>;
    constexpr int rows = stage_rows<P>(H);
    StageList list;
    list.add(Layout::matrix(kQ1), H, H, rows);
    list.add(Layout::matrix(kQ2), H, H, rows);
    list.add(Layout::to_turns(), kTurns, H, rows);
    for (int which : {kK1, kK2, kV1, kV2, kX1}) list.add(Layout::matrix(which), H, H, rows);
    list.add(Layout::from_turns(), H, kTurns, rows);
    return list;
  }

  static GEOTDM_DEVICE void run(const Arguments& a) {
    constexpr int kColumns = stage_rows<P>(H);
    const TemporalAttention& in = a.in;
    const int num_warps = block_threads() / 32, warp = warp_index();
    const WarpRows rows = a.tiling.tile(block_index() * num_warps + warp);
    const auto vector = [&](int which) { return a.weights.vector(which, H); };

    const auto memory = shared_memory();
    WeightStream<P, H> weights(memory, a.weights.matrices, a.stages);
    const Tile<P> turns{(memory + WeightStream<P, H>::kBytes).template as<Element<P>>(), kTurns + kPad};
    const auto own = memory + (kBlockBytes + warp * kWarpBytes);
    const Tile<P> h{own.template as<Element<P>>(), H + kPad},
        hidden{(own + kRowsBytes).template as<Element<P>>(), H + kPad};
    const Tile<P> q{(own + 2 * kRowsBytes).template as<Element<P>>(), H + kTurns + kPad};
    const GateRows gates{(own + (2 * kRowsBytes + kQueryBytes)).template as<float>()};

    // The first frames' turns serve every warp: rows of all warps are cut alike.
    if (warp == 0) {
      WarpRows all = rows;
      all.count = kRows;
      load_turns(turns, in, all);
    }
    load_rows<P, H>(h, in.h + rows.first * in.width, in.width, rows.count);
    sync_warp();

    const auto hide = [&](int bias) {
      hidden_layer<P, H>(weights, h, vector(bias), hidden, KeepNothing{});
      sync_warp();
    };

    hide(kBiasQ1);
    linear_layer<P, H>(weights, hidden, vector(kBiasQ2), q);
    sync_warp();
    to_turns<P, H>(weights, q, in, rows, q.columns(H));
    hide(kBiasK1);
    // Keys go from one product's results straight into the next one's factors.
    Scores<2> p;
    clear(p);
    layer<P, H>(weights, hidden, [&](int first, auto& k) {
      GEOTDM_UNROLL
      for (int m = 0; m < 2; ++m) GEOTDM_UNROLL
      for (int n = 0; n < kColumns / 8; ++n) {
        const Float2 b = pair_of(vector(kBiasK2), first + 8 * n + lane_column());
        k[m][n][0] += b.x, k[m][n][1] += b.y, k[m][n][2] += b.x, k[m][n][3] += b.y;
      }
      GEOTDM_UNROLL
      for (int column = 0; column < kColumns; column += kStep) {
        FactorA<P> query[2];
        GEOTDM_UNROLL
        for (int m = 0; m < 2; ++m) query[m] = load_a(q, 16 * m, first + column);
        GEOTDM_UNROLL
        for (int m = 0; m < 2; ++m) {
          FactorB<P> key[2];
          as_b<P>(key, k[m][column / 8], k[m][column / 8 + 1]);
          GEOTDM_UNROLL
          for (int i = 0; i < 2; ++i) {
            multiply_add<P>(p[i][2 * m], query[i], key[0]);
            multiply_add<P>(p[i][2 * m + 1], query[i], key[1]);
          }
        }
      }
    });
    product<P>(p, kTurns, q.columns(H), turns);
    softmax(p, {rows, rows, in.window});

    sync_warp();
    hide(kBiasV1);
    const Tile<P> v = h;
    linear_layer<P, H, true>(weights, hidden, vector(kBiasV2), v);
    sync_warp();
    const Positions y(in, rows);
    float gate[4]{};
    layer<P, H>(weights, v, [&](int first, auto& c) {
      const int column = first + lane_column();
      add_gates<P>(gate, c, vector(kBiasX1) + column, vector(kGateWeight) + column);
    });
    store_pulls(gates, gate, vector(kNumVectors)[0], y);
    move(p, gates, y, in, a.x_out, rows);

    const Tile<P> turned_sums = q.columns(H);
    sum_turns(turned_sums, p, turns, in, rows);
    GEOTDM_NO_UNROLL
    for (int first = 0; first < H; first += kColumns)
      store_features(first, p, v, turned_sums, weights.next(), vector(kTimeBias), in, rows, a.h_out);
  }

  // Logits to weights alpha; rows that are not there become zeros.
  static GEOTDM_DEVICE void softmax(Scores<2>& p, const Mask& mask) {
    GEOTDM_UNROLL
    for (int i = 0; i < 4; ++i) {
      const int query = lane_row(i);
      float highest = kNever;
      for_row(p, i, [&](int key, float& v) {
        v = mask(query, key) ? v : kNever;
        highest = v > highest ? v : highest;
      });
      highest = quad_max(highest);
      float total = 0;
      for_row(p, i, [&](int, float& v) {
        v = v == kNever ? 0.0f : exp_of<P>(v - highest);
        total += v;
      });
      total = quad_sum(total);
      const float scale = total > 0 ? 1 / total : 0.0f;
      for_row(p, i, [&](int, float& v) { v *= scale; });
    }
  }

  // Positions of a lane's rows, relative to their nodes'.
  struct Positions {
    Float4 at[4];
    GEOTDM_DEVICE Positions(const TemporalAttention& in, const WarpRows& rows) {
      GEOTDM_UNROLL
      for (int i = 0; i < 4; ++i) at[i] = relative_position(in, rows, lane_row(i));
    }
  };

  // The rows of the coordinate update. A lane has parts of its rows' gates; `last` is their bias.
  static GEOTDM_DEVICE void store_pulls(const GateRows& to, const float (&gate)[4], float last, const Positions& y) {
    GEOTDM_UNROLL
    for (int i = 0; i < 4; ++i) {
      const float g = quad_sum(gate[i]) + last;
      if (lane_column() == 0) to.store_pull(lane_row(i), g, y.at[i]);
    }
    sync_warp();
  }

  static GEOTDM_DEVICE void move(Scores<2>& p, const GateRows& gates, const Positions& y, const TemporalAttention& in,
                                 float* x_out, const WarpRows& rows) {
    Float4 pull[4]{}, moved[4]{};
    add_pulls(pull, p, gates);
    GEOTDM_UNROLL
    for (int i = 0; i < 4; ++i) {
      const Float4 sum{quad_sum(pull[i].x), quad_sum(pull[i].y), quad_sum(pull[i].z), quad_sum(pull[i].w)};
      if (lane_row(i) < rows.count) moved[i] = moved_position(in, rows, lane_row(i), y.at[i], sum);
    }
    GEOTDM_UNROLL
    for (int i = 0; i < 4; ++i)
      if (lane_column() == 0 && lane_row(i) < rows.count) store_position(in, x_out, rows, lane_row(i), moved[i]);
  }

  // time_w's factor in h': the weighted sums of the turns, turned back.
  static GEOTDM_DEVICE void sum_turns(const Tile<P>& to, Scores<2>& p, const Tile<P>& turns,
                                      const TemporalAttention& in, const WarpRows& rows) {
    Result<2, kTurns / 8> y, turn;
    load_turns(turn, in, rows);
    clear(y);
    add_values<P>(y, p, turns);
    for_pairs(turn, y, [&](int row, int column, const Float2& angle, const Float2& sum) {
      const Float2 e = turned_back(sum, angle);
      to.store(row, column, e.x, e.y);
    });
    sync_warp();
  }

  // h' of as many columns as `time_w` has rows, from column `first` on.
  static GEOTDM_DEVICE void store_features(int first, Scores<2>& p, const Tile<P>& v, const Tile<P>& turned_sums,
                                           const Tile<P>& time_w, const float* bias, const TemporalAttention& in,
                                           const WarpRows& rows, float* h_out) {
    const int64_t at = rows.first * in.width;
    Result<2, stage_rows<P>(H) / 8> c, old;
    load_result(old, in.h + at, first, in.width, rows.count);
    begin(c, bias + first + lane_column());
    add_values<P>(c, p, v.columns(first));
    product<P>(c, kTurns, turned_sums, time_w);
    add(c, old);
    store_result(h_out + at, c, first, in.width, rows.count);
  }
};

}  // namespace geotdm::cuda
