// New tensors by torch's stable ABI, and what is said where there is no memory for one.
#pragma once

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <new>
#include <string>

#include "errors.h"

namespace geotdm {

// What torch's Python raises as MemoryError.
class OutOfMemory : public std::bad_alloc {
 public:
  explicit OutOfMemory(Shape sizes) {
    std::ostringstream text;
    text << "not enough memory for a tensor " << listed(sizes);
    text_ = text.str();
  }
  const char* what() const noexcept override { return text_.c_str(); }

 private:
  std::string text_;
};

// The stable ABI tells that torch could not make a tensor, not why; of sizes and dtypes that have been checked it is
// for want of memory.
template <class Make>
torch::stable::Tensor allocated(Shape sizes, const Make& make) {
  try {
    return make();
  } catch (const std::exception&) {
    throw OutOfMemory(sizes);
  }
}

// In the strides of a dense tensor.
inline torch::stable::Tensor new_like(const torch::stable::Tensor& t) {
  return allocated(t.sizes(), [&] { return torch::stable::empty_like(t); });
}

}  // namespace geotdm
