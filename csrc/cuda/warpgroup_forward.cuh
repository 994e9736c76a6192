// FusedForward in bfloat16 for compute capability 9.0: four warps, with 32 rows each, share the products of the MLPs
// (wgmma), which run in the background and read the weights from shared memory themselves. 16 rows of a warp at a time:
// while the products of one half run, the warp takes what the other's sums have become through the activation. Hidden
// layers stay in registers.
#pragma once

#include "fused_forward.cuh"

namespace geotdm::cuda {

// Streams the packed matrices [H, H] in their order through two buffers, swizzled.
template <int H>
class MatrixStream {
 public:
  static constexpr int kStageBytes = H * H * 2, kBytes = 2 * kStageBytes;

  GEOTDM_DEVICE MatrixStream(Shared<unsigned char> memory, const uint16_t* matrices)
      : memory_(memory), matrices_(matrices) {}

  GEOTDM_DEVICE Shared<unsigned char> stage(int which) const { return memory_ + which % 2 * kStageBytes; }
  // A stage for multiply_async, and how many bytes from its beginning column `column` is.
  GEOTDM_DEVICE SwizzledMatrix matrix(int which) const {
    return anew(swizzled_matrix(memory_)) + which % 2 * kStageBytes;
  }
  GEOTDM_DEVICE static int place_of(int column) { return place(column / 64, 0) + column % 64 * 2; }

  // Starts copying, by all threads of the block.
  template <int kThreads>
  GEOTDM_DEVICE void fetch(int which) {
    constexpr int kPieces = H / 8;  // of a row
    static_assert(kThreads % (8 * kPieces) == 0 && H * kPieces % kThreads == 0);
    const int row = thread_index() / kPieces, piece = thread_index() % kPieces;
    const uint16_t* from = matrices_ + PackedLayout<H>::matrix(which) + 8 * thread_index();
    const auto to = stage(which) + place(piece / 8, swizzled_piece(row, piece % 8));
    GEOTDM_UNROLL
    for (int i = 0; i < H * kPieces; i += kThreads) copy_async(to + place(0, i / kPieces * 8), from + 8 * i, true);
    commit_copies();
  }

 private:
  Shared<unsigned char> memory_;
  const uint16_t* matrices_;

  // In bytes: 64 columns of all rows come before the next 64.
  GEOTDM_DEVICE static int place(int columns, int piece) { return columns * 128 * H + 16 * piece; }
};

template <int H>
struct WarpgroupForward {
  static constexpr Precision P = kBf16;
  using Common = FusedForward<P, H>;
  struct Arguments {
    TemporalAttention in;
    RowTiling tiling;
    Weights<P> weights;
    float *x_out, *h_out;
    int blocks_at_once;
  };
  static constexpr int kWarps = 8, kThreads = kHasWarpgroups ? 32 * kWarps : 32, kBlocks = 1;

  // Weights | time_w for queries | turns | each warp's h, later v, and q with its turns, later gates, turned sums,
  // alpha.
  static constexpr int kToTurns = MatrixStream<H>::kBytes, kTurnTile = kToTurns + tile_bytes<P>(kTurns, H);
  static constexpr int kOwn = kTurnTile + tile_bytes<P>(kRows, kTurns), kQuery = tile_bytes<P>(kRows, H);
  static constexpr int kGates = kQuery, kSums = kGates + GateRows::kBytes;
  static constexpr int kAlpha = kSums + tile_bytes<P>(kRows, kTurns), kLast = kAlpha + kRows * kRows * 4;
  static constexpr int kQueryEnd = kQuery + tile_bytes<P>(kRows, H + kTurns);
  static constexpr int kWarpBytes = kLast > kQueryEnd ? kLast : kQueryEnd, kBytes = kOwn + kWarps * kWarpBytes;
  static_assert(tile_bytes<P>(H, kTurns) <= MatrixStream<H>::kStageBytes);

  static GEOTDM_DEVICE void run(const Arguments& a) {
    if constexpr (kHasWarpgroups) run_on_warpgroups(a);
  }

 private:
  // 16 rows of a warp: sums, and factors of the next products.
  using Half = Result<1, H / 8>;
  using Factors = uint32_t[H / kStep][4];

