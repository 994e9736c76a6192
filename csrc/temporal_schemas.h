// What both modules, the CPU's and CUDA's, agree on: the schemas of the op temporal_attention. ops.cpp defines them; a
// CUDA module carries them with its marker, so that geotdm_fast/ops/cuda_native.py can tell, before it loads the file,
// whether its functions take what the ops are given.
#pragma once

#define GEOTDM_TEMPORAL_FORWARD_SCHEMA                                                         \
  "temporal_attention_forward(Tensor x, Tensor h, Tensor turns, Tensor[] params, int window, " \
  "bool keep, int precision) -> (Tensor x_out, Tensor h_out, Tensor[] kept)"

#define GEOTDM_TEMPORAL_BACKWARD_SCHEMA                                                    \
  "temporal_attention_backward(Tensor grad_x_out, Tensor grad_h_out, Tensor x, Tensor h, " \
  "Tensor turns, Tensor[] params, Tensor[] kept, int window, int precision) "              \
  "-> (Tensor grad_x, Tensor grad_h, Tensor[] grad_params)"

// cuda: as in "13.0"; architectures: as in TORCH_CUDA_ARCH_LIST, "8.0 9.0a 10.0+PTX". A CUDA module keeps it as
//   [[gnu::used]] static const char built_with[] = GEOTDM_CUDA_MARKER("13.0", "8.0 9.0a");
#define GEOTDM_CUDA_MARKER(cuda, architectures)                                                         \
  "geotdm_fast._C_cuda built with CUDA " cuda " for " architectures "\n" GEOTDM_TEMPORAL_FORWARD_SCHEMA \
  "\n" GEOTDM_TEMPORAL_BACKWARD_SCHEMA
