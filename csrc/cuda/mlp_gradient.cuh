// From the gradients of q, k, v and the gate back through their MLPs to h; on the way the arrays of hidden layers
// become what the weights' gradients are made of.
#pragma once

#include "project.cuh"

namespace geotdm::cuda {

template <Precision P, int H>
struct MlpGradient {
  struct Arguments {
    TemporalAttention in;
    RowTiling tiling;
    Weights<P> weights;
    StageList stages;
    RowArrays<P> rows;
    const float* grad_h_out;
    float* grad_h;
  };
  static constexpr int kMaxWarps = 8, kThreads = 32 * kMaxWarps, kBlocks = 1, kWarpsOfTile = 1;
  static constexpr int kRowsBytes = tile_bytes<P>(kRows, H);
  static constexpr int kWarpBytes = 2 * kRowsBytes, kBlockBytes = WeightStream<P, H>::kBytes;

  static StageList stages() {
    using Layout = PackedLayout<H>;
    constexpr int rows = stage_rows<P>(H);
    StageList list;
    for (int which : {kX1, kV2, kV1}) list.add(Layout::transposed(which), H, H, rows);
    list.add(Layout::from_turns(), H, kTurns, rows);
    for (int which : {kQ2, kQ1, kK2, kK1}) list.add(Layout::transposed(which), H, H, rows);
    return list;
  }

  static GEOTDM_DEVICE void run(const Arguments& a) {
    const TemporalAttention& in = a.in;
    const int warp = warp_index();
    const WarpRows rows = a.tiling.tile(block_index() * (block_threads() / 32) + warp);
    const auto memory = shared_memory();
    WeightStream<P, H> weights(memory, a.weights.matrices, a.stages);
    const auto own = memory + (kBlockBytes + warp * kWarpBytes);
    const Tile<P> one{own.template as<Element<P>>(), H + kPad},
        other{(own + kRowsBytes).template as<Element<P>>(), H + kPad};
    const auto at = [&](Element<P>* array) { return array + rows.first * H; };

    // An array's rows in the places of a result, all before any is stored.
    const auto load = [&](auto& to, const Element<P>* array, int first) {
      for_pairs(to, [&](int row, int column, float& v, float& w) {
        const Float2 pair = row < rows.count ? values<P>(load_pair<P>(array + row * H + first + column)) : Float2{};
        v = pair.x, w = pair.y;
      });
    };
    // Takes what came through the last layer of an MLP through silu, and the hidden layer into its place.
    const auto through_silu = [&](int which, int first, const auto& c, const Tile<P>& to) {
      std::remove_cvref_t<decltype(c)> hidden;
      load(hidden, at(a.rows.hidden[which]), first);
      for_pairs(c, hidden, [&](int row, int column, const Float2& v, const Float2& y) {
        Float2 grad{};
        if (row < rows.count) {
          grad = {v.x * silu_slope_of_half<P>(y.x), v.y * silu_slope_of_half<P>(y.y)};
          const int place = row * H + first + column;
          store_pair<P>(at(a.rows.hidden[which]) + place, make_pair<P>(silu_of_half<P>(y.x), silu_of_half<P>(y.y)));
          store_pair<P>(at(a.rows.grad_hidden[which]) + place, make_pair<P>(grad.x, grad.y));
        }
        to.store(row, first + column, grad.x, grad.y);
      });
    };
    const auto last_layer = [&](int which, const Tile<P>& from, const Tile<P>& to) {
      layer<P, H>(weights, from, [&](int first, auto& c) { through_silu(which, first, c, to); });
      sync_warp();
    };
    // What comes out of a layer's result and an array is the array's, and a tile's.
    const auto add_to = [&](Element<P>* array, int first, auto& c, const Tile<P>& to) {
      std::remove_cvref_t<decltype(c)> old;
      load(old, at(array), first);
      for_pairs(c, old, [&](int row, int column, const Float2& v, const Float2& w) {
        const Float2 sum = row < rows.count ? Float2{v.x + w.x, v.y + w.y} : Float2{};
        if (row < rows.count) store_pair<P>(at(array) + row * H + first + column, make_pair<P>(sum.x, sum.y));
        to.store(row, first + column, sum.x, sum.y);
      });
    };
    // A first layer, into grad_h: begun with the incoming gradient, then added to.
    const auto first_layer = [&](const Tile<P>& from, const float* before) {
      layer<P, H>(weights, from, [&](int first, auto& c) {
        const int64_t place = rows.first * in.width;
        std::remove_reference_t<decltype(c)> old;
        load_result(old, before + place, first, in.width, rows.count);
        add(c, old);
        store_result(a.grad_h + place, c, first, in.width, rows.count);
      });
      sync_warp();
    };

    constexpr int kColumns = stage_rows<P>(H);
    Result<2, kColumns / 8> gate;
    GEOTDM_NO_UNROLL
    for (int first = 0; first < H; first += kColumns) {
      for_pairs(gate, [&](int row, int column, float& v, float& w) {
        const float grad = row < rows.count ? a.rows.grad_gate[rows.first + row] : 0.0f;
        const Float2 last = pair_of(a.weights.vector(kGateWeight, H), first + column);
        v = grad * last.x, w = grad * last.y;
      });
      through_silu(kHiddenX, first, gate, one);
    }
    sync_warp();
    layer<P, H>(weights, one, [&](int first, auto& c) { add_to(a.rows.grad_v, first, c, other); });
    sync_warp();
    last_layer(kHiddenV, other, one);
    first_layer(one, a.grad_h_out);

    copy_rows<P, kTurns>(other, a.rows.grad_turned + rows.first * kTurns, rows.count);
    commit_copies();
    wait_copies<0>();
    sync_warp();
    layer<P, H>(weights, other, [&](int first, auto& c) { add_to(a.rows.grad_q, first, c, one); }, kTurns);
    sync_warp();
    last_layer(kHiddenQ, one, other);
    first_layer(other, a.grad_h);

    copy_rows<P, H>(one, a.rows.grad_k + rows.first * H, rows.count);
    commit_copies();
    wait_copies<0>();
    sync_warp();
    last_layer(kHiddenK, one, other);
    first_layer(other, a.grad_h);
  }
};

}  // namespace geotdm::cuda
