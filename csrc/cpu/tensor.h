// Tensors by torch's stable ABI, and strided views of their numbers: what the ops do with them beside the kernels.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/util/shim_utils.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <optional>
#include <vector>

#include "../allocation.h"
#include "../errors.h"
#include "threads.h"

namespace geotdm {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using Tensors = std::vector<Tensor>;

// The dtype has been checked.
template <typename S>
const S* data(const Tensor& t) {
  return static_cast<const S*>(t.const_data_ptr());
}
template <typename S>
S* mutable_data(const Tensor& t) {
  return static_cast<S*>(t.mutable_data_ptr());
}
inline const float* data(const Tensor& t) { return data<float>(t); }
inline float* mutable_data(const Tensor& t) { return mutable_data<float>(t); }
inline const int64_t* index_data(const Tensor& t) { return data<int64_t>(t); }

// Of the running torch, whose numbers for dtypes need not be those of its headers.
inline int32_t code_of(ScalarType dtype) {
  return torch::stable::detail::to<int32_t>(torch::stable::detail::from(dtype));
}

inline bool has_dtype(const Tensor& t, ScalarType dtype) {
  int32_t code;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_dtype(t.get(), &code));
  return code == code_of(dtype);
}

// New and dense, on the CPU; filled with NaN where torch is asked to fill what is new. By new_empty, which costs 0.3
// us; torch::stable::empty looks for its op by name and costs 0.7.
inline Tensor empty(Shape sizes, ScalarType dtype = ScalarType::Float) {
  static const AtenTensorHandle like = [] {
    const int64_t size = 0, stride = 1;
    AtenTensorHandle made;
    TORCH_ERROR_CODE_CHECK(aoti_torch_empty_strided(1, &size, &stride, aoti_torch_dtype_float32(),
                                                    aoti_torch_device_type_cpu(), 0, &made));
    return made;
  }();
  int32_t code = code_of(dtype);
  AtenTensorHandle made;
  if (aoti_torch_aten_new_empty(like, sizes.data(), sizes.size(), &code, nullptr, nullptr, 0, nullptr, &made) !=
      AOTI_TORCH_SUCCESS)
    throw OutOfMemory(sizes);
  return Tensor(made);
}

// All of a dense tensor; one thread is done with fewer numbers before a second has begun.
inline Tensor zeroed(const Tensor& t) {
  float* to = mutable_data(t);
  parallel_for(t.numel(), 1 << 15, [&](int64_t first, int64_t last) { std::fill(to + first, to + last, 0.0f); });
  return t;
}
inline Tensor zeros(Shape sizes) { return zeroed(empty(sizes)); }
// In the strides of a dense tensor.
inline Tensor zeros_like(const Tensor& t) { return zeroed(new_like(t)); }

// A vector [n] of any stride, or the only row of a matrix.
struct Vector {
  const float* from;
  int64_t size, stride;

  Vector(const float* numbers, int64_t count, int64_t apart) : from(numbers), size(count), stride(apart) {}
  Vector(const Tensor& t) : Vector(data(t), t.size(-1), t.stride(-1)) {}
};

// A matrix [rows, columns] of any strides.
struct Matrix {
  const float* from;
  int64_t rows, columns, row_stride, column_stride;

  Matrix(const float* numbers, int64_t row_count, int64_t column_count, int64_t rows_apart, int64_t columns_apart = 1)
      : from(numbers), rows(row_count), columns(column_count), row_stride(rows_apart), column_stride(columns_apart) {}
  Matrix(const Tensor& t) : Matrix(data(t), t.size(0), t.size(1), t.stride(0), t.stride(1)) {}

  Matrix t() const { return {from, columns, rows, column_stride, row_stride}; }
  // `count` columns from `first` on.
  Matrix slice(int64_t first, int64_t count) const {
    return {from + first * column_stride, rows, count, row_stride, column_stride};
  }
  Vector row(int64_t i) const { return {from + i * row_stride, columns, column_stride}; }
  Vector column(int64_t i) const { return {from + i * column_stride, rows, row_stride}; }
};

// To places that are `to_stride` apart.
inline void copy(const Vector& v, float* to, int64_t to_stride = 1) {
  for (int64_t i = 0; i < v.size; ++i) to[i * to_stride] = v.from[i * v.stride];
}

// To rows that are `to_stride` apart.
inline void copy(const Matrix& m, float* to, int64_t to_stride) {
  const int64_t rows_at_once = std::max<int64_t>(1, (1 << 15) / std::max<int64_t>(m.columns, 1));
  parallel_for(m.rows, rows_at_once, [&](int64_t first, int64_t last) {
    for (int64_t i = first; i < last; ++i) {
      const Vector row = m.row(i);
      if (row.stride == 1)
        std::copy_n(row.from, row.size, to + i * to_stride);
      else
        copy(row, to + i * to_stride);
    }
  });
}

// The same numbers in a tensor of their own: [n], [1, n], and [rows, columns].
inline Tensor dense(const Vector& v) {
  auto out = empty({v.size});
  copy(v, mutable_data(out));
  return out;
}
inline Tensor dense_row(const Vector& v) {
  auto out = empty({1, v.size});
  copy(v, mutable_data(out));
  return out;
}
inline Tensor dense(const Matrix& m) {
  auto out = empty({m.rows, m.columns});
  copy(m, mutable_data(out), m.columns);
  return out;
}

// Two matrices of as many rows, side by side.
inline Tensor side_by_side(const Matrix& left, const Matrix& right) {
  const int64_t columns = left.columns + right.columns;
  auto out = empty({left.rows, columns});
  copy(left, mutable_data(out), columns);
  copy(right, mutable_data(out) + left.columns, columns);
  return out;
}

}  // namespace geotdm
