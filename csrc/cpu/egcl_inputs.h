// What the op egcl checks and packs before its kernels run: shared by the op and by layer_pairs.
#pragma once

#include <cmath>

#include "checks.h"
#include "tensors.h"

namespace geotdm {

// The order of EGCLParams in geotdm_fast/reference/egcl.py.
enum { kEdgeW1, kEdgeB1, kEdgeW2, kEdgeB2, kCoordW1, kCoordB1, kCoordW2, kCoordB2, kNodeW1, kNodeB1, kNodeW2, kNodeB2 };

inline EGCLSizes egcl_sizes(const Kernels& k, const Tensor& x, const Tensor& h, bool normalize, bool pre_norm,
                            std::optional<double> cutoff, bool residual) {
  const float inverse_cutoff = cutoff ? float(1 / *cutoff) : 0.0f;
  return {x.size(0), x.size(1), x.size(2),      h.size(2), round_up(h.size(2), k.panel),
          normalize, pre_norm,  inverse_cutoff, residual};
}

inline void check_egcl_params(const char* op, const Tensors& params, int64_t width) {
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
}

inline void check_cutoff(const char* op, std::optional<double> cutoff) {
  check(!cutoff || (*cutoff > 0 && std::isfinite(*cutoff)), op, "cutoff must be finite and over 0, got ",
        cutoff.value_or(0));
}

// Returns the number of edges.
inline int64_t check_egcl(const char* op, const Tensor& x, const Tensor& h, const Tensor& first, const Tensor& sender,
                          const std::optional<Tensor>& edge_term, const std::optional<Tensor>& shift,
                          const Tensors& params, std::optional<double> cutoff) {
  check_rows(op, x, h);
  const int64_t num_edges = check_edges(op, first, sender, x.size(0));
  check_cutoff(op, cutoff);
  const int64_t width = h.size(2);
  if (edge_term) check_tensor(op, "edge_term", *edge_term, {sender.numel(), width});
  if (shift) check_dense(op, "shift", *shift, {sender.numel(), x.size(2)});
  check_egcl_params(op, params, width);
  return num_edges;
}

inline EGCLGraph graph_of(const Tensor& first, const Tensor& sender, const std::optional<Tensor>& shift) {
  return {index_data(first), index_data(sender), shift ? data(*shift) : nullptr};
}

struct FirstLayer {  // slices of the first edge layer, and of the node layer, by what they multiply
  Matrix receiver, sender, node_h, node_m;
  Vector distance;
  FirstLayer(const Tensors& p, int64_t width) : FirstLayer(Matrix(p[kEdgeW1]), Matrix(p[kNodeW1]), width) {}

 private:
  FirstLayer(const Matrix& edge, const Matrix& node, int64_t width)
      : receiver(edge.slice(0, width)),
        sender(edge.slice(width, width)),
        node_h(node.slice(0, width)),
        node_m(node.slice(width, width)),
        distance(edge.column(2 * width)) {}
};

inline EGCLWeights egcl_weights(Weights& w, const Tensors& p, const FirstLayer& first) {
  return {w.matrix(first.receiver), w.matrix(first.sender), w.matrix(p[kEdgeW2]),  w.matrix(p[kCoordW1]),
          w.matrix(first.node_h),   w.matrix(first.node_m), w.matrix(p[kNodeW2]),  w.vector(p[kEdgeB1]),
          w.vector(first.distance), w.vector(p[kEdgeB2]),   w.vector(p[kCoordB1]), w.vector(p[kCoordW2]),
          w.vector(p[kNodeB1]),     w.vector(p[kNodeB2]),   *data(p[kCoordB2])};
}

inline std::optional<Tensor> padded_term(const std::optional<Tensor>& edge_term, int64_t stride) {
  if (!edge_term) return std::nullopt;
  return padded_rows(*edge_term, stride);
}

}  // namespace geotdm
