// How an op refuses what it is given: the error names the op, the argument, what was expected and what came.
#pragma once

#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/util/HeaderOnlyArrayRef.h>

#include <cstdint>
#include <ostream>
#include <sstream>
#include <stdexcept>
#include <string>

namespace geotdm {

using Shape = torch::headeronly::IntHeaderOnlyArrayRef;

// [2, 3] in a message; borrows the numbers.
struct Listed {
  Shape numbers;
};
inline Listed listed(Shape numbers) { return {numbers}; }

inline std::ostream& operator<<(std::ostream& out, const Listed& list) {
  constexpr size_t kMost = 32;
  out << '[';
  for (size_t i = 0; i < list.numbers.size() && i < kMost; ++i) out << (i ? ", " : "") << list.numbers[i];
  return out << (list.numbers.size() > kMost ? ", ...]" : "]");
}

// The device of a tensor in a message, as torch writes it: cpu, cuda:0.
inline std::string device_of(const torch::stable::Tensor& t) {
  using torch::headeronly::DeviceType;
  const auto device = t.device();
  const auto name = [&]() -> std::string {
    switch (device.type()) {
      case DeviceType::CPU:
        return "cpu";
      case DeviceType::CUDA:
        return "cuda";
      case DeviceType::Meta:
        return "meta";
      case DeviceType::MPS:
        return "mps";
      case DeviceType::XPU:
        return "xpu";
      default:
        return "a device of type " + std::to_string(static_cast<int>(device.type()));
    }
  }();
  const bool is_numbered = device.index() >= 0 && device.type() != DeviceType::CPU && device.type() != DeviceType::Meta;
  return is_numbered ? name + ":" + std::to_string(device.index()) : name;
}

// What torch's Python raises as ValueError: torch's own classes of errors are no part of its stable ABI.
template <class... Parts>
[[noreturn, gnu::noinline, gnu::cold]] void refuse(const char* op, const Parts&... parts) {
  std::ostringstream text;
  text << op << ": ";
  (text << ... << parts);
  throw std::invalid_argument(text.str());
}

template <class... Parts>
void check(bool right, const char* op, const Parts&... parts) {
  if (!right) [[unlikely]]
    refuse(op, parts...);
}

}  // namespace geotdm
