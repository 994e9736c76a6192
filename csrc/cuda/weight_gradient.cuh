// Gradients of the weights: products of arrays over all rows, each split into parts whose sums are added in order.
#pragma once

#include "project.cuh"

namespace geotdm::cuda {

// Where the sums of one part are, in floats: matrices [H, H] as `Matrix`; for time_w what comes from q, then what comes
// from h' [H, kTurns]; biases as the rows `left` of the matrices, then time_b [H].
template <int H>
struct GradientLayout {
  GEOTDM_ANYWHERE static constexpr int matrix(int which) { return which * H * H; }
  GEOTDM_ANYWHERE static constexpr int turns(int which) { return matrix(kNumMatrices) + which * H * kTurns; }
  GEOTDM_ANYWHERE static constexpr int bias(int which) { return turns(2) + which * H; }
  GEOTDM_ANYWHERE static constexpr int size() { return (bias(kNumMatrices + 1) + 63) / 64 * 64; }
};

constexpr int kNoBias = -1;
// Parts of the gate's sums, which need few registers and no matrix units: one for each multiprocessor of an H100.
constexpr int kGateParts = 132;

// sums[out, in] = sum over rows of left[row, out] right[row, in], and of left alone.
template <Precision P>
struct RowProduct {
  const Element<P>*left, *right;
  int left_stride, right_stride;
  int sums, bias;  // places in GradientLayout; kNoBias
};

template <Precision P, int H, int kRight>
struct WeightGradient {
  struct Arguments {
    RowProduct<P> products[kNumMatrices];
    int64_t num_rows;
    int rows_of_part;
    bool is_first;  // of the calls that add up
    float* sums;    // [parts, GradientLayout::size()]
  };
  static constexpr int kM = H < 128 ? H : 128, kN = kRight < 128 ? kRight : 128;
  static constexpr int kWarpN = kN < 64 ? kN : 64, kWarpsM = kM / 32, kWarpsN = kN / kWarpN;
  static constexpr int kThreads = 32 * kWarpsM * kWarpsN, kBlocks = 1;
  static constexpr int kTilesM = H / kM, kTilesN = kRight / kN, kBlocksX = kTilesM * kTilesN;
  static constexpr int kLeftBytes = tile_bytes<P>(kRows, kM), kRightBytes = tile_bytes<P>(kRows, kN);
  static constexpr int kBytes = 2 * (kLeftBytes + kRightBytes);

  static GEOTDM_DEVICE void run(const Arguments& a) {
    const int block = static_cast<int>(block_index());
    const RowProduct<P>& product = a.products[block / kBlocksX];
    const int first_m = block % kBlocksX / kTilesN * kM, first_n = block % kTilesN * kN;
    const int m = warp_index() / kWarpsN * 32, n = warp_index() % kWarpsN * kWarpN;
    const int64_t begin = static_cast<int64_t>(block_index_y()) * a.rows_of_part;
    const int64_t limit = begin + a.rows_of_part, end = limit < a.num_rows ? limit : a.num_rows;
    const auto memory = shared_memory();
    const auto left = [&](int64_t step) {
      return Tile<P>{(memory + static_cast<int>(step % 2) * (kLeftBytes + kRightBytes)).template as<Element<P>>(),
                     kM + kPad};
    };
    const auto right = [&](int64_t step) {
      return Tile<P>{
          (memory + (static_cast<int>(step % 2) * (kLeftBytes + kRightBytes) + kLeftBytes)).template as<Element<P>>(),
          kN + kPad};
    };
    const auto fetch = [&](int64_t step) {
      const int64_t row = begin + step * kRows;
      if (row < end) {
        const int count = end - row < kRows ? static_cast<int>(end - row) : kRows;
        copy<kM>(left(step), product.left + row * product.left_stride + first_m, product.left_stride, count);
        copy<kN>(right(step), product.right + row * product.right_stride + first_n, product.right_stride, count);
      }
      commit_copies();
    };

    FactorB<P> ones;
    set<P>(ones, 0, 1, 1), set<P>(ones, 1, 1, 1);
    Result<2, kWarpN / 8> c;
    Result<2, 1> bias;
    clear(c), clear(bias);
    const bool has_bias = product.bias != kNoBias && first_n == 0 && n == 0;

    fetch(0);
    const int64_t steps = end > begin ? (end - begin + kRows - 1) / kRows : 0;
    for (int64_t step = 0; step < steps; ++step) {
      wait_copies<0>();
      sync_block();
      fetch(step + 1);
      sum_products<P>(
          c, kRows,
          [&](int row, int k) {
            const FactorA<P> factor = load_a_transposed(left(step), k, m + row);
            if (has_bias) multiply_add<P>(bias[row / 16][0], factor, ones);
            return factor;
          },
          [&](FactorB<P>(&f)[2], int column, int k) { load_b_transposed(f, right(step), k, n + column); });
    }
    wait_copies<0>();

    float* sums = a.sums + static_cast<int64_t>(block_index_y()) * GradientLayout<H>::size();
    const auto add = [&](int place, float v) { sums[place] = a.is_first ? v : sums[place] + v; };
    for_pairs(c, [&](int row, int column, float& v, float& w) {
      const int place = product.sums + (first_m + m + row) * kRight + first_n + n + column;
      add(place, v), add(place + 1, w);
    });
    if (has_bias && lane_column() == 0)
      for (int i = 0; i < 4; ++i) add(product.bias + first_m + m + 8 * i + lane_row(), bias[i / 2][0][i % 2 * 2]);
  }

