// The op edge_tables on the CPU: edges sorted by receiver and by sender, by counting.
#include <tuple>

#include "checks.h"

namespace geotdm {

namespace {

// first [num_rows + 1]: where each row's keys begin; place [count]: the numbers of the keys, row by row, ascending.
void sort_by_row(const int64_t* keys, int64_t count, int64_t num_rows, int64_t* first, int64_t* place) {
  std::fill(first, first + num_rows + 1, int64_t{0});
  for (int64_t e = 0; e < count; ++e) ++first[keys[e] + 1];
  for (int64_t i = 0; i < num_rows; ++i) first[i + 1] += first[i];
  std::vector<int64_t> next(first, first + num_rows);
  for (int64_t e = 0; e < count; ++e) place[next[keys[e]]++] = e;
}

// edge_index [2, E] int64: receivers, senders. first, sender, sender_first and by_sender as for egcl_backward. order
// [E]: edge k of them is edge order[k] of edge_index; no number where those were sorted already.
std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> edge_tables(const Tensor& edge_index, int64_t num_rows) {
  const char* op = "egcl";  // whose edges they are
  const int64_t count = edge_index.dim() == 2 ? edge_index.size(1) : 0;
  check(edge_index.dim() == 2, op, "edge_index must be [2, E], got ", listed(edge_index.sizes()));
  check_dense(op, "edge_index", edge_index, {2, count}, ScalarType::Long);
  constexpr int64_t kMostRows = int64_t{1} << 60;  // so that a table's bytes can be counted
  check(0 <= num_rows && num_rows < kMostRows, op, "num_rows must be in 0..2^60 - 1, got ", num_rows);
  const int64_t *receiver = index_data(edge_index), *of_edge = receiver + count;
  if (count > 0) {
    const auto [low, high] = std::minmax_element(receiver, receiver + 2 * count);
    check(*low >= 0, op, "edge_index must not be negative, got ", *low);
    check(*high < num_rows, op, "edge_index must be in 0..", num_rows - 1, ", got ", *high);
  }
  const auto numbers = [](int64_t size) { return empty({size}, ScalarType::Long); };
  const auto to = [](const Tensor& t) { return mutable_data<int64_t>(t); };
  const bool is_sorted = std::is_sorted(receiver, receiver + count);
  const Tensor order = numbers(count), first = numbers(num_rows + 1), sender = numbers(count);
  const Tensor sender_first = numbers(num_rows + 1), by_sender = numbers(count);
  sort_by_row(receiver, count, num_rows, to(first), to(order));
  for (int64_t e = 0; e < count; ++e) to(sender)[e] = of_edge[to(order)[e]];
  sort_by_row(to(sender), count, num_rows, to(sender_first), to(by_sender));
  return {is_sorted ? numbers(0) : order, first, sender, sender_first, by_sender};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(geotdm_fast, CPU, m) { m.impl("edge_tables", TORCH_BOX(&edge_tables)); }

}  // namespace geotdm