  static GEOTDM_DEVICE void run_on_warpgroups(const Arguments& a) {
    using Layout = PackedLayout<H>;
    const TemporalAttention& in = a.in;
    const auto warp = [] { return anew(thread_index()) / 32; };
    const auto own_rows = [&] { return a.tiling.whole_nodes(block_index() * kWarps + warp()); };
    // From the lane's first column on; they are in the order of the matrices.
    const float* biases = a.weights.vectors + anew(lane_column());
    static_assert(int{kBiasQ1} == kQ1 && int{kBiasX1} == kX1);
    const auto tile = [](Shared<unsigned char> at, int columns) {
      return Tile<P>{at.template as<Element<P>>(), columns + kPad};
    };

    const auto memory = shared_memory();
    const auto own = [&](int offset) { return memory + (kOwn + warp() * kWarpBytes + offset); };
    const Tile<P> to_turns = tile(memory + kToTurns, H), turns = tile(memory + kTurnTile, kTurns);
    const Tile<P> h = tile(own(0), H), q = tile(own(kQuery), H + kTurns);
    const auto own_alpha = [&] { return (own(kAlpha) + 16 * lane_index()).template as<float>(); };

    MatrixStream<H> stream(memory, a.weights.matrices);
    copy_matrix(to_turns, a.weights.matrices + Layout::to_turns(), kTurns, H);
    stream.template fetch<kThreads>(kQ1);
    stream.template fetch<kThreads>(kQ2);
    {
      WarpRows rows = own_rows();
      load_rows<P, H>(h, in.h + rows.first * in.width, in.width, rows.count);
      // The first frames' turns serve every warp: rows of all warps are cut alike.
      rows.count = kRows;
      if (warp_index() == 0) load_turns(turns, in, rows);
    }
    sync_warp();

    Half c[2];
    Factors f[2];
    Scores<2> p;
    clear(p);

    // The products of a layer for half m start; their factors are f[m].
    const auto multiply = [&](int m, int which) {
      const SwizzledMatrix b = stream.matrix(which);
      start_products();
      multiply_async<false>(c[m][0], f[m][0], b);
      GEOTDM_UNROLL
      for (int k = 1; k < H / kStep; ++k) multiply_async<true>(c[m][0], f[m][k], b + stream.place_of(k * kStep));
      commit_products();
    };
    const auto take_h = [&](int m) {
      GEOTDM_UNROLL
      for (int k = 0; k < H / kStep; ++k) load_matrices(f[m][k], fragment(h, 16 * m, k * kStep));
    };
    // From a layer whose products run for both halves to the next: finish(m, bias) makes f[m] of c[m].
    const auto follow = [&](int which, auto&& finish) {
      finish(0, biases + which * H);
      settle(f[0]);
      wait_copies<0>();
      fence_for_products();
      sync_block();
      multiply(0, which + 1);
      wait_products<1>(c[1][0]);
      sync_block();  // nobody needs this layer's matrix any more
      if (which + 2 < kNumMatrices) {
        stream.template fetch<kThreads>(which + 2);
      } else {
        copy_matrix(tile(stream.stage(which), kTurns), a.weights.matrices + Layout::from_turns(), H, kTurns);
        commit_copies();
      }
      finish(1, biases + which * H);
      settle(f[1]);
      wait_products<0>(c[0][0]);
      multiply(1, which + 1);
    };

    const auto hide = [&](int m, const float* bias) {
      add_bias(c[m], bias);
      GEOTDM_UNROLL
      for (int n = 0; n < H / 8; ++n) GEOTDM_UNROLL
      for (int i = 0; i < 4; ++i) c[m][0][n][i] = silu_of_half<P>(c[m][0][n][i]);
      pack(f[m], c[m]);
    };
    const auto keep_query = [&](int m, const float* bias) {
      add_bias(c[m], bias);
      pack(f[m], c[m]);
      store(q, m, f[m]);
      sync_warp();
      Result<1, kTurns / 8> u, turn;
      load_turns(turn, in, own_rows(), 16 * m);
      clear(u);
      product<P>(u, H, Tile<P>{q.place(16 * m, 0), q.stride}, to_turns);
      for_pairs(u, turn, [&](int row, int column, const Float2& sum, const Float2& angle) {
        const Float2 t = turned(sum, angle);
        q.store(16 * m + row, H + column, t.x, t.y);
      });
      sync_warp();
      take_h(m);
    };
    // Keys go from one product's results straight into the next one's factors.
    const auto score_keys = [&](int m, const float* bias) {
      add_bias(c[m], bias);
      GEOTDM_UNROLL
      for (int k = 0; k < H / kStep; ++k) {
        FactorB<P> key[2];
        as_b<P>(key, c[m][0][2 * k], c[m][0][2 * k + 1]);
        GEOTDM_UNROLL
        for (int i = 0; i < 2; ++i) {
          const FactorA<P> query = load_a(q, 16 * i, k * kStep);
          multiply_add<P>(p[i][2 * m], query, key[0]);
          multiply_add<P>(p[i][2 * m + 1], query, key[1]);
        }
      }
      if (m == 1) {
        product<P>(p, kTurns, q.columns(H), turns);
        const WarpRows rows = own_rows();
        Common::softmax(p, {rows, rows, in.window});
        sync_warp();  // q is read
        keep(own_alpha(), p);
      }
      sync_warp();
      take_h(m);
    };
    const auto keep_values = [&](int m, const float* bias) {
      add_bias(c[m], bias);
      pack(f[m], c[m]);
      GEOTDM_UNROLL
      for (int k = 0; k < H / kStep; ++k) GEOTDM_UNROLL
      for (int i = 0; i < 4; ++i) f[m][k][i] = finite_pair(f[m][k][i]);
      store(h, m, f[m]);
    };

    take_h(0);
    take_h(1);
    wait_copies<1>();
    fence_for_products();
    sync_block();
    multiply(0, kQ1);
    wait_products<0>(c[0][0]);
    multiply(1, kQ1);
    {
      // What the block reads that takes this one's place.
      const WarpRows next = a.tiling.whole_nodes((block_index() + a.blocks_at_once) * kWarps + warp());
      prefetch_rows(in.h, in.width, next);
      prefetch_rows(in.x, in.dim, next);
    }
    follow(kQ1, hide);
    follow(kQ2, keep_query);
    follow(kK1, hide);
    follow(kK2, score_keys);
    follow(kV1, hide);
    follow(kV2, keep_values);
    const WarpRows rows = own_rows();
    float gate[2][2]{};
    add_gates<P>(gate[0], c[0], biases + kBiasX1 * H, biases + kGateWeight * H);
    const typename Common::Positions y(in, rows);
    wait_products<0>(c[1][0]);
    add_gates<P>(gate[1], c[1], biases + kBiasX1 * H, biases + kGateWeight * H);
    const Tile<P> v = tile(own(0), H), turned_sums = tile(own(kSums), kTurns);
    const GateRows gates{own(kGates).template as<float>()};
    Common::store_pulls(gates, {gate[0][0], gate[0][1], gate[1][0], gate[1][1]}, a.weights.vector(kNumVectors, H)[0],
                        y);
    take(p, own_alpha());
    Common::move(p, gates, y, in, a.x_out, rows);
    Common::sum_turns(turned_sums, p, turns, in, rows);
    wait_copies<0>();
    sync_block();
    const Tile<P> from_turns = tile(stream.stage(kNumMatrices), kTurns);
    constexpr int kColumns = stage_rows<P>(H);
    GEOTDM_NO_UNROLL
    for (int first = 0; first < H; first += kColumns)
      Common::store_features(first, p, v, turned_sums, {from_turns.place(first, 0), from_turns.stride},
                             a.weights.vector(kTimeBias, H), in, rows, a.h_out);
  }