  template <int kColumns>
  static GEOTDM_DEVICE void copy(const Tile<P>& to, const Element<P>* from, int stride, int count) {
    constexpr int kPiece = 16 / sizeof(Element<P>), kPieces = kColumns / kPiece;
    for (int i = thread_index(); i < kRows * kPieces; i += kThreads) {
      const int row = i / kPieces, column = i % kPieces * kPiece;
      copy_async(to.place(row, column), from + (row < count ? row * stride + column : 0), row < count);
    }
  }
};

// The gate's last layer: sums of gradient times hidden layer. A thread has two channels of every kGroups-th row of its
// block's part, and the groups' sums are added in order.
template <Precision P, int H>
struct GateGradient {
  struct Arguments {
    const float* grad_gate;
    const Element<P>* hidden;
    int64_t num_rows;
    bool is_first;
    float* sums;  // [kGateParts, kSize]: x_w2 [H], x_b2
  };
  static constexpr int kThreads = 512, kBlocks = 1, kGroups = kThreads / (H / 2), kSize = H + 2;
  static constexpr int kBytes = kGroups * kSize * sizeof(float);

  static GEOTDM_DEVICE void run(const Arguments& a) {
    const int64_t rows_of_part = (a.num_rows + kGateParts - 1) / kGateParts, begin = block_index() * rows_of_part;
    const int64_t limit = begin + rows_of_part, end = limit < a.num_rows ? limit : a.num_rows;
    const int group = thread_index() / (H / 2), column = thread_index() % (H / 2) * 2;
    Float2 sum{};
    float gates = 0;
    GEOTDM_UNROLL_FOUR_TIMES
    for (int64_t row = begin + group; row < end; row += kGroups) {
      const float g = a.grad_gate[row];
      const Float2 v = values<P>(load_pair<P>(a.hidden + row * H + column));
      sum.x += g * v.x, sum.y += g * v.y, gates += g;
    }
    const Shared<float> of_groups = shared_memory().template as<float>();
    of_groups.store_as(group * kSize + column, sum);
    if (column == 0) of_groups.store(group * kSize + H, gates);
    sync_block();
    float* sums = a.sums + block_index() * kSize;
    for (int i = thread_index(); i <= H; i += kThreads) {
      float total = a.is_first ? 0 : sums[i];
      for (int other = 0; other < kGroups; ++other) total += of_groups.load(other * kSize + i);
      sums[i] = total;
    }
  }
};

// Adds the parts in order, and puts the sums into the shapes of the parameters.
template <int H>
struct CollectGradients {
  struct Arguments {
    TemporalAttention in;
    const float *sums, *gate_sums;
    int parts, gate_parts;
    float* grads[kNumParams];
  };
  static constexpr int kThreads = 256, kBlocks = 1;

  // Where in a part's sums entry (row, column) of a parameter is; -1: it is zero.
  static GEOTDM_DEVICE int place(const TemporalAttention& in, int param, int row, int column) {
    using Layout = GradientLayout<H>;
    switch (param) {
      case kXW2:
        return column;
      case kXB2:
        return H;
      case kTimeB:
        return Layout::bias(kNumMatrices) + column;
      case kTimeW: {
        const int frequencies = in.num_turns / 2;
        if (column >= in.num_turns) return -1;
        return Layout::turns(0) + row * kTurns + column % frequencies * 2 + column / frequencies;
      }
      default:  // pairs of a weight and a bias, in the order of Matrix
        return param % 2 == 0 ? Layout::matrix(param / 2) + row * H + column : Layout::bias(param / 2) + column;
    }
  }

  static GEOTDM_DEVICE void run(const Arguments& a) {
    const int param = block_index_y(), width = a.in.width;
    const int i = static_cast<int>(block_index()) * kThreads + thread_index();
    const int columns = param == kTimeW ? a.in.time_emb_dim : param == kXB2 ? 1 : width;
    const int rows = param == kTimeW || (param % 2 == 0 && param < kXW2) ? width : 1;
    if (i >= rows * columns) return;
    const int from = place(a.in, param, i / columns, i % columns);
    const bool is_gate = param == kXW2 || param == kXB2;
    const float* sums = is_gate ? a.gate_sums : a.sums;
    const int parts = is_gate ? a.gate_parts : a.parts;
    const int size = is_gate ? GateGradient<kFp32, H>::kSize : GradientLayout<H>::size();
    float sum = 0;
    GEOTDM_UNROLL_FOUR_TIMES
    for (int part = 0; part < (from >= 0 ? parts : 0); ++part) {
      const float* of_part = sums + static_cast<int64_t>(part) * size;
      sum += of_part[from] + (param == kTimeW ? of_part[from + H * kTurns] : 0.0f);
    }
    a.grads[param][i] = sum;
  }
};

}  // namespace geotdm::cuda
