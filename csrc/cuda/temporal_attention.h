// The op temporal_attention on a GPU as plain functions of pointers: what the torch binding, and the emulation on the
// host, call. Everything is float32, row-major and contiguous, on one device.
#pragma once

#include <cstddef>
#include <cstdint>

namespace geotdm::cuda {

#ifdef GEOTDM_EMULATE
using StreamHandle = void*;
#else
using StreamHandle = struct CUstream_st*;
#endif

// What the factors of matrix products are rounded to; sums and the softmax are float32.
enum Precision : int32_t { kFp32, kTf32, kBf16 };

constexpr int kMaxWidth = 256, kMaxTimeEmbDim = 33, kMaxFrames = 4096;

// The order of TemporalAttentionParams in geotdm_fast/reference/temporal_attention.py.
enum Param {
  kQW1,
  kQB1,
  kQW2,
  kQB2,
  kKW1,
  kKB1,
  kKW2,
  kKB2,
  kVW1,
  kVB1,
  kVW2,
  kVB2,
  kXW1,
  kXB1,
  kXW2,
  kXB2,
  kTimeW,
  kTimeB,
  kNumParams
};

struct TemporalAttention {
  int64_t num_nodes;     // N
  int32_t num_frames;    // T, 1 ... kMaxFrames
  int32_t dim;           // D, 2 or 3
  int32_t width;         // H, 1 ... kMaxWidth
  int32_t num_turns;     // columns of `turns`: 2 (E / 2)
  int32_t time_emb_dim;  // E, 1 ... kMaxTimeEmbDim: columns of time_w
  int32_t window;        // only |t - s| <= window, by place in the tensor
  int32_t precision;     // Precision
  int32_t reserved;
  const float *x, *h;  // [N, T, D], [N, T, H]
  const float* turns;  // [T, num_turns]: cos(w_0 t), sin(w_0 t), cos(w_1 t), ... of every frame's number t
  const float* params[kNumParams];
};

struct TemporalForward {
  TemporalAttention in;
  float *x_out, *h_out;  // [N, T, D], [N, T, H]
  void* workspace;       // forward_workspace(in) bytes, aligned to 256
};

struct TemporalBackward {
  TemporalAttention in;
  const float *grad_x_out, *grad_h_out;
  float *grad_x, *grad_h;
  float* grad_params[kNumParams];  // in the shapes of params
  void* workspace;                 // backward_workspace(in) bytes, aligned to 256
};

}  // namespace geotdm::cuda

// The functions return null, or what went wrong (a static text). They launch on `stream` of the current device,
// allocate nothing, wait for nothing, and give the same bits in every run.
extern "C" {
size_t geotdm_temporal_forward_workspace(const geotdm::cuda::TemporalAttention* in);
size_t geotdm_temporal_backward_workspace(const geotdm::cuda::TemporalAttention* in);
const char* geotdm_temporal_forward(const geotdm::cuda::TemporalForward* call, geotdm::cuda::StreamHandle stream);
const char* geotdm_temporal_backward(const geotdm::cuda::TemporalBackward* call, geotdm::cuda::StreamHandle stream);
}