  static GEOTDM_DEVICE void copy_matrix(const Tile<P>& to, const Element<P>* from, int num_rows, int depth) {
    const int pieces = depth / 8;
    GEOTDM_NO_UNROLL
    for (int i = thread_index(); i < num_rows * pieces; i += kThreads)
      copy_async(to.place(i / pieces, i % pieces * 8), from + 8 * i, true);
  }

  static GEOTDM_DEVICE void prefetch_rows(const float* array, int columns, const WarpRows& rows) {
    constexpr int kLine = 128 / sizeof(float);
    const float* from = array + rows.first * columns;
    for (int i = lane_index() * kLine; i < rows.count * columns; i += 32 * kLine) prefetch(from + i);
  }

  static GEOTDM_DEVICE Shared<Element<P>> fragment(const Tile<P>& tile, int row, int column) {
    const int lane = lane_index();
    return tile.place(row + lane % 16, column + lane / 16 * 8);
  }

  static GEOTDM_DEVICE void add_bias(Half& c, const float* bias) {
    GEOTDM_UNROLL
    for (int n = 0; n < H / 8; ++n) {
      const Float2 b = pair_of(bias, 8 * n);
      c[0][n][0] += b.x, c[0][n][1] += b.y, c[0][n][2] += b.x, c[0][n][3] += b.y;
    }
  }

  static GEOTDM_DEVICE void pack(Factors& f, const Half& c) {
    GEOTDM_UNROLL
    for (int k = 0; k < H / kStep; ++k) GEOTDM_UNROLL
    for (int i = 0; i < 4; ++i) f[k][i] = pack_bf16(c[0][2 * k + i / 2][i % 2 * 2], c[0][2 * k + i / 2][i % 2 * 2 + 1]);
  }

  // A lane's part of the weights alpha aside, while the last layers need its registers.
  static GEOTDM_DEVICE void keep(Shared<float> to, const Scores<2>& p) {
    GEOTDM_UNROLL
    for (int m = 0; m < 2; ++m) GEOTDM_UNROLL
    for (int n = 0; n < 4; ++n) to.store_as(128 * (4 * m + n), Float4{p[m][n][0], p[m][n][1], p[m][n][2], p[m][n][3]});
  }
  static GEOTDM_DEVICE void take(Scores<2>& p, Shared<float> from) {
    GEOTDM_UNROLL
    for (int m = 0; m < 2; ++m) GEOTDM_UNROLL
    for (int n = 0; n < 4; ++n) {
      const Float4 v = from.load_as<Float4>(128 * (4 * m + n));
      p[m][n][0] = v.x, p[m][n][1] = v.y, p[m][n][2] = v.z, p[m][n][3] = v.w;
    }
  }

  static GEOTDM_DEVICE void store(const Tile<P>& to, int m, const Factors& f) {
    GEOTDM_UNROLL
    for (int k = 0; k < H / kStep; ++k) GEOTDM_UNROLL
    for (int i = 0; i < 4; ++i)
      to.place(16 * m + lane_row() + i % 2 * 8, k * kStep + i / 2 * 8 + lane_column()).store_as(0, f[k][i]);
  }
};

}  // namespace geotdm::cuda
