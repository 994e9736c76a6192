// The op temporal_attention on a GPU as torch calls it: checks, memory, device and stream around the functions of
// temporal_attention.h. It is written against torch's stable ABI, so one module runs beside every torch from 2.10 on.
// With -DGEOTDM_EMULATE it takes CPU tensors, for a dispatch key of its own: the CPU has kernels of that name.
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#include <algorithm>
#include <stdexcept>
#include <tuple>
#include <vector>

#include "../allocation.h"
#include "../errors.h"
#include "../temporal_schemas.h"
#include "temporal_attention.h"

#ifdef GEOTDM_EMULATE
#define GEOTDM_DISPATCH_KEY PrivateUse1
#else
#define GEOTDM_DISPATCH_KEY CUDA

// geotdm_fast/ops/cuda_native.py finds it in the file.
[[gnu::used]] static const char built_with[] = GEOTDM_CUDA_MARKER(GEOTDM_CUDA_VERSION, GEOTDM_CUDA_ARCHITECTURES);

// In torch's header only with -DUSE_CUDA. Weak: a torch for the CPU lacks it, and the module is still to load there.
extern "C" [[gnu::weak, gnu::visibility("default")]] AOTITorchError aoti_torch_get_current_cuda_stream(
    int32_t device_index, void** stream);
#endif

