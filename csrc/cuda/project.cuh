// The MLPs of every row alone, into global memory: what the attention kernels read when a node does not fit into one
// tile, and what the backward recomputes.
#pragma once

#include <type_traits>

#include "attention.cuh"

namespace geotdm::cuda {

// Arrays of the rows of one part of the nodes, in numbers of the precision; columns in brackets.
template <Precision P>
struct RowArrays {
  Element<P>*q, *k, *v;  // [H + kTurns] with the turned time_w^T q, [H], [H]
  float* gate;           // [1]
  // For the backward alone. h [H]; the halves of what silu is taken of in the four MLPs, later silu itself [H]; the
  // incoming gradient of h' with its turns, as in q [H + kTurns].
  Element<P>*h, *hidden[4], *grad_out;
  // Of the softmax of each query row: the highest logit; one over the sum of exp(logit - highest); the sum of alpha
  // times its gradient [1]. (One number, log of the sum, would cost as many digits as it is large.)
  float *highest, *scale, *mean;
  // Gradients of q, k, v [H] and the gate [1]; of what silu is taken of [H]; of time_w^T q, and time_w's factor in h',
  // both turned back [kTurns].
  Element<P>*grad_q, *grad_k, *grad_v, *grad_hidden[4], *grad_turned, *turned_sums;
  float* grad_gate;
};
enum HiddenLayer { kHiddenQ, kHiddenK, kHiddenV, kHiddenX };

template <Precision P, int H, bool kForBackward>
struct ProjectRows {
  struct Arguments {
    TemporalAttention in;
    RowTiling tiling;
    Weights<P> weights;
    StageList stages;
    RowArrays<P> to;
    const float* grad_h_out;
  };
  static constexpr int kMaxWarps = 8, kThreads = 32 * kMaxWarps, kBlocks = 1, kWarpsOfTile = 1;
  // h, then what comes out of an MLP | its hidden layer | turns
  static constexpr int kRowsBytes = tile_bytes<P>(kRows, H), kTurnBytes = tile_bytes<P>(kRows, kTurns);
  static constexpr int kWarpBytes = 2 * kRowsBytes + kTurnBytes, kBlockBytes = WeightStream<P, H>::kBytes;

  static StageList stages() {
    using Layout = PackedLayout<H>;
    constexpr int rows = stage_rows<P>(H);
    StageList list;
    list.add(Layout::matrix(kQ1), H, H, rows);
    list.add(Layout::matrix(kQ2), H, H, rows);
    list.add(Layout::to_turns(), kTurns, H, rows);
    for (int which : {kK1, kK2, kV1, kV2, kX1}) list.add(Layout::matrix(which), H, H, rows);
    if (kForBackward) list.add(Layout::to_turns(), kTurns, H, rows);
    return list;
  }

  static GEOTDM_DEVICE void run(const Arguments& a) {
    const TemporalAttention& in = a.in;
    const int warp = warp_index();
    const WarpRows rows = a.tiling.tile(block_index() * (block_threads() / 32) + warp);
    const auto vector = [&](int which) { return a.weights.vector(which, H); };
    const auto memory = shared_memory();
    WeightStream<P, H> weights(memory, a.weights.matrices, a.stages);
    const auto own = memory + (kBlockBytes + warp * kWarpBytes);
    const Tile<P> tile{own.template as<Element<P>>(), H + kPad};
    const Tile<P> hidden{(own + kRowsBytes).template as<Element<P>>(), H + kPad};
    const Tile<P> turns{(own + 2 * kRowsBytes).template as<Element<P>>(), kTurns + kPad};
    const auto at = [&](Element<P>* array, int columns) { return array + rows.first * columns; };

    const auto keep = [&](int which) {
      return [&, which](int row, int column, float y, float z) {
        if constexpr (kForBackward)
          if (row < rows.count) store_pair<P>(at(a.to.hidden[which], H) + row * H + column, make_pair<P>(y, z));
      };
    };
    const auto mlp = [&](int first_bias, int second_bias, auto which) {
      load_rows<P, H>(tile, in.h + rows.first * in.width, in.width, rows.count);
      sync_warp();
      if constexpr (kForBackward)
        if (which.value == kHiddenQ) store_rows<P, H>(at(a.to.h, H), H, tile, rows.count);
      hidden_layer<P, H>(weights, tile, vector(first_bias), hidden, keep(which.value));
      sync_warp();
      linear_layer<P, H, decltype(which)::value == kHiddenV>(weights, hidden, vector(second_bias), tile);
      sync_warp();
    };
    // The tile, and its product with time_w turned, side by side.
    const auto store_with_turns = [&](Element<P>* to) {
      to_turns<P, H>(weights, tile, in, rows, turns);
      sync_warp();
      store_rows<P, H>(to, H + kTurns, tile, rows.count);
      store_rows<P, kTurns>(to + H, H + kTurns, turns, rows.count);
      sync_warp();
    };

    mlp(kBiasQ1, kBiasQ2, std::integral_constant<HiddenLayer, kHiddenQ>());
    store_with_turns(at(a.to.q, H + kTurns));
    mlp(kBiasK1, kBiasK2, std::integral_constant<HiddenLayer, kHiddenK>());
    store_rows<P, H>(at(a.to.k, H), H, tile, rows.count);
    sync_warp();
    mlp(kBiasV1, kBiasV2, std::integral_constant<HiddenLayer, kHiddenV>());
    store_rows<P, H>(at(a.to.v, H), H, tile, rows.count);

    float gate[4]{};
    layer<P, H>(weights, tile, [&](int first, auto& c) {
      if constexpr (kForBackward)
        for_pairs(c, [&](int row, int column, float& y, float& z) {
          const Float2 b = pair_of(vector(kBiasX1), first + column);
          keep(kHiddenX)(row, first + column, y + b.x, z + b.y);
        });
      const int column = first + lane_column();
      add_gates<P>(gate, c, vector(kBiasX1) + column, vector(kGateWeight) + column);
    });
    GEOTDM_UNROLL
    for (int i = 0; i < 4; ++i) {
      const float g = quad_sum(gate[i]) + vector(kNumVectors)[0];
      if (lane_column() == 0 && lane_row(i) < rows.count) a.to.gate[rows.first + lane_row(i)] = g;
    }
    if constexpr (kForBackward) {
      sync_warp();
      load_rows<P, H>(tile, a.grad_h_out + rows.first * in.width, in.width, rows.count);
      sync_warp();
      store_with_turns(at(a.to.grad_out, H + kTurns));
    }
  }
};

}  // namespace geotdm::cuda
