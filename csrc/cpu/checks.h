// What an op may be given: an error names the op, the argument, what was expected and what came.
#pragma once

#include <algorithm>
#include <limits>
#include <vector>

#include "tensor.h"

namespace geotdm {

// Float tensors may have any strides (weights).
inline void check_tensor(const char* op, const char* name, const Tensor& t, Shape shape,
                         ScalarType dtype = ScalarType::Float) {
  using torch::headeronly::toString;
  if (!t.is_cpu()) refuse(op, name, " must be on cpu, got ", device_of(t));
  if (!has_dtype(t, dtype)) refuse(op, name, " must be ", toString(dtype), ", got ", toString(t.scalar_type()));
  const Shape sizes = t.sizes();
  check(sizes.equals(shape), op, name, " must be ", listed(shape), ", got ", listed(sizes));
}

// What the kernels read through a bare pointer.
inline void check_dense(const char* op, const char* name, const Tensor& t, Shape shape,
                        ScalarType dtype = ScalarType::Float) {
  check_tensor(op, name, t, shape, dtype);
  if (!t.is_contiguous()) refuse(op, name, " must be contiguous, got strides ", listed(t.strides()));
}

// x [N, T, D] and h [N, T, H].
inline void check_rows(const char* op, const Tensor& x, const Tensor& h) {
  const Shape of_x = x.sizes(), of_h = h.sizes();
  check(of_x.size() == 3 && (of_x[2] == 2 || of_x[2] == 3), op, "x must be [N, T, 2] or [N, T, 3], got ", listed(of_x));
  check(of_h.size() == 3 && of_h[2] % 16 == 0 && of_h[2] >= 16 && of_h[2] <= 256, op,
        "h must be [N, T, H] with H a multiple of 16 up to 256, got ", listed(of_h));
  check_dense(op, "x", x, of_x);
  check_dense(op, "h", h, {of_x[0], of_x[1], of_h[2]});
}

struct ParamShape {
  const char* name;
  int64_t rows, columns;  // columns 0: a vector
};

template <size_t COUNT>
void check_params(const char* op, const Tensors& params, const ParamShape (&shapes)[COUNT]) {
  check(params.size() == COUNT, op, "params must be ", COUNT, " tensors, got ", params.size());
  for (size_t i = 0; i < COUNT; ++i) {
    const int64_t sizes[] = {shapes[i].rows, shapes[i].columns};
    check_tensor(op, shapes[i].name, params[i], Shape(sizes, shapes[i].columns ? 2 : 1));
  }
}

struct KeptShape {
  const char* name;
  std::vector<int64_t> sizes;
};

// What a forward kept for this backward.
inline void check_kept(const char* op, const Tensors& kept, const std::vector<KeptShape>& shapes) {
  check(kept.size() == shapes.size(), op, "kept must be ", shapes.size(), " tensors, got ", kept.size());
  for (size_t i = 0; i < shapes.size(); ++i) check_dense(op, shapes[i].name, kept[i], shapes[i].sizes);
}

// Offsets [N + 1] that ascend from 0 to `end`.
inline void check_offsets(const char* op, const char* name, const Tensor& offsets, int64_t num_nodes, int64_t end) {
  // of an op that counts the nodes by their offsets
  check(num_nodes >= 0, op, name, " must hold one offset at least, got ", listed(offsets.sizes()));
  check_dense(op, name, offsets, {num_nodes + 1}, ScalarType::Long);
  const int64_t* o = index_data(offsets);
  bool ascends = o[0] == 0 && o[num_nodes] == end;
  for (int64_t i = 0; i < num_nodes; ++i) ascends &= o[i] <= o[i + 1];
  check(ascends, op, name, " must ascend from 0 to ", end, ", got ", listed({o, static_cast<size_t>(num_nodes + 1)}));
}

// Edges sorted by receiver: first [N + 1], sender [E]; returns how many there are, first[N]. Places behind may hold
// anything.
inline int64_t check_edges(const char* op, const Tensor& first, const Tensor& sender, int64_t num_nodes) {
  const int64_t room = sender.numel();
  check_dense(op, "sender", sender, {room}, ScalarType::Long);
  check_dense(op, "first", first, {num_nodes + 1}, ScalarType::Long);
  const int64_t last = index_data(first)[num_nodes];
  check_offsets(op, "first", first, num_nodes, std::min(last, room));
  const int64_t* s = index_data(sender);
  for (int64_t e = 0; e < last; ++e)
    check(s[e] >= 0 && s[e] < num_nodes, op, "sender must be in 0..", num_nodes - 1, ", got ", s[e], " at index ", e);
  return last;
}

// The edges that leave each sender, ascending: by_sender [E] from sender_first [N + 1].
inline void check_senders(const char* op, const Tensor& sender, const Tensor& sender_first, const Tensor& by_sender,
                          int64_t num_nodes, int64_t num_edges) {
  const int64_t room = sender.numel();
  check_offsets(op, "sender_first", sender_first, num_nodes, num_edges);
  check_dense(op, "by_sender", by_sender, {room}, ScalarType::Long);
  const int64_t *s = index_data(sender), *begin = index_data(sender_first), *edge = index_data(by_sender);
  bool sorted = true;
  for (int64_t j = 0; j < num_nodes; ++j)
    for (int64_t c = begin[j]; c < begin[j + 1]; ++c)
      sorted =
          sorted && edge[c] >= 0 && edge[c] < num_edges && s[edge[c]] == j && (c == begin[j] || edge[c - 1] < edge[c]);
  check(sorted, op, "by_sender must hold the edges of each sender in ascending order, got ",
        listed({edge, static_cast<size_t>(room)}));
}

}  // namespace geotdm
