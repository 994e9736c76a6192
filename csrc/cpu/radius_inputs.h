// What both forms of the neighbour search are given.
#pragma once

#include <algorithm>
#include <limits>
#include <numeric>
#include <optional>
#include <vector>

#include "checks.h"
#include "tensors.h"

namespace geotdm {

// The nodes of each graph, ascending.
struct Graphs {
  std::vector<int64_t> node, first;

  Graphs(const std::optional<Tensor>& batch, int64_t num_nodes) : node(num_nodes), first{0} {
    std::iota(node.begin(), node.end(), 0);
    if (!batch) {
      first.push_back(num_nodes);
      return;
    }
    const int64_t* graph = index_data(*batch);
    if (!std::is_sorted(graph, graph + num_nodes))
      std::stable_sort(node.begin(), node.end(), [&](int64_t i, int64_t j) { return graph[i] < graph[j]; });
    for (int64_t place = 1; place <= num_nodes; ++place)
      if (place == num_nodes || graph[node[place]] != graph[node[place - 1]]) first.push_back(place);
  }
  int64_t count() const { return static_cast<int64_t>(first.size()) - 1; }
  int64_t size(int64_t graph) const { return first[graph + 1] - first[graph]; }
};

inline void check_search_inputs(const char* op, const Tensor& x, const std::optional<Tensor>& batch) {
  check(x.dim() == 3 && x.size(2) > 0, op, "x must be [N, T, D], got ", listed(x.sizes()));
  check_tensor(op, "x", x, x.sizes(), has_dtype(x, ScalarType::Double) ? ScalarType::Double : ScalarType::Float);
  if (batch) check_dense(op, "batch", *batch, {x.size(0)}, ScalarType::Long);
  check(x.size(0) * x.size(1) <= std::numeric_limits<int32_t>::max(), op, "nodes times frames must be under 2^31, got ",
        x.size(0) * x.size(1));
}

}  // namespace geotdm
