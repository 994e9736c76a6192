// What an op may be given: an error names the op, the argument, what was expected and what came.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/util/Exception.h>

#include <algorithm>
#include <vector>

namespace geotdm {

// Float tensors may have any strides (weights).
inline void check(const char* op, const char* name, const at::Tensor& t, at::IntArrayRef shape,
                  at::ScalarType dtype = at::kFloat) {
  TORCH_CHECK_VALUE(t.device().is_cpu(), op, ": ", name, " must be on cpu, got ", t.device());
  TORCH_CHECK_TYPE(t.scalar_type() == dtype, op, ": ", name, " must be ", dtype, ", got ", t.scalar_type());
  TORCH_CHECK_VALUE(t.sizes() == shape, op, ": ", name, " must be ", shape, ", got ", t.sizes());
}

// What the kernels read through a bare pointer.
inline void check_dense(const char* op, const char* name, const at::Tensor& t, at::IntArrayRef shape,
                        at::ScalarType dtype = at::kFloat) {
  check(op, name, t, shape, dtype);
  TORCH_CHECK_VALUE(t.is_contiguous(), op, ": ", name, " must be contiguous, got strides ", t.strides());
}

// x [N, T, D] and h [N, T, H].
inline void check_rows(const char* op, const at::Tensor& x, const at::Tensor& h) {
  TORCH_CHECK_VALUE(x.dim() == 3 && (x.size(2) == 2 || x.size(2) == 3), op, ": x must be [N, T, 2] or [N, T, 3], got ",
                    x.sizes());
  TORCH_CHECK_VALUE(h.dim() == 3 && h.size(2) % 16 == 0 && h.size(2) >= 16 && h.size(2) <= 256, op,
                    ": h must be [N, T, H] with H a multiple of 16 up to 256, got ", h.sizes());
  check_dense(op, "x", x, x.sizes());
  check_dense(op, "h", h, {x.size(0), x.size(1), h.size(2)});
}

struct ParamShape {
  const char* name;
  int64_t rows, columns;  // columns 0: a vector
};

template <size_t COUNT>
void check_params(const char* op, at::TensorList params, const ParamShape (&shapes)[COUNT]) {
  TORCH_CHECK_VALUE(params.size() == COUNT, op, ": params must be ", COUNT, " tensors, got ", params.size());
  for (size_t i = 0; i < COUNT; ++i) {
    const int64_t sizes[] = {shapes[i].rows, shapes[i].columns};
    check(op, shapes[i].name, params[i], at::IntArrayRef(sizes, shapes[i].columns ? 2 : 1));
  }
}

struct KeptShape {
  const char* name;
  std::vector<int64_t> sizes;
};

// What a forward kept for this backward.
inline void check_kept(const char* op, at::TensorList kept, const std::vector<KeptShape>& shapes) {
  TORCH_CHECK_VALUE(kept.size() == shapes.size(), op, ": kept must be ", shapes.size(), " tensors, got ", kept.size());
  for (size_t i = 0; i < shapes.size(); ++i) check_dense(op, shapes[i].name, kept[i], shapes[i].sizes);
}

// Offsets [N + 1] that ascend from 0 to `end`.
inline void check_offsets(const char* op, const char* name, const at::Tensor& offsets, int64_t num_nodes, int64_t end) {
  check_dense(op, name, offsets, {num_nodes + 1}, at::kLong);
  const int64_t* o = offsets.const_data_ptr<int64_t>();
  bool ascends = o[0] == 0 && o[num_nodes] == end;
  for (int64_t i = 0; i < num_nodes; ++i) ascends &= o[i] <= o[i + 1];
  TORCH_CHECK_VALUE(ascends, op, ": ", name, " must ascend from 0 to ", end, ", got ", offsets);
}

// Edges sorted by receiver: first [N + 1], sender [E]; returns how many there are, first[N]. Places behind may hold
// anything.
inline int64_t check_edges(const char* op, const at::Tensor& first, const at::Tensor& sender, int64_t num_nodes) {
  check_dense(op, "sender", sender, {sender.numel()}, at::kLong);
  check_dense(op, "first", first, {num_nodes + 1}, at::kLong);
  const int64_t last = first.const_data_ptr<int64_t>()[num_nodes];
  check_offsets(op, "first", first, num_nodes, std::min(last, sender.numel()));
  const int64_t* s = sender.const_data_ptr<int64_t>();
  for (int64_t e = 0; e < last; ++e)
    TORCH_CHECK_VALUE(s[e] >= 0 && s[e] < num_nodes, op, ": sender must be in 0..", num_nodes - 1, ", got ", s[e],
                      " at index ", e);
  return last;
}

// The edges that leave each sender, ascending: by_sender [E] from sender_first [N + 1].
inline void check_senders(const char* op, const at::Tensor& sender, const at::Tensor& sender_first,
                          const at::Tensor& by_sender, int64_t num_nodes, int64_t num_edges) {
  check_offsets(op, "sender_first", sender_first, num_nodes, num_edges);
  check_dense(op, "by_sender", by_sender, {sender.numel()}, at::kLong);
  const int64_t* s = sender.const_data_ptr<int64_t>();
  const int64_t* begin = sender_first.const_data_ptr<int64_t>();
  const int64_t* edge = by_sender.const_data_ptr<int64_t>();
  bool sorted = true;
  for (int64_t j = 0; j < num_nodes; ++j)
    for (int64_t c = begin[j]; c < begin[j + 1]; ++c)
      sorted =
          sorted && edge[c] >= 0 && edge[c] < num_edges && s[edge[c]] == j && (c == begin[j] || edge[c - 1] < edge[c]);
  TORCH_CHECK_VALUE(sorted, op, ": by_sender must hold the edges of each sender in ascending order, got ", by_sender);
}

}  // namespace geotdm
