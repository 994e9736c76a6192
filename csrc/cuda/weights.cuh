// The weights as the kernels want them: padded, in the precision's numbers, cut into stages that stream through shared
// memory in the order of their use. Made anew in every call by one small kernel.
#pragma once

#include "products.cuh"

namespace geotdm::cuda {

// Native widths; others are padded with zeros, which change no sum.
GEOTDM_ANYWHERE constexpr int padded_width(int width) {
  return width <= 32 ? 32 : width <= 64 ? 64 : width <= 128 ? 128 : 256;
}

// Turns [cos(w_k t), sin(w_k t)], padded. As psi(t - s) = time_w [sin(w_k (t - s)) | cos(w_k (t - s))] + time_b, the
// addition theorems give q_t . psi(t - s) = u'_t . turn_s + (what is the same for all s), u' being u = time_w^T q
// rotated by the angles of t; and sum_s alpha_ts psi(t - s) = time_w e_t + time_b, e being y = sum_s alpha_ts turn_s
// rotated back.
constexpr int kTurns = kMaxTimeEmbDim / 2 * 2;

// Rows of a stage: how many channels of a result a warp holds at a time. A stage is at most 17 KiB, so that the tiles
// of some warps fit beside two of them; twice that for float32 and tf32 at 256.
template <Precision P>
GEOTDM_ANYWHERE constexpr int stage_rows(int width) {
  return width == 64 || (width == 128 && P == kBf16) ? 64 : 32;
}

enum Matrix { kQ1, kQ2, kK1, kK2, kV1, kV2, kX1, kNumMatrices };

// Vectors of `width` floats each. Weights and biases before an activation come halved: silu(z) = y + y tanh(y), y =
// z/2.
enum Vector { kBiasQ1, kBiasQ2, kBiasK1, kBiasK2, kBiasV1, kBiasV2, kBiasX1, kGateWeight, kTimeBias, kNumVectors };

// Where each matrix of `width` is, in elements from the start.
template <int H>
struct PackedLayout {
  static constexpr int kMatrix = H * H, kTurnMatrix = H * kTurns;
  // As they are, [out, in], for x W^T, the first of each MLP halved; then transposed and not halved, for dz W.
  GEOTDM_ANYWHERE static constexpr int matrix(int which) { return which * kMatrix; }
  GEOTDM_ANYWHERE static constexpr int transposed(int which) { return (kNumMatrices + which) * kMatrix; }
  // time_w with sine and cosine of a frequency side by side: [H, kTurns], and transposed.
  GEOTDM_ANYWHERE static constexpr int from_turns() { return 2 * kNumMatrices * kMatrix; }
  GEOTDM_ANYWHERE static constexpr int to_turns() { return from_turns() + kTurnMatrix; }
  GEOTDM_ANYWHERE static constexpr int size() { return to_turns() + kTurnMatrix; }
};

template <Precision P>
struct Weights {
  const Element<P>* matrices;  // PackedLayout
  const float* vectors;        // [kNumVectors, width], then the gate's bias

  GEOTDM_DEVICE const float* vector(int which, int width) const { return vectors + which * width; }
};

// A lane's two entries of a vector.
GEOTDM_DEVICE Float2 pair_of(const float* vector, int column) {
  return *reinterpret_cast<const Float2*>(vector + column);
}

// Writes Weights.
template <Precision P, int H>
struct PrepareWeights {
  struct Arguments {
    TemporalAttention in;
    Element<P>* matrices;
    float* vectors;
  };
  static constexpr int kThreads = 256, kBlocks = 1;
  static constexpr int kNumbers = PackedLayout<H>::size() / 2 + kNumVectors * H + 1;

  static GEOTDM_DEVICE float entry(const Arguments& a, int param, int row, int column) {
    const int width = a.in.width;
    return row < width && column < width ? a.in.params[param][row * width + column] : 0;
  }

  // Entry (channel, turn) of time_w; the official columns are all sines, then all cosines, then a zero.
  static GEOTDM_DEVICE float turn_entry(const Arguments& a, int channel, int turn) {
    if (channel >= a.in.width || turn >= a.in.num_turns) return 0;
    const int frequencies = a.in.num_turns / 2;
    return a.in.params[kTimeW][channel * a.in.time_emb_dim + turn / 2 + (turn % 2) * frequencies];
  }

