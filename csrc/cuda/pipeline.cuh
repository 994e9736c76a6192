// What the forward and the backward share: the workspace, the weights in it, and how many warps make a block.
#pragma once

#include <type_traits>

#include "project.cuh"

namespace geotdm::cuda {

// Deals out the workspace; with null it counts the bytes.
class Workspace {
 public:
  explicit Workspace(void* memory) : memory_(static_cast<unsigned char*>(memory)) {}

  template <class T>
  T* take(int64_t count) {
    const size_t at = used_;
    used_ += (count * sizeof(T) + 255) / 256 * 256;
    return memory_ ? reinterpret_cast<T*>(memory_ + at) : nullptr;
  }
  size_t used() const { return used_; }

 private:
  unsigned char* memory_;
  size_t used_ = 0;
};

// How many warps of a kernel share a block: as many as its shared memory allows. 0: not even one.
template <class Kernel>
int warps_of() {
  const int left = shared_limit() - Kernel::kBlockBytes;
  const int fit = left < 0 ? 0 : left / Kernel::kWarpBytes;
  return fit < Kernel::kMaxWarps ? fit : Kernel::kMaxWarps;
}

constexpr int kNoRoom = -1;  // the error of a GPU whose shared memory does not hold one warp's tiles

// A kernel whose warps take tiles. A call of few tiles has smaller blocks, so that every multiprocessor has some.
template <class Kernel>
int launch_tiles(const typename Kernel::Arguments& arguments, int parts, Stream stream) {
  const int most = warps_of<Kernel>();
  if (most == 0) return kNoRoom;
  const int64_t needed = arguments.tiling.num_tiles() * Kernel::kWarpsOfTile;
  const int64_t fair = (needed * parts + multiprocessors() - 1) / multiprocessors();
  const int warps = fair < 1 ? 1 : fair < most ? static_cast<int>(fair) : most;
  return launch<Kernel>(arguments, (needed + warps - 1) / warps, parts, 32 * warps,
                        Kernel::kBlockBytes + warps * Kernel::kWarpBytes, stream);
}

template <Precision P, int H>
Weights<P> take_weights(Workspace& workspace) {
  return {workspace.take<Element<P>>(PackedLayout<H>::size()), workspace.take<float>(kNumVectors * H + 1)};
}

template <Precision P, int H>
int prepare(const TemporalAttention& in, const Weights<P>& to, Stream stream) {
  using Kernel = PrepareWeights<P, H>;
  const int blocks = (Kernel::kNumbers + Kernel::kThreads - 1) / Kernel::kThreads;
  return launch<Kernel>({in, const_cast<Element<P>*>(to.matrices), const_cast<float*>(to.vectors)}, blocks, 1,
                        Kernel::kThreads, 0, stream);
}

template <Precision P, int H>
RowArrays<P> take_rows(Workspace& workspace, int64_t rows) {
  RowArrays<P> arrays{};
  arrays.q = workspace.take<Element<P>>(rows * (H + kTurns));
  arrays.k = workspace.take<Element<P>>(rows * H), arrays.v = workspace.take<Element<P>>(rows * H);
  arrays.gate = workspace.take<float>(rows);
  return arrays;
}

// call(std::integral_constant<int, native width>)
template <class Call>
auto with_width(int width, Call&& call) {
  switch (padded_width(width)) {
    case 32:
      return call(std::integral_constant<int, 32>());
    case 64:
      return call(std::integral_constant<int, 64>());
    case 128:
      return call(std::integral_constant<int, 128>());
    default:
      return call(std::integral_constant<int, 256>());
  }
}

}  // namespace geotdm::cuda
