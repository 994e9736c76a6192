// The gated feed-forward on the CPU: `geotdm_fast.reference.gv_ff` for float32.
#include <tuple>

#include "checks.h"
#include "tensors.h"

namespace geotdm {
namespace {

// Places in GVFFParams, of the first perceptron; the second's are kHalf behind.
enum { kVector, kMix, kFeature, kBias, kGate, kGateBias, kHalf };

GVFFSizes sizes(const Kernels& k, const Tensor& features, const Tensor& u) {
  return {features.size(0), u.size(1), features.size(1), round_up(features.size(1), k.panel)};
}

void check_inputs(const char* op, const Tensor& k, const Tensor& u, const Tensors& params) {
  check(k.dim() == 2 && k.size(1) % 16 == 0 && k.size(1) >= 16 && k.size(1) <= 256, op,
        "k must be [R, H] with H a multiple of 16 up to 256, got ", listed(k.sizes()));
  check(u.dim() == 2 && (u.size(1) == 2 || u.size(1) == 3), op, "u must be [R, 2] or [R, 3], got ", listed(u.sizes()));
  check_dense(op, "k", k, k.sizes());
  check_dense(op, "u", u, {k.size(0), u.size(1)});
  const int64_t width = k.size(1);
  const ParamShape shapes[] = {
      {"vector_w1", kGates, 1},      {"mix_w1", kGates, kGates}, {"feature_w1", width, width + kGates},
      {"feature_b1", width, 0},      {"gate_w1", kGates, width}, {"gate_b1", kGates, 0},
      {"vector_w2", kGates, kGates}, {"mix_w2", 1, kGates},      {"feature_w2", width, width + kGates},
      {"feature_b2", width, 0},      {"gate_w2", 1, width},      {"gate_b2", 1, 0}};
  check_params(op, params, shapes);
}

// A perceptron's parameters, from params[0] on.
GVPWeights weights(Weights& w, const Tensor* params, int64_t width) {
  GVPWeights out{};
  const Matrix feature(params[kFeature]), gate(params[kGate]), vector(params[kVector]), mix(params[kMix]);
  out.feature = w.matrix(feature.slice(0, width));
  for (int64_t v = 0; v < kGates; ++v) out.length[v] = w.vector(feature.column(width + v));
  out.bias = w.vector(params[kBias]);
  for (int64_t o = 0; o < gate.rows; ++o) out.gate[o] = w.vector(gate.row(o));
  copy(Vector(params[kGateBias]), out.gate_bias);
  copy(vector, out.vector, vector.columns);
  copy(mix, out.mix, mix.columns);
  return out;
}

std::tuple<Tensor, Tensor> gv_ff_forward(const Tensor& k, const Tensor& u, const Tensors& params, bool low_precision) {
  check_inputs("gv_ff_forward", k, u, params);
  const Kernels& kernel = kernels(low_precision);
  const GVFFSizes size = sizes(kernel, k, u);
  Weights packed(kernel);
  auto q = new_like(k), w = new_like(u);
  GVFFForward a{size, weights(packed, params.data(), size.width), weights(packed, params.data() + kHalf, size.width)};
  a.k = data(k), a.u = data(u), a.q = mutable_data(q), a.w = mutable_data(w);
  parallel(tiles(size.num_rows), kernel.gv_ff_scratch(size), [&](int64_t first, int64_t last, float* memory) {
    kernel.gv_ff_rows(a, first * kTileRows, std::min(last * kTileRows, size.num_rows), memory);
  });
  return {q, w};
}

// The gradients of a perceptron's parameters, IN vectors to OUT, in the order of GVFFParams.
Tensors gradients(const SlotReader& total, const GVPSlot& at, int64_t in, int64_t out) {
  return {dense(total.block(at.vector, kGates, in)),
          dense(total.block(at.mix, out, kGates)),
          side_by_side(total.matrix(at.feature), total.matrix(at.length, kGates).t()),
          dense(total.vector(at.bias)),
          dense(total.matrix(at.gate, out)),
          dense(total.numbers(at.gate_bias, out))};
}

// wants_params: whether the gradients of the weights are computed; else there are none.
std::tuple<Tensor, Tensor, Tensors> gv_ff_backward(const Tensor& grad_q, const Tensor& grad_w, const Tensor& k,
                                                   const Tensor& u, const Tensors& params, bool wants_params,
                                                   bool low_precision) {
  const char* op = "gv_ff_backward";
  check_inputs(op, k, u, params);
  check_dense(op, "grad_q", grad_q, k.sizes());
  check_dense(op, "grad_w", grad_w, u.sizes());
  const Kernels& kernel = kernels(low_precision);
  const GVFFSizes size = sizes(kernel, k, u);
  const int64_t width = size.width, stride = size.stride;
  Weights packed(kernel);
  auto grad_k = new_like(k), grad_u = new_like(u);
  GVFFBackward a{size, weights(packed, params.data(), width), weights(packed, params.data() + kHalf, width)};
  a.feature1_t = packed.transposed(Matrix(params[kFeature]).slice(0, width));
  a.feature2_t = packed.transposed(Matrix(params[kHalf + kFeature]).slice(0, width));
  a.k = data(k), a.u = data(u), a.grad_q = data(grad_q), a.grad_w = data(grad_w);
  a.grad_k = mutable_data(grad_k), a.grad_u = mutable_data(grad_u);
  const GVPSlot at1(width, stride, 0), at2(width, stride, at1.size);
  Slots slots(at2.size, wants_params);
  slots.run(tiles(size.num_rows), kernel.gv_ff_backward_scratch(size),
            [&](int64_t first, int64_t last, float* slot, float* memory) {
              const int64_t end = std::min(last * kTileRows, size.num_rows);
              kernel.gv_ff_rows_backward(a, first * kTileRows, end, slot, memory);
            });
  if (!wants_params) return {grad_k, grad_u, Tensors{}};
  const SlotReader total(slots, width, stride);
  Tensors grads = gradients(total, at1, 1, kGates);
  for (auto& grad : gradients(total, at2, kGates, 1)) grads.push_back(grad);
  return {grad_k, grad_u, grads};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(geotdm_fast, CPU, m) {
  m.impl("gv_ff_forward", TORCH_BOX(&gv_ff_forward));
  m.impl("gv_ff_backward", TORCH_BOX(&gv_ff_backward));
}

}  // namespace geotdm
