// The forward of one precision and width.
#pragma once

#include "attend.cuh"
#include "pipeline.cuh"
#include "pipelines.h"
#include "warpgroup_forward.cuh"

namespace geotdm::cuda {

// The fused kernel where a node's frames and some warps' tiles fit, else two kernels with q, k, v in the workspace.
template <Precision P, int H>
bool is_fused(const TemporalAttention& in) {
  constexpr int kLeastWarps = 2;
  return in.num_frames <= kRows && warps_of<FusedForward<P, H>>() >= kLeastWarps;
}

constexpr int kOtherKernel = -2;  // no error of a launch

// The fused kernel of warpgroups, where there is one for this precision, width and device.
template <Precision P, int H>
int launch_warpgroups([[maybe_unused]] const TemporalForward& call, [[maybe_unused]] const RowTiling& tiling,
                      [[maybe_unused]] const Weights<P>& weights, [[maybe_unused]] Stream stream) {
  if constexpr (P == kBf16 && (H == 64 || H == 128)) {
    using Kernel = WarpgroupForward<H>;
    if (has_warpgroups<Kernel>())
      return launch<Kernel>({call.in, tiling, weights, call.x_out, call.h_out, multiprocessors()},
                            (tiling.num_tiles() + Kernel::kWarps - 1) / Kernel::kWarps, 1, 32 * Kernel::kWarps,
                            Kernel::kBytes, stream);
  }
  return kOtherKernel;
}

template <Precision P, int H>
size_t Forward<P, H>::workspace(const TemporalAttention& in) {
  Workspace count(nullptr);
  take_weights<P, H>(count);
  if (!is_fused<P, H>(in)) take_rows<P, H>(count, in.num_nodes * in.num_frames);
  return count.used();
}

template <Precision P, int H>
int Forward<P, H>::run(const TemporalForward& call, StreamHandle stream) {
  const TemporalAttention& in = call.in;
  Workspace workspace(call.workspace);
  const Weights<P> weights = take_weights<P, H>(workspace);
  if (const int error = prepare<P, H>(in, weights, stream)) return error;
  const RowTiling tiling(in.num_nodes, in.num_frames);
  if (is_fused<P, H>(in)) {
    if (const int error = launch_warpgroups<P, H>(call, tiling, weights, stream); error != kOtherKernel) return error;
    using Kernel = FusedForward<P, H>;
    return launch_tiles<Kernel>({in, tiling, weights, Kernel::stages(), call.x_out, call.h_out}, 1, stream);
  }
  const RowArrays<P> arrays = take_rows<P, H>(workspace, tiling.num_rows);
  using Project = ProjectRows<P, H, false>;
  if (const int error = launch_tiles<Project>({in, tiling, weights, Project::stages(), arrays, nullptr}, 1, stream))
    return error;
  return launch_tiles<Attend<P, H>>({in, tiling, weights, arrays, call.x_out, call.h_out}, Attend<P, H>::kParts,
                                    stream);
}

}  // namespace geotdm::cuda
