// The functions of temporal_attention.h: checks, and the kernels of precision and width.
#include "pipeline.cuh"
#include "pipelines.h"

namespace geotdm::cuda {
namespace {

// call(Direction<P, H>) of the kernels of a precision and of the width, padded.
template <template <Precision, int> class Direction, class Call>
auto with_kernels(const TemporalAttention& in, Call&& call) {
  return with_width(in.width, [&](auto width) {
    switch (in.precision) {
      case kTf32:
        return call(Direction<kTf32, width()>());
      case kBf16:
        return call(Direction<kBf16, width()>());
      default:
        return call(Direction<kFp32, width()>());
    }
  });
}

const char* what_is_wrong(const TemporalAttention& in) {
  if (in.num_nodes < 0 || in.num_frames < 1 || in.num_frames > kMaxFrames)
    return "there must be 1 ... 4096 frames of some nodes";
  if (in.dim != 2 && in.dim != 3) return "D must be 2 or 3";
  if (in.width < 1 || in.width > kMaxWidth) return "H must be in 1 ... 256";
  if (in.time_emb_dim < 1 || in.time_emb_dim > kMaxTimeEmbDim || in.num_turns != in.time_emb_dim / 2 * 2)
    return "E must be in 1 ... 33, with 2 (E / 2) turns";
  if (in.window < 0) return "window must be at least 0";
  if (in.precision < kFp32 || in.precision > kBf16) return "precision must be 0, 1 or 2";
  return nullptr;
}

template <template <Precision, int> class Direction, class Call>
const char* run(const Call& call, StreamHandle stream) {
  if (const char* wrong = what_is_wrong(call.in)) return wrong;
  const int error = with_kernels<Direction>(call.in, [&](auto of) { return of.run(call, stream); });
  if (error == kNoRoom) return "the GPU has too little shared memory for this width in fp32 and tf32";
  return error ? error_text(error) : nullptr;
}

template <template <Precision, int> class Direction>
size_t workspace(const TemporalAttention& in) {
  if (what_is_wrong(in)) return 0;
  return with_kernels<Direction>(in, [&](auto of) { return of.workspace(in); });
}

}  // namespace
}  // namespace geotdm::cuda

using namespace geotdm::cuda;

size_t geotdm_temporal_forward_workspace(const TemporalAttention* in) { return workspace<Forward>(*in); }
size_t geotdm_temporal_backward_workspace(const TemporalAttention* in) { return workspace<Backward>(*in); }
const char* geotdm_temporal_forward(const TemporalForward* call, StreamHandle stream) {
  return run<Forward>(*call, stream);
}
const char* geotdm_temporal_backward(const TemporalBackward* call, StreamHandle stream) {
  return run<Backward>(*call, stream);
}
