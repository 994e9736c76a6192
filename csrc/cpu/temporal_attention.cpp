// The op temporal_attention on the CPU: memory and loops around the kernels of temporal_forward.h, temporal_backward.h.
#include <tuple>

#include "temporal_inputs.h"

namespace geotdm {

namespace {

TemporalWeights transposed_weights(Weights& w, const Tensors& p) {
  TemporalWeights t{};
  t.q1 = w.transposed(p[kQW1]), t.q2 = w.transposed(p[kQW2]);
  t.k1 = w.transposed(p[kKW1]), t.k2 = w.transposed(p[kKW2]);
  t.v1 = w.transposed(p[kVW1]), t.v2 = w.transposed(p[kVW2]);
  t.x1 = w.transposed(p[kXW1]);
  return t;
}

// kept: q, k, v, the hidden layers of the MLPs and the gate, for the way back; empty without `keep`.
std::tuple<Tensor, Tensor, Tensors> temporal_attention_forward(const Tensor& x, const Tensor& h, const Tensor& turns,
                                                               const Tensors& params, int64_t window, bool keep,
                                                               int64_t precision) {
  check_temporal("temporal_attention_forward", x, h, turns, params, window, precision);
  const Kernels& k = kernels(precision == kBfloat16);
  const TemporalSizes size = temporal_sizes(k, x, h, turns.size(1), window);
  const Tensor phases = by_kind(turns, size.phase_stride);
  Weights packed(k);
  auto rows = [&] { return empty({size.num_nodes, size.num_frames, size.stride}); };
  auto x_out = new_like(x), h_out = new_like(h);
  Tensors kept;
  if (keep)
    kept = {rows(), rows(), rows(), empty({4, size.num_nodes, size.num_frames, size.stride}),
            empty({size.num_nodes, size.num_frames})};

  TemporalForward a{size, temporal_weights(packed, params), time_weights(packed, phases, params, size.phases)};
  a.x = data(x), a.h = data(h);
  a.x_out = mutable_data(x_out), a.h_out = mutable_data(h_out);
  if (keep) {
    a.q = mutable_data(kept[0]), a.k = mutable_data(kept[1]), a.v = mutable_data(kept[2]);
    a.hidden = mutable_data(kept[3]), a.gate = mutable_data(kept[4]);
  }
  parallel(
      size.num_nodes, k.temporal_nodes_scratch(size),
      [&](int64_t i, int64_t j, float* memory) { k.temporal_nodes(a, i, j, memory); }, nodes_per_tile(size.num_frames));
  return {x_out, h_out, kept};
}

std::tuple<Tensor, Tensor, Tensors> temporal_attention_backward(const Tensor& grad_x_out, const Tensor& grad_h_out,
                                                                const Tensor& x, const Tensor& h, const Tensor& turns,
                                                                const Tensors& params, const Tensors& kept,
                                                                int64_t window, int64_t precision) {
  const char* op = "temporal_attention_backward";
  check_temporal(op, x, h, turns, params, window, precision);
  check_dense(op, "grad_x_out", grad_x_out, x.sizes());
  check_dense(op, "grad_h_out", grad_h_out, h.sizes());
  const Kernels& k = kernels(precision == kBfloat16);
  const TemporalSizes size = temporal_sizes(k, x, h, turns.size(1), window);
  const Tensor phases = by_kind(turns, size.phase_stride);
  const std::vector<int64_t> kept_rows{size.num_nodes, size.num_frames, size.stride};
  check_kept(op, kept,
             {{"q", kept_rows},
              {"k", kept_rows},
              {"v", kept_rows},
              {"hidden", {4, size.num_nodes, size.num_frames, size.stride}},
              {"gate", {size.num_nodes, size.num_frames}}});
  const int64_t width = size.width, stride = size.stride;
  Weights packed(k);
  auto grad_x = new_like(x), grad_h = new_like(h);
  TemporalBackward a{size, temporal_weights(packed, params), transposed_weights(packed, params),
                     time_weights(packed, phases, params, size.phases)};
  a.x = data(x), a.h = data(h), a.q = data(kept[0]), a.k = data(kept[1]), a.v = data(kept[2]);
  a.hidden = data(kept[3]), a.gate = data(kept[4]);
  a.grad_x_out = data(grad_x_out), a.grad_h_out = data(grad_h_out);
  a.grad_x = mutable_data(grad_x), a.grad_h = mutable_data(grad_h);

  const TemporalSlot s(size);
  Slots slots(s.size);
  slots.run(
      size.num_nodes, k.temporal_nodes_backward_scratch(size),
      [&](int64_t i, int64_t j, float* slot, float* memory) { k.temporal_nodes_backward(a, i, j, slot, memory); });

  const SlotReader read(slots, width, stride);
  Tensors grads{dense(read.matrix(s.q1)),      dense(read.vector(s.q_b1)), dense(read.matrix(s.q2)),
                dense(read.vector(s.q_b2)),    dense(read.matrix(s.k1)),   dense(read.vector(s.k_b1)),
                dense(read.matrix(s.k2)),      dense(read.vector(s.k_b2)), dense(read.matrix(s.v1)),
                dense(read.vector(s.v_b1)),    dense(read.matrix(s.v2)),   dense(read.vector(s.v_b2)),
                dense(read.matrix(s.x1)),      dense(read.vector(s.x_b1)), dense_row(read.vector(s.x2)),
                dense(read.numbers(s.x_b2, 1))};
  const int64_t time_emb_dim = params[kTimeW].size(1);
  const auto grad_time_w = zeros({width, time_emb_dim});  // an odd last column is of no frequency
  copy(read.block(s.time, width, size.phase_stride).slice(0, size.phases), mutable_data(grad_time_w), time_emb_dim);
  grads.push_back(grad_time_w), grads.push_back(dense(read.vector(s.time_b)));
  return {grad_x, grad_h, grads};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(geotdm_fast, CPU, m) {
  m.impl("temporal_attention_forward", TORCH_BOX(&temporal_attention_forward));
  m.impl("temporal_attention_backward", TORCH_BOX(&temporal_attention_backward));
}

}  // namespace geotdm