  static GEOTDM_DEVICE float matrix_entry(const Arguments& a, int i) {
    using Layout = PackedLayout<H>;
    constexpr int weight[] = {kQW1, kQW2, kKW1, kKW2, kVW1, kVW2, kXW1};
    if (i >= Layout::from_turns()) {
      const int j = (i - Layout::from_turns()) % Layout::kTurnMatrix;
      return i < Layout::to_turns() ? turn_entry(a, j / kTurns, j % kTurns) : turn_entry(a, j % H, j / H);
    }
    const int which = i / Layout::kMatrix, row = i % Layout::kMatrix / H, column = i % H;
    if (which >= kNumMatrices) return entry(a, weight[which - kNumMatrices], column, row);
    const bool halved = which == kQ1 || which == kK1 || which == kV1 || which == kX1;
    return (halved ? 0.5f : 1.0f) * entry(a, weight[which], row, column);
  }

  static GEOTDM_DEVICE float vector_entry(const Arguments& a, int i) {
    constexpr int param[] = {kQB1, kQB2, kKB1, kKB2, kVB1, kVB2, kXB1, kXW2, kTimeB, kXB2};
    const int which = i / H, column = i % H;
    if (column >= (which == kNumVectors ? 1 : a.in.width)) return 0;
    const bool halved = which == kBiasQ1 || which == kBiasK1 || which == kBiasV1 || which == kBiasX1;
    return (halved ? 0.5f : 1.0f) * a.in.params[param[which]][column];
  }

  static GEOTDM_DEVICE void run(const Arguments& a) {
    const int i = static_cast<int>(block_index()) * block_threads() + thread_index();
    if (2 * i < PackedLayout<H>::size())
      store_pair<P>(a.matrices + 2 * i, make_pair<P>(matrix_entry(a, 2 * i), matrix_entry(a, 2 * i + 1)));
    else if (const int j = i - PackedLayout<H>::size() / 2; j <= kNumVectors * H)
      a.vectors[j] = vector_entry(a, j);
  }
};

// The stages of a kernel in their order: rows of a packed matrix that follow one another.
struct StageList {
  struct Stage {
    int32_t offset;
    int16_t rows, depth;
  };
  int32_t count = 0;
  Stage stages[72];

  // A matrix [out, depth] in stages of at most `rows`.
  void add(int offset, int out, int depth, int rows) {
    for (int row = 0; row < out; row += rows)
      stages[count++] = {offset + row * depth, static_cast<int16_t>(rows < out - row ? rows : out - row),
                         static_cast<int16_t>(depth)};
  }
};

// Streams stages through two buffers: while the block computes with one, the next is on its way into the other.
template <Precision P, int H>
class WeightStream {
 public:
  static constexpr int kStageBytes = tile_bytes<P>(stage_rows<P>(H), H);
  static constexpr int kBytes = 2 * kStageBytes;

  GEOTDM_DEVICE WeightStream(Shared<unsigned char> memory, const Element<P>* matrices, const StageList& list)
      : memory_(memory), matrices_(matrices), list_(list) {
    fetch();
  }

  // The next stage. Every thread of the block calls it; the stage before is no longer anyone's to read.
  GEOTDM_DEVICE Tile<P> next() {
    wait_copies<0>();
    sync_block();
    const Tile<P> ready = buffer(fetched_ - 1);
    fetch();
    return ready;
  }

 private:
  GEOTDM_DEVICE Tile<P> buffer(int i) const {
    const int depth = list_.stages[i].depth;
    return {(memory_ + i % 2 * kStageBytes).template as<Element<P>>(), depth + kPad};
  }

  GEOTDM_DEVICE void fetch() {
    if (fetched_ < list_.count) {
      constexpr int kPiece = 16 / sizeof(Element<P>);
      const StageList::Stage stage = list_.stages[fetched_];
      const Tile<P> to = buffer(fetched_);
      const int pieces = stage.depth / kPiece;
      for (int i = thread_index(); i < stage.rows * pieces; i += block_threads())
        copy_async(to.place(i / pieces, i % pieces * kPiece), matrices_ + stage.offset + i * kPiece, true);
    }
    commit_copies();
    ++fetched_;
  }

  Shared<unsigned char> memory_;
  const Element<P>* matrices_;
  const StageList& list_;
  int fetched_ = 0;
};

}  // namespace geotdm::cuda
