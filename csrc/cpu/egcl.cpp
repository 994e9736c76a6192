// The op egcl on the CPU: checks, memory and loops around the kernels of egcl_forward.h and egcl_backward.h.
#include <tuple>

#include "egcl_inputs.h"

namespace geotdm {

namespace {

EGCLTransposed transposed_weights(Weights& w, const Tensors& p, const FirstLayer& first) {
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
std::tuple<Tensor, Tensor, Tensors> egcl_forward(const Tensor& x, const Tensor& h, const Tensor& first,
                                                 const Tensor& sender, const std::optional<Tensor>& edge_term,
                                                 const std::optional<Tensor>& shift, const Tensors& params,
                                                 bool normalize, bool pre_norm, std::optional<double> cutoff,
                                                 bool residual, bool keep, bool low_precision) {
  check_egcl("egcl_forward", x, h, first, sender, edge_term, shift, params, cutoff);
  const Kernels& k = kernels(low_precision);
  const EGCLSizes size = egcl_sizes(k, x, h, normalize, pre_norm, cutoff, residual);
  Weights packed(k);
  const FirstLayer slices(params, size.width);
  const auto term = padded_term(edge_term, size.stride);
  auto rows = [&] { return empty({size.num_nodes, size.num_frames, size.stride}); };
  auto x_out = new_like(x), h_out = new_like(h), p = rows(), q = rows();
  Tensors kept = keep ? Tensors{p, q, rows(), rows()} : Tensors{};
  if (keep && cutoff) kept.push_back(empty({size.num_nodes, size.num_frames, kMoves}));

  EGCLForward a{size, graph_of(first, sender, shift), egcl_weights(packed, params, slices)};
  a.x = data(x), a.h = data(h), a.edge_term = term ? data(*term) : nullptr;
  a.p = mutable_data(p), a.q = mutable_data(q), a.x_out = mutable_data(x_out), a.h_out = mutable_data(h_out);
  if (keep) a.m_sum = mutable_data(kept[2]), a.hidden = mutable_data(kept[3]);
  if (keep && cutoff) a.moves = mutable_data(kept[4]);

  const int64_t num_rows = size.num_nodes * size.num_frames;
  parallel(tiles(num_rows), 0, by_tile(num_rows, [&](int64_t i, int64_t j, float*) { k.egcl_project(a, i, j); }));
  parallel(
      size.num_nodes, k.egcl_nodes_scratch(size),
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
std::tuple<Tensor, Tensor, Tensor, Tensor, Tensors> egcl_backward(
    const Tensor& grad_x_out, const Tensor& grad_h_out, const Tensor& x, const Tensor& h, const Tensor& first,
    const Tensor& sender, const Tensor& sender_first, const Tensor& by_sender, const std::optional<Tensor>& edge_term,
    const std::optional<Tensor>& shift, const Tensors& params, const Tensors& kept, bool wants_shift, bool wants_params,
    bool normalize, bool pre_norm, std::optional<double> cutoff, bool residual, bool low_precision) {
  const char* op = "egcl_backward";
  const int64_t num_edges = check_egcl(op, x, h, first, sender, edge_term, shift, params, cutoff);
  check_senders(op, sender, sender_first, by_sender, x.size(0), num_edges);
  check_dense(op, "grad_x_out", grad_x_out, x.sizes());
  check_dense(op, "grad_h_out", grad_h_out, h.sizes());
  const Kernels& k = kernels(low_precision);
  const EGCLSizes size = egcl_sizes(k, x, h, normalize, pre_norm, cutoff, residual);
  const std::vector<int64_t> kept_rows{size.num_nodes, size.num_frames, size.stride};
  std::vector<KeptShape> shapes{{"p", kept_rows}, {"q", kept_rows}, {"m_sum", kept_rows}, {"hidden", kept_rows}};
  if (cutoff) shapes.push_back({"moves", {size.num_nodes, size.num_frames, kMoves}});
  check_kept(op, kept, shapes);
  const int64_t width = size.width, stride = size.stride;
  Weights packed(k);
  const FirstLayer slices(params, width);
  const auto term = padded_term(edge_term, stride);
  auto rows = [&] { return empty({size.num_nodes, size.num_frames, stride}); };
  auto grad_x = zeros_like(x), grad_h = new_like(h);
  auto grad_m_sum = rows(), grad_p = rows(), grad_q = zeros_like(kept[0]);
  // Behind the last edge there is room that nothing else writes.
  const int64_t room = sender.size(0);
  const auto of_edges = [&](bool wanted, int64_t columns) {
    auto out = empty({wanted ? room : 0, columns});
    if (wanted) std::fill(mutable_data(out) + num_edges * columns, mutable_data(out) + room * columns, 0.0f);
    return out;
  };
  auto grad_term = of_edges(edge_term.has_value(), stride), grad_shift = of_edges(wants_shift, size.dim);

  EGCLBackward a{size, graph_of(first, sender, shift), egcl_weights(packed, params, slices),
                 transposed_weights(packed, params, slices)};
  a.x = data(x), a.h = data(h), a.edge_term = term ? data(*term) : nullptr;
  a.p = data(kept[0]), a.q = data(kept[1]), a.m_sum = data(kept[2]), a.hidden = data(kept[3]);
  a.moves = cutoff ? data(kept[4]) : nullptr;
  a.grad_x_out = data(grad_x_out), a.grad_h_out = data(grad_h_out);
  a.grad_m_sum = mutable_data(grad_m_sum), a.grad_p = mutable_data(grad_p), a.grad_q = mutable_data(grad_q);
  a.grad_x = mutable_data(grad_x), a.grad_h = mutable_data(grad_h);
  a.grad_edge_term = edge_term ? mutable_data(grad_term) : nullptr;
  a.grad_shift = wants_shift ? mutable_data(grad_shift) : nullptr;

  const int64_t num_rows = size.num_nodes * size.num_frames, tile = kTileRows * stride;
  Slots node_slots(EGCLNodeSlot(width, stride).size, wants_params);
  Slots edge_slots(EGCLEdgeSlot(width, stride).size, wants_params);
  node_slots.run(tiles(num_rows), 5 * tile + stride + 128,
                 by_tile(num_rows, [&](int64_t i, int64_t j, float* slot, float* memory) {
                   k.egcl_update_backward(a, i, j, slot, memory);
                 }));

  // What senders get is kept for one chunk of edges at a time: memory does not grow with the number of edges.
  constexpr int64_t kChunkBytes = 16 << 20;
  const int64_t per_edge = size.num_frames * stride;
  const int64_t max_edges = std::max<int64_t>(1, kChunkBytes / (4 * std::max<int64_t>(per_edge, 1)));
  const int64_t* begin = a.graph.first;
  std::optional<Tensor> edge_grad_q, edge_grad_x;
  int64_t edges_at_once = -1;
  std::vector<int64_t> cursor(index_data(sender_first), index_data(sender_first) + size.num_nodes);
  for (int64_t i = 0; i < size.num_nodes;) {
    const int64_t end = chunk_end(begin, i, size.num_nodes, max_edges), edges = begin[end] - begin[i];
    if (edges_at_once < edges) {
      edges_at_once = std::max(edges, std::min(max_edges, num_edges));
      edge_grad_q = empty({edges_at_once, per_edge});
      edge_grad_x = empty({edges_at_once, size.num_frames * size.dim});
      a.edge_grad_q = mutable_data(*edge_grad_q), a.edge_grad_x = mutable_data(*edge_grad_x);
    }
    a.chunk_first = begin[i];
    edge_slots.run(end - i, k.egcl_edges_backward_scratch(size),
                   [&](int64_t from, int64_t to, float* slot, float* memory) {
                     k.egcl_edges_backward(a, i + from, i + to, slot, memory);
                   });
    parallel(size.num_nodes, 0, [&](int64_t from, int64_t to, float*) {
      k.egcl_senders(a, index_data(sender_first), index_data(by_sender), cursor.data(), begin[end], from, to);
    });
    i = end;
  }
  node_slots.run(tiles(num_rows), 2 * tile + 64,
                 by_tile(num_rows, [&](int64_t i, int64_t j, float* slot, float* memory) {
                   k.egcl_project_backward(a, i, j, slot, memory);
                 }));

  if (width < stride) grad_term = dense(Matrix(grad_term).slice(0, width));
  if (!wants_params) return {grad_x, grad_h, grad_term, grad_shift, Tensors{}};
  const SlotReader node(node_slots, width, stride), edge(edge_slots, width, stride);
  const EGCLNodeSlot n(width, stride);
  const EGCLEdgeSlot e(width, stride);
  const int64_t columns = params[kEdgeW1].size(1);
  const auto grad_edge_w1 = zeros({width, columns});
  float* to = mutable_data(grad_edge_w1);
  copy(node.matrix(n.receiver), to, columns);
  copy(node.matrix(n.sender), to + width, columns);
  copy(edge.vector(e.distance), to + 2 * width, columns);
  Tensors grads{grad_edge_w1,
                dense(node.vector(n.edge_b1)),
                dense(edge.matrix(e.edge2)),
                dense(edge.vector(e.edge_b2)),
                dense(edge.matrix(e.coord1)),
                dense(edge.vector(e.coord_b1)),
                dense_row(edge.vector(e.coord2)),
                dense(edge.numbers(e.coord_b2, 1)),
                side_by_side(node.matrix(n.node1_h), node.matrix(n.node1_m)),
                dense(node.vector(n.node_b1)),
                dense(node.matrix(n.node2)),
                dense(node.vector(n.node_b2))};
  return {grad_x, grad_h, grad_term, grad_shift, grads};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(geotdm_fast, CPU, m) {
  m.impl("egcl_forward", TORCH_BOX(&egcl_forward));
  m.impl("egcl_backward", TORCH_BOX(&egcl_backward));
}

}  // namespace geotdm
