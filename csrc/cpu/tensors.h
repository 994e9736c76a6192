// Between tensors and kernels: packed weights, scratch memory of threads, and gradients summed in fixed slots.
#pragma once

#include <algorithm>
#include <atomic>
#include <utility>

#include "kernels.h"
#include "tensor.h"

namespace geotdm {

inline int64_t round_up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }
inline int64_t tiles(int64_t rows) { return (rows + kTileRows - 1) / kTileRows; }

// Packed matrices and padded vectors, kept alive as long as the op runs.
class Weights {
 public:
  explicit Weights(const Kernels& k) : k_(k) {}

  // For x W^T, w [out, in]; columns may be a slice of a wider matrix.
  const float* matrix(const Matrix& w) { return packed(w.t()); }
  // For dz W.
  const float* transposed(const Matrix& w) { return packed(w); }

  const float* vector(const Vector& v) {
    const int64_t padded = round_up(v.size, k_.panel);
    float* to = room(padded);
    copy(v, to);
    std::fill(to + v.size, to + padded, 0.0f);
    return to;
  }

 private:
  const float* packed(const Matrix& b) {  // [k, n]
    float* to = room(k_.packed_size(b.rows, b.columns));
    k_.pack(to, b.from, b.rows, b.columns, b.row_stride, b.column_stride);
    return to;
  }

  // Cut off a tensor that holds the weights of a layer of some width: a tensor for each would cost 20 us a layer.
  float* room(int64_t floats) {
    constexpr int64_t kFloats = 1 << 16;
    if (left_ < floats) {
      left_ = std::max(floats, kFloats);
      next_ = mutable_data(kept_.emplace_back(empty({left_})));
    }
    const int64_t taken = std::min(round_up(floats, 16), left_);  // whole lines of the cache
    float* at = next_;
    next_ += taken, left_ -= taken;
    return at;
  }

  const Kernels& k_;
  Tensors kept_;
  float* next_ = nullptr;
  int64_t left_ = 0;
};

// [rows, width] with rows padded to `stride`; the same tensor if they are already.
inline Tensor padded_rows(const Tensor& t, int64_t stride) {
  const Matrix m(t);
  if (m.columns == stride && t.is_contiguous()) return t;
  auto out = m.columns == stride ? empty({m.rows, stride}) : zeros({m.rows, stride});
  copy(m, mutable_data(out), stride);
  return out;
}

// Runs task(first, last, memory) over 0 .. count - 1, each thread with its own scratch of `floats`. A thread that is
// done takes the next part: cores are not equally fast, nor parts equally long. Parts are multiples of `grain`.
template <typename Task>
void parallel(int64_t count, int64_t floats, const Task& task, int64_t grain = 1) {
  if (count == 0) return;
  constexpr int64_t kPartsPerThread = 8;
  const int64_t threads = std::min<int64_t>(torch::stable::get_num_threads(), count);
  const int64_t part =
      threads == 1 ? count : round_up(std::max<int64_t>(1, count / (threads * kPartsPerThread)), grain);
  const int64_t aligned = round_up(floats, 16);
  std::optional<Tensor> memory;
  float* start = nullptr;
  if (floats > 0) {
    memory = empty({threads * aligned + 16});
    start = reinterpret_cast<float*>(round_up(reinterpret_cast<int64_t>(mutable_data(*memory)), 64));
  }
  std::atomic<int64_t> next{0};
  parallel_for(threads, 1, [&](int64_t thread, int64_t end) {
    for (; thread < end; ++thread)
      for (int64_t first; (first = next.fetch_add(part)) < count;)
        task(first, std::min(first + part, count), start + thread * aligned);
  });
}

// Gradients of weights in slots: slot s sums its fixed share of the work, then the slots are added in order, so that
// the result does not depend on the number of threads. Without `wanted` there are none: tasks get null.
class Slots {
 public:
  explicit Slots(int64_t size, bool wanted = true)
      : count_(wanted ? kCount : 0), size_(size), sums_(empty({count_, size})), at_(mutable_data(sums_)) {}

  // Runs task(first, last, slot, memory) on the share of 0 .. count - 1 of every slot.
  template <typename Task>
  void run(int64_t count, int64_t floats, const Task& task) {
    if (count_ == 0) {
      parallel(count, floats, [&](int64_t first, int64_t last, float* memory) { task(first, last, nullptr, memory); });
      return;
    }
    parallel(count_, floats, [&](int64_t first_slot, int64_t last_slot, float* memory) {
      for (int64_t s = first_slot; s < last_slot; ++s) {
        const int64_t first = count * s / kCount, last = count * (s + 1) / kCount;
        if (!begun_) std::fill(at_ + s * size_, at_ + (s + 1) * size_, 0.0f);
        if (first < last) task(first, last, at_ + s * size_, memory);
      }
    });
    begun_ = true;
  }

  // The total over slots, [size].
  Tensor total() const {
    auto out = zeros({size_});
    if (!begun_) return out;
    float* to = mutable_data(out);
    constexpr int64_t kBlock = 4096;  // floats, which stay in the first cache
    parallel_for(size_, kBlock, [&](int64_t first, int64_t last) {
      for (int64_t from = first, until; from < last; from = until) {
        until = std::min(from + kBlock, last);
        for (int64_t s = 0; s < count_; ++s)
          for (int64_t c = from; c < until; ++c) to[c] += at_[s * size_ + c];
      }
    });
    return out;
  }

 private:
  static constexpr int64_t kCount = 16;
  int64_t count_, size_;
  Tensor sums_;
  float* at_;
  bool begun_ = false;  // whether the first run() has filled the slots: a thread fills those that it adds to
};

// Parts of a slot's total, in the shape of the weights.
class SlotReader {
 public:
  SlotReader(const Slots& slots, int64_t width, int64_t stride)
      : total_(slots.total()), from_(data(total_)), width_(width), stride_(stride) {}
  Matrix matrix(int64_t offset) const { return matrix(offset, width_); }
  Matrix matrix(int64_t offset, int64_t rows) const { return {from_ + offset, rows, width_, stride_}; }
  Vector vector(int64_t offset) const { return {from_ + offset, width_, 1}; }
  Matrix block(int64_t offset, int64_t rows, int64_t columns) const { return {from_ + offset, rows, columns, columns}; }
  Vector numbers(int64_t offset, int64_t count) const { return {from_ + offset, count, 1}; }

 private:
  Tensor total_;
  const float* from_;
  int64_t width_, stride_;
};

}  // namespace geotdm