namespace geotdm::cuda {

namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using Tensors = std::vector<Tensor>;

#ifdef GEOTDM_EMULATE
constexpr auto kDevice = torch::headeronly::DeviceType::CPU;
constexpr const char* kDeviceName = "cpu";
struct DeviceGuard {
  explicit DeviceGuard(int32_t) {}
};
#else
constexpr auto kDevice = torch::headeronly::DeviceType::CUDA;
constexpr const char* kDeviceName = "cuda";
using torch::stable::accelerator::DeviceGuard;
#endif

// What the kernels read through a bare pointer; `expected` says the shape in words.
template <class Expected>
void check_tensor(const char* op, const char* name, const Tensor& t, Shape shape, const Expected& expected,
                  int32_t device_index) {
  const Shape sizes = t.sizes();
  check(sizes.equals(shape) && t.scalar_type() == ScalarType::Float, op, name, " must be ", expected, " float32, got ",
        listed(sizes), " ", torch::headeronly::toString(t.scalar_type()));
  if (t.device().type() != kDevice || t.get_device_index() != device_index)
    refuse(op, name, " must be on ", kDeviceName, ", the same device as x, got ", device_of(t));
  check(t.is_contiguous(), op, name, " must be contiguous, got strides ", listed(t.strides()));
}

void check_tensor(const char* op, const char* name, const Tensor& t, Shape shape, int32_t device_index) {
  check_tensor(op, name, t, shape, listed(shape), device_index);
}

const float* data(const Tensor& t) { return static_cast<const float*>(t.const_data_ptr()); }
float* mutable_data(const Tensor& t) { return static_cast<float*>(t.mutable_data_ptr()); }

// Tensors of torch begin at multiples of 16 bytes, which the kernels load at once; a view may begin anywhere.
Tensor aligned(const Tensor& t) {
  return reinterpret_cast<uintptr_t>(t.const_data_ptr()) % 16 == 0 ? t : torch::stable::clone(t);
}

// Checks everything, and puts aligned copies in the place of what is not.
TemporalAttention checked(const char* op, Tensor& x, Tensor& h, Tensor& turns, Tensors& params, int64_t window,
                          int64_t precision) {
  check(x.dim() == 3 && (x.size(2) == 2 || x.size(2) == 3), op, "x must be [N, T, 2] or [N, T, 3], got ",
        listed(x.sizes()));
  const int64_t num_nodes = x.size(0), num_frames = x.size(1);
  check(num_frames >= 1 && num_frames <= kMaxFrames, op, "x must have 1 to ", kMaxFrames, " frames, got ", num_frames);
  check(h.dim() == 3 && h.size(2) >= 1 && h.size(2) <= kMaxWidth, op, "h must be [N, T, H] with H from 1 to ",
        kMaxWidth, ", got ", listed(h.sizes()));
  const int64_t width = h.size(2);
  check(params.size() == kNumParams, op, "params must be ", int{kNumParams}, " tensors, got ", params.size());
  const Tensor& time_w = params[kTimeW];
  check(time_w.dim() == 2 && time_w.size(1) >= 1 && time_w.size(1) <= kMaxTimeEmbDim, op,
        "time_w must be [H, E] with E from 1 to ", kMaxTimeEmbDim, ", got ", listed(time_w.sizes()));
  const int64_t time_emb_dim = time_w.size(1), num_turns = time_emb_dim / 2 * 2;
  check(window >= 0, op, "window must be at least 0, got ", window);
  check(precision >= kFp32 && precision <= kBf16, op, "precision must be 0 (fp32), 1 (tf32) or 2 (bf16), got ",
        precision);

  const int32_t device = x.get_device_index();
  check_tensor(op, "x", x, {num_nodes, num_frames, x.size(2)}, "[N, T, D]", device);
  check_tensor(op, "h", h, {num_nodes, num_frames, width}, "[N, T, H] with N and T of x", device);
  check_tensor(op, "turns", turns, {num_frames, num_turns}, device);
  static constexpr const char* kNames[] = {"q_w1", "q_b1", "q_w2", "q_b2", "k_w1", "k_b1", "k_w2", "k_b2",   "v_w1",
                                           "v_b1", "v_w2", "v_b2", "x_w1", "x_b1", "x_w2", "x_b2", "time_w", "time_b"};
  static_assert(std::size(kNames) == kNumParams);
  for (int i = 0; i < kNumParams; ++i) {
    const int64_t sizes[] = {i == kXW2 || i == kXB2 ? 1 : width, i == kTimeW ? time_emb_dim : width};
    // Weights and biases take turns.
    check_tensor(op, kNames[i], params[i], Shape(sizes, i % 2 ? 1 : 2), device);
  }

  TemporalAttention in{};
  in.num_nodes = num_nodes, in.num_frames = num_frames, in.dim = x.size(2), in.width = width;
  in.num_turns = num_turns, in.time_emb_dim = time_emb_dim;
  in.window = std::min(window, num_frames), in.precision = precision;
  const DeviceGuard guard(device);
  for (Tensor* t : {&x, &h, &turns}) *t = aligned(*t);
  for (Tensor& t : params) t = aligned(t);
  in.x = data(x), in.h = data(h), in.turns = data(turns);
  for (int i = 0; i < kNumParams; ++i) in.params[i] = data(params[i]);
  return in;
}

Tensor make_workspace(const Tensor& like, size_t bytes) {
  const int64_t size = static_cast<int64_t>(bytes);
  return allocated({size}, [&] { return torch::stable::new_empty(like, {size}, ScalarType::Byte); });
}

// Calls `function(&call, stream)` on the current stream of the device, which is current.
template <class Function, class Call>
void run(const char* op, Function* function, const Call& call, [[maybe_unused]] int32_t device_index) {
  void* stream = nullptr;
#ifndef GEOTDM_EMULATE
  const auto current = aoti_torch_get_current_cuda_stream;
  if (current == nullptr || current(device_index, &stream) != AOTI_TORCH_SUCCESS)
    throw std::runtime_error(std::string(op) + ": this torch has no CUDA stream");
#endif
  const char* wrong = function(&call, static_cast<StreamHandle>(stream));
  if (wrong) throw std::runtime_error(std::string(op) + ": " + wrong);
}

// kept is empty: the backward computes anew what it needs.
std::tuple<Tensor, Tensor, Tensors> temporal_attention_forward(Tensor x, Tensor h, Tensor turns, Tensors params,
                                                               int64_t window, bool /*keep*/, int64_t precision) {
  const char* op = "temporal_attention_forward";
  TemporalForward call{};
  call.in = checked(op, x, h, turns, params, window, precision);
  const DeviceGuard guard(x.get_device_index());
  const auto x_out = new_like(x), h_out = new_like(h);
  const auto workspace = make_workspace(x, geotdm_temporal_forward_workspace(&call.in));
  call.x_out = mutable_data(x_out), call.h_out = mutable_data(h_out);
  call.workspace = workspace.mutable_data_ptr();
  run(op, geotdm_temporal_forward, call, x.get_device_index());
  return {x_out, h_out, Tensors{}};
}

std::tuple<Tensor, Tensor, Tensors> temporal_attention_backward(Tensor grad_x_out, Tensor grad_h_out, Tensor x,
                                                                Tensor h, Tensor turns, Tensors params, Tensors kept,
                                                                int64_t window, int64_t precision) {
  const char* op = "temporal_attention_backward";
  TemporalBackward call{};
  call.in = checked(op, x, h, turns, params, window, precision);
  const int32_t device = x.get_device_index();
  check_tensor(op, "grad_x_out", grad_x_out, x.sizes(), device);
  check_tensor(op, "grad_h_out", grad_h_out, h.sizes(), device);
  check(kept.empty(), op, "kept must be empty, got ", kept.size(), " tensors");
  const DeviceGuard guard(device);
  for (Tensor* t : {&grad_x_out, &grad_h_out}) *t = aligned(*t);
  const auto grad_x = new_like(x), grad_h = new_like(h);
  Tensors grad_params;
  for (const Tensor& param : params) grad_params.push_back(new_like(param));
  const auto workspace = make_workspace(x, geotdm_temporal_backward_workspace(&call.in));
  call.grad_x_out = data(grad_x_out), call.grad_h_out = data(grad_h_out);
  call.grad_x = mutable_data(grad_x), call.grad_h = mutable_data(grad_h);
  for (int i = 0; i < kNumParams; ++i) call.grad_params[i] = mutable_data(grad_params[i]);
  call.workspace = workspace.mutable_data_ptr();
  run(op, geotdm_temporal_backward, call, device);
  return {grad_x, grad_h, grad_params};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(geotdm_fast, GEOTDM_DISPATCH_KEY, m) {
  m.impl("temporal_attention_forward", TORCH_BOX(&temporal_attention_forward));
  m.impl("temporal_attention_backward", TORCH_BOX(&temporal_attention_backward));
}

}  // namespace geotdm::cuda
