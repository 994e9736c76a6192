// The op egcl on the CPU: checks, memory and loops around the kernels of egcl_forward.h and egcl_backward.h.
#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/zeros_like.h>
#include <torch/library.h>

#include <cmath>

#include "checks.h"
#include "tensors.h"

namespace geotdm {

namespace {

using Tensors = std::vector<at::Tensor>;

// The order of EGCLParams in geotdm_fast/reference/egcl.py.
enum { kEdgeW1, kEdgeB1, kEdgeW2, kEdgeB2, kCoordW1, kCoordB1, kCoordW2, kCoordB2, kNodeW1, kNodeB1, kNodeW2, kNodeB2 };

EGCLSizes sizes(const Kernels& k, const at::Tensor& x, const at::Tensor& h, bool normalize, bool pre_norm,
                std::optional<double> cutoff, bool residual) {
  const float inverse_cutoff = cutoff ? float(1 / *cutoff) : 0.0f;
  return {x.size(0), x.size(1), x.size(2),      h.size(2), round_up(h.size(2), k.panel),
          normalize, pre_norm,  inverse_cutoff, residual};
}

// Returns the number of edges.
int64_t check_inputs(const char* op, const at::Tensor& x, const at::Tensor& h, const at::Tensor& first,
                     const at::Tensor& sender, const std::optional<at::Tensor>& edge_term,
                     const std::optional<at::Tensor>& shift, at::TensorList params, std::optional<double> cutoff) {
  check_rows(op, x, h);
  const int64_t num_edges = check_edges(op, first, sender, x.size(0));
  TORCH_CHECK_VALUE(!cutoff || (*cutoff > 0 && std::isfinite(*cutoff)), op, ": cutoff must be finite and over 0, got ",
                    *cutoff);
  const int64_t width = h.size(2);
  if (edge_term) check(op, "edge_term", *edge_term, {sender.numel(), width});
  if (shift) check_dense(op, "shift", *shift, {sender.numel(), x.size(2)});
  // The last columns of edge_w1 belong to edge_term, which comes ready.
  const int64_t columns = params.empty() || params[kEdgeW1].dim() != 2 ? 0 : params[kEdgeW1].size(1);
  const ParamShape shapes[] = {{"edge_w1", width, std::max(columns, 2 * width + 1)},
                               {"edge_b1", width, 0},
                               {"edge_w2", width, width},
                               {"edge_b2", width, 0},
                               {"coord_w1", width, width},
                               {"coord_b1", width, 0},
                               {"coord_w2", 1, width},
                               {"coord_b2", 1, 0},
                               {"node_w1", width, 2 * width},
                               {"node_b1", width, 0},
                               {"node_w2", width, width},
                               {"node_b2", width, 0}};
  check_params(op, params, shapes);
  return num_edges;
}

EGCLGraph graph_of(const at::Tensor& first, const at::Tensor& sender, const std::optional<at::Tensor>& shift) {
  return {index_data(first), index_data(sender), shift ? data(*shift) : nullptr};
}

struct FirstLayer {  // slices of the first edge layer, and of the node layer, by what they multiply
  at::Tensor receiver, sender, distance, node_h, node_m;
  FirstLayer(at::TensorList p, int64_t width)
      : receiver(p[kEdgeW1].narrow(1, 0, width)),
        sender(p[kEdgeW1].narrow(1, width, width)),
        distance(p[kEdgeW1].select(1, 2 * width)),
        node_h(p[kNodeW1].narrow(1, 0, width)),
        node_m(p[kNodeW1].narrow(1, width, width)) {}
};

EGCLWeights forward_weights(Weights& w, at::TensorList p, const FirstLayer& first) {
  return {w.matrix(first.receiver), w.matrix(first.sender), w.matrix(p[kEdgeW2]),  w.matrix(p[kCoordW1]),
          w.matrix(first.node_h),   w.matrix(first.node_m), w.matrix(p[kNodeW2]),  w.vector(p[kEdgeB1]),
          w.vector(first.distance), w.vector(p[kEdgeB2]),   w.vector(p[kCoordB1]), w.vector(p[kCoordW2]),
          w.vector(p[kNodeB1]),     w.vector(p[kNodeB2]),   *data(p[kCoordB2])};
}

EGCLTransposed transposed_weights(Weights& w, at::TensorList p, const FirstLayer& first) {
  return {w.transposed(first.receiver), w.transposed(first.sender), w.transposed(p[kEdgeW2]), w.transposed(p[kCoordW1]),
          w.transposed(first.node_h),   w.transposed(first.node_m), w.transposed(p[kNodeW2])};
}

// Runs task(first_row, last_row, ...) for a range of tiles.
template <typename Task>
auto by_tile(int64_t rows, const Task& task) {
  return [rows, task](int64_t first, int64_t last, auto... memory) {
    task(first * kTileRows, std::min(last * kTileRows, rows), memory...);
  };
}

// kept: p, q, m_sum and the node MLP's hidden layer, and with a cutoff the moves, for the way back; empty without
// `keep`.
std::tuple<at::Tensor, at::Tensor, Tensors> egcl_forward(const at::Tensor& x, const at::Tensor& h,
                                                         const at::Tensor& first, const at::Tensor& sender,
                                                         const std::optional<at::Tensor>& edge_term,
                                                         const std::optional<at::Tensor>& shift, at::TensorList params,
                                                         bool normalize, bool pre_norm, std::optional<double> cutoff,
                                                         bool residual, bool keep, bool low_precision) {
  const at::AutoDispatchBelowADInplaceOrView no_autograd;
  check_inputs("egcl_forward", x, h, first, sender, edge_term, shift, params, cutoff);
  const Kernels& k = kernels(low_precision);
  const EGCLSizes size = sizes(k, x, h, normalize, pre_norm, cutoff, residual);
  const auto options = h.options();
  Weights packed(k);
  const FirstLayer slices(params, size.width);
  const auto term = edge_term ? padded_rows(*edge_term, size.stride) : at::Tensor();
  auto rows = [&] { return at::empty({size.num_nodes, size.num_frames, size.stride}, options); };
  auto x_out = at::empty_like(x), h_out = at::empty_like(h), p = rows(), q = rows();
  Tensors kept = keep ? Tensors{p, q, rows(), rows()} : Tensors{};
  if (keep && cutoff) kept.push_back(at::empty({size.num_nodes, size.num_frames, kMoves}, options));

  EGCLForward a{size, graph_of(first, sender, shift), forward_weights(packed, params, slices)};
  a.x = data(x), a.h = data(h), a.edge_term = edge_term ? data(term) : nullptr;
  a.p = mutable_data(p), a.q = mutable_data(q), a.x_out = mutable_data(x_out), a.h_out = mutable_data(h_out);
  if (keep) a.m_sum = mutable_data(kept[2]), a.hidden = mutable_data(kept[3]);
  if (keep && cutoff) a.moves = mutable_data(kept[4]);

  const int64_t num_rows = size.num_nodes * size.num_frames;
  parallel(tiles(num_rows), 0, options,
           by_tile(num_rows, [&](int64_t i, int64_t j, float*) { k.egcl_project(a, i, j); }));
  parallel(
      size.num_nodes, k.egcl_nodes_scratch(size), options,
      [&](int64_t i, int64_t j, float* memory) { k.egcl_nodes(a, i, j, memory); }, nodes_per_tile(size.num_frames));
  return {x_out, h_out, kept};
}

// Receivers whose edges fit the memory of one chunk (at least one), from `receiver`.
int64_t chunk_end(const int64_t* first, int64_t receiver, int64_t num_nodes, int64_t max_edges) {
  int64_t end = receiver + 1;
  while (end < num_nodes && first[end + 1] - first[receiver] <= max_edges) ++end;
  return end;
}

// wants_shift, wants_params: whether the gradients of shift and of the weights are computed; else they are empty.
std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor, Tensors> egcl_backward(
    const at::Tensor& grad_x_out, const at::Tensor& grad_h_out, const at::Tensor& x, const at::Tensor& h,
    const at::Tensor& first, const at::Tensor& sender, const at::Tensor& sender_first, const at::Tensor& by_sender,
    const std::optional<at::Tensor>& edge_term, const std::optional<at::Tensor>& shift, at::TensorList params,
    at::TensorList kept, bool wants_shift, bool wants_params, bool normalize, bool pre_norm,
    std::optional<double> cutoff, bool residual, bool low_precision) {
  const at::AutoDispatchBelowADInplaceOrView no_autograd;
  const char* op = "egcl_backward";
  const int64_t num_edges = check_inputs(op, x, h, first, sender, edge_term, shift, params, cutoff);
  check_senders(op, sender, sender_first, by_sender, x.size(0), num_edges);
  check_dense(op, "grad_x_out", grad_x_out, x.sizes());
  check_dense(op, "grad_h_out", grad_h_out, h.sizes());
  const Kernels& k = kernels(low_precision);
  const EGCLSizes size = sizes(k, x, h, normalize, pre_norm, cutoff, residual);
  const std::vector<int64_t> kept_rows{size.num_nodes, size.num_frames, size.stride};
  std::vector<KeptShape> shapes{{"p", kept_rows}, {"q", kept_rows}, {"m_sum", kept_rows}, {"hidden", kept_rows}};
  if (cutoff) shapes.push_back({"moves", {size.num_nodes, size.num_frames, kMoves}});
  check_kept(op, kept, shapes);
  const int64_t width = size.width, stride = size.stride;
  const auto options = h.options();
  Weights packed(k);
  const FirstLayer slices(params, width);
  const auto term = edge_term ? padded_rows(*edge_term, stride) : at::Tensor();
  auto rows = [&] { return at::empty({size.num_nodes, size.num_frames, stride}, options); };
  auto grad_x = at::zeros_like(x), grad_h = at::empty_like(h);
  auto grad_m_sum = rows(), grad_p = rows(), grad_q = at::zeros_like(kept[0]);
  auto grad_term = at::empty({edge_term ? sender.size(0) : 0, stride}, options);
  if (edge_term) grad_term.narrow(0, num_edges, sender.size(0) - num_edges).zero_();
  auto grad_shift = at::empty({wants_shift ? sender.size(0) : 0, size.dim}, options);
  if (wants_shift) grad_shift.narrow(0, num_edges, sender.size(0) - num_edges).zero_();

  EGCLBackward a{size, graph_of(first, sender, shift), forward_weights(packed, params, slices),
                 transposed_weights(packed, params, slices)};
  a.x = data(x), a.h = data(h), a.edge_term = edge_term ? data(term) : nullptr;
  a.p = data(kept[0]), a.q = data(kept[1]), a.m_sum = data(kept[2]), a.hidden = data(kept[3]);
  a.moves = cutoff ? data(kept[4]) : nullptr;
  a.grad_x_out = data(grad_x_out), a.grad_h_out = data(grad_h_out);
  a.grad_m_sum = mutable_data(grad_m_sum), a.grad_p = mutable_data(grad_p), a.grad_q = mutable_data(grad_q);
  a.grad_x = mutable_data(grad_x), a.grad_h = mutable_data(grad_h);
  a.grad_edge_term = edge_term ? mutable_data(grad_term) : nullptr;
  a.grad_shift = wants_shift ? mutable_data(grad_shift) : nullptr;

  const int64_t num_rows = size.num_nodes * size.num_frames, tile = kTileRows * stride;
  Slots node_slots(EGCLNodeSlot(width, stride).size, options, wants_params);
  Slots edge_slots(EGCLEdgeSlot(width, stride).size, options, wants_params);
  node_slots.run(tiles(num_rows), 5 * tile + stride + 128,
                 by_tile(num_rows, [&](int64_t i, int64_t j, float* slot, float* memory) {
                   k.egcl_update_backward(a, i, j, slot, memory);
                 }));

  // What senders get is kept for one chunk of edges at a time: memory does not grow with the number of edges.
  constexpr int64_t kChunkBytes = 16 << 20;
  const int64_t per_edge = size.num_frames * stride;
  const int64_t max_edges = std::max<int64_t>(1, kChunkBytes / (4 * std::max<int64_t>(per_edge, 1)));
  const int64_t* begin = a.graph.first;
  at::Tensor edge_grad_q, edge_grad_x;
  auto cursor = sender_first.narrow(0, 0, size.num_nodes).clone();
  for (int64_t i = 0; i < size.num_nodes;) {
    const int64_t end = chunk_end(begin, i, size.num_nodes, max_edges), edges = begin[end] - begin[i];
    if (!edge_grad_q.defined() || edge_grad_q.size(0) < edges) {
      const int64_t room = std::max(edges, std::min(max_edges, num_edges));
      edge_grad_q = at::empty({room, per_edge}, options);
      edge_grad_x = at::empty({room, size.num_frames * size.dim}, options);
      a.edge_grad_q = mutable_data(edge_grad_q), a.edge_grad_x = mutable_data(edge_grad_x);
    }
    a.chunk_first = begin[i];
    edge_slots.run(end - i, k.egcl_edges_backward_scratch(size),
                   [&](int64_t from, int64_t to, float* slot, float* memory) {
                     k.egcl_edges_backward(a, i + from, i + to, slot, memory);
                   });
    parallel(size.num_nodes, 0, options, [&](int64_t from, int64_t to, float*) {
      k.egcl_senders(a, index_data(sender_first), index_data(by_sender), cursor.mutable_data_ptr<int64_t>(), begin[end],
                     from, to);
    });
    i = end;
  }
  node_slots.run(tiles(num_rows), 2 * tile + 64,
                 by_tile(num_rows, [&](int64_t i, int64_t j, float* slot, float* memory) {
                   k.egcl_project_backward(a, i, j, slot, memory);
                 }));

  if (width < stride) grad_term = grad_term.narrow(1, 0, width).clone(at::MemoryFormat::Contiguous);
  if (!wants_params) return {grad_x, grad_h, grad_term, grad_shift, Tensors{}};
  const SlotReader node(node_slots, width, stride), edge(edge_slots, width, stride);
  const EGCLNodeSlot n(width, stride);
  const EGCLEdgeSlot e(width, stride);
  auto grad_edge_w1 = at::zeros_like(params[kEdgeW1]);
  grad_edge_w1.narrow(1, 0, width).copy_(node.matrix(n.receiver));
  grad_edge_w1.narrow(1, width, width).copy_(node.matrix(n.sender));
  grad_edge_w1.select(1, 2 * width).copy_(edge.vector(e.distance));
  Tensors grads{grad_edge_w1,
                node.vector(n.edge_b1),
                edge.matrix(e.edge2),
                edge.vector(e.edge_b2),
                edge.matrix(e.coord1),
                edge.vector(e.coord_b1),
                edge.vector(e.coord2).view({1, width}),
                edge.scalar(e.coord_b2),
                at::cat({node.matrix(n.node1_h), node.matrix(n.node1_m)}, 1),
                node.vector(n.node_b1),
                node.matrix(n.node2),
                node.vector(n.node_b2)};
  for (auto& grad : grads) grad = grad.clone(at::MemoryFormat::Contiguous);
  return {grad_x, grad_h, grad_term, grad_shift, grads};
}

}  // namespace

TORCH_LIBRARY_IMPL(geotdm_fast, CPU, m) {
  m.impl("egcl_forward", egcl_forward);
  m.impl("egcl_backward", egcl_backward);
}

}  // namespace geotdm
