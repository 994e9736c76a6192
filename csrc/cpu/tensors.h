// Between tensors and kernels: packed weights, scratch memory of threads, and gradients summed in fixed slots.
#pragma once

#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <atomic>
#include <utility>
#include <vector>

#include "kernels.h"

namespace geotdm {

inline int64_t round_up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }
inline int64_t tiles(int64_t rows) { return (rows + kTileRows - 1) / kTileRows; }

inline const float* data(const at::Tensor& t) { return t.const_data_ptr<float>(); }
inline float* mutable_data(const at::Tensor& t) { return t.mutable_data_ptr<float>(); }
inline const int64_t* index_data(const at::Tensor& t) { return t.const_data_ptr<int64_t>(); }

// Packed matrices and padded vectors, kept alive as long as the op runs.
class Weights {
 public:
  explicit Weights(const Kernels& k) : k_(k) {}

  // For x W^T, w [out, in]; columns may be a slice of a wider matrix.
  const float* matrix(const at::Tensor& w) { return packed(w.t()); }
  // For dz W.
  const float* transposed(const at::Tensor& w) { return packed(w); }

  const float* vector(const at::Tensor& v) {
    auto flat = v.reshape({-1});
    auto out = at::zeros({round_up(flat.numel(), k_.panel)}, flat.options());
    out.narrow(0, 0, flat.numel()).copy_(flat);
    kept_.push_back(out);
    return data(out);
  }

 private:
  const float* packed(const at::Tensor& b) {  // [k, n], any strides
    auto out = at::empty({k_.packed_size(b.size(0), b.size(1))}, b.options());
    k_.pack(mutable_data(out), b.const_data_ptr<float>(), b.size(0), b.size(1), b.stride(0), b.stride(1));
    kept_.push_back(out);
    return data(out);
  }

  const Kernels& k_;
  std::vector<at::Tensor> kept_;
};

// [rows, width] with rows padded to `stride`; the same tensor if they are already.
inline at::Tensor padded_rows(const at::Tensor& t, int64_t stride) {
  if (t.size(-1) == stride) return t.contiguous();
  auto out = at::zeros({t.size(0), stride}, t.options());
  out.narrow(1, 0, t.size(-1)).copy_(t);
  return out;
}

// Runs task(first, last, memory) over 0 .. count - 1, each thread with its own scratch of `floats`. A thread that is
// done takes the next part: cores are not equally fast, nor parts equally long. Parts are multiples of `grain`.
template <typename Task>
void parallel(int64_t count, int64_t floats, const at::TensorOptions& options, const Task& task, int64_t grain = 1) {
  if (count == 0) return;
  constexpr int64_t kPartsPerThread = 8;
  const int64_t threads = at::in_parallel_region() ? 1 : std::min<int64_t>(at::get_num_threads(), count);
  const int64_t part =
      threads == 1 ? count : round_up(std::max<int64_t>(1, count / (threads * kPartsPerThread)), grain);
  const int64_t aligned = round_up(floats, 16);
  auto memory = at::empty({threads * aligned + 16}, options);
  auto* start = reinterpret_cast<float*>(round_up(reinterpret_cast<int64_t>(mutable_data(memory)), 64));
  std::atomic<int64_t> next{0};
  at::parallel_for(0, threads, 1, [&](int64_t thread, int64_t end) {
    for (; thread < end; ++thread)
      for (int64_t first; (first = next.fetch_add(part)) < count;)
        task(first, std::min(first + part, count), start + thread * aligned);
  });
}

// Gradients of weights in slots: slot s sums its fixed share of the work, then the slots are added in order, so that
// the result does not depend on the number of threads. Without `wanted` there are none: tasks get null.
class Slots {
 public:
  Slots(int64_t size, const at::TensorOptions& options, bool wanted = true)
      : sums_(at::zeros({wanted ? kCount : 0, size}, options)) {}

  // Runs task(first, last, slot, memory) on the share of 0 .. count - 1 of every slot.
  template <typename Task>
  void run(int64_t count, int64_t floats, const Task& task) {
    if (sums_.size(0) == 0) {
      parallel(count, floats, sums_.options(),
               [&](int64_t first, int64_t last, float* memory) { task(first, last, nullptr, memory); });
      return;
    }
    parallel(kCount, floats, sums_.options(), [&](int64_t first_slot, int64_t last_slot, float* memory) {
      for (int64_t s = first_slot; s < last_slot; ++s) {
        const int64_t first = count * s / kCount, last = count * (s + 1) / kCount;
        if (first < last) task(first, last, mutable_data(sums_) + s * sums_.size(1), memory);
      }
    });
  }

  // The total over slots, [size].
  at::Tensor total() const {
    auto out = at::zeros({sums_.size(1)}, sums_.options());
    float* to = mutable_data(out);
    const float* from = data(sums_);
    const int64_t size = sums_.size(1);
    at::parallel_for(0, size, 4096, [&](int64_t first, int64_t last) {
      for (int64_t s = 0; s < kCount; ++s)
        for (int64_t c = first; c < last; ++c) to[c] += from[s * size + c];
    });
    return out;
  }

 private:
  static constexpr int64_t kCount = 16;
  at::Tensor sums_;
};

// Parts of a slot's total as gradients in the shape of the weights.
class SlotReader {
 public:
  SlotReader(const Slots& slots, int64_t width, int64_t stride)
      : total_(slots.total()), width_(width), stride_(stride) {}
  at::Tensor matrix(int64_t offset) const { return matrix(offset, width_); }
  at::Tensor matrix(int64_t offset, int64_t rows) const {
    return total_.narrow(0, offset, rows * stride_).view({rows, stride_}).narrow(1, 0, width_);
  }
  at::Tensor vector(int64_t offset) const { return total_.narrow(0, offset, width_); }
  at::Tensor block(int64_t offset, at::IntArrayRef shape) const {
    return total_.narrow(0, offset, c10::multiply_integers(shape)).view(shape);
  }
  at::Tensor scalar(int64_t offset) const { return total_.narrow(0, offset, 1); }

 private:
  at::Tensor total_;
  int64_t width_, stride_;
};

}  // namespace geotdm
