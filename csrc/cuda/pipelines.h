// One file of instances/ for each direction, precision and width has the kernels: they compile side by side.
#pragma once

#include "temporal_attention.h"

namespace geotdm::cuda {

// `run` gives 0, or the error of a launch.
template <Precision P, int H>
struct Forward {
  static size_t workspace(const TemporalAttention& in);
  static int run(const TemporalForward& call, StreamHandle stream);
};

template <Precision P, int H>
struct Backward {
  static size_t workspace(const TemporalAttention& in);
  static int run(const TemporalBackward& call, StreamHandle stream);
};

}  // namespace geotdm::cuda
