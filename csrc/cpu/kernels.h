// The table of kernels of one instruction set, and the choice among them at run time.
#pragma once

#include "egcl.h"
#include "gv_ff.h"
#include "temporal_attention.h"

namespace geotdm {

struct Kernels {
  const char* isa;
  int64_t panel;  // rows of the op's arrays are whole panels of this many floats

  // The matrix products of gemm.h.
  int64_t (*packed_size)(int64_t k, int64_t n);
  void (*pack)(float* packed, const float* b, int64_t k, int64_t n, int64_t k_stride, int64_t n_stride);
  void (*gemm)(int64_t m, int64_t n, int64_t k, const float* a, int64_t a_stride, const float* packed_b, float* c,
               int64_t c_stride, bool accumulate);
  void (*gemm_at)(int64_t k, int64_t n, int64_t m, const float* a, int64_t a_stride, const float* b, int64_t b_stride,
                  float* c, int64_t c_stride);

  int64_t (*egcl_nodes_scratch)(const EGCLSizes&);
  int64_t (*egcl_edges_backward_scratch)(const EGCLSizes&);
  void (*egcl_project)(const EGCLForward&, int64_t first, int64_t last);
  void (*egcl_nodes)(const EGCLForward&, int64_t first, int64_t last, float* memory);
  void (*egcl_update_backward)(const EGCLBackward&, int64_t first, int64_t last, float* slot, float* memory);
  void (*egcl_edges_backward)(const EGCLBackward&, int64_t first, int64_t last, float* slot, float* memory);
  void (*egcl_senders)(const EGCLBackward&, const int64_t* sender_first, const int64_t* by_sender, int64_t* cursor,
                       int64_t chunk_last, int64_t first, int64_t last);
  void (*egcl_project_backward)(const EGCLBackward&, int64_t first, int64_t last, float* slot, float* memory);

  int64_t (*gv_ff_scratch)(const GVFFSizes&);
  int64_t (*gv_ff_backward_scratch)(const GVFFSizes&);
  void (*gv_ff_rows)(const GVFFForward&, int64_t first, int64_t last, float* memory);
  void (*gv_ff_rows_backward)(const GVFFBackward&, int64_t first, int64_t last, float* slot, float* memory);

  int64_t (*temporal_nodes_scratch)(const TemporalSizes&);
  int64_t (*temporal_nodes_backward_scratch)(const TemporalSizes&);
  void (*temporal_nodes)(const TemporalForward&, int64_t first, int64_t last, float* memory);
  void (*temporal_nodes_backward)(const TemporalBackward&, int64_t first, int64_t last, float* slot, float* memory);
};

extern const Kernels kernels_baseline, kernels_avx2, kernels_avx512, kernels_avx512bf16, kernels_amx;

// The rows that an op keeps are as wide in all of AVX-512: two tables take turns in one process.
constexpr int64_t kPanelAVX512 = 32;

// The widest set that this processor has, or a narrower one that GEOTDM_CPU_ISA names (baseline, avx2, avx512,
// avx512bf16, amx). low_precision: matrix products may round what they multiply to bfloat16; they do where that is
// faster, with AMX or, on processors without it, AVX512_BF16, and are float32 elsewhere.
const Kernels& kernels(bool low_precision);

}  // namespace geotdm
