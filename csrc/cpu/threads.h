// Work shared among torch's threads.
#pragma once

#include <torch/csrc/stable/ops.h>

#include <cstdint>
#include <exception>
#include <mutex>

namespace geotdm {

// Runs task(first, last) on parts of 0 .. count - 1, of `grain` or more. What it throws comes out as it is: through
// torch it would be an error without a name.
template <typename Task>
void parallel_for(int64_t count, int64_t grain, const Task& task) {
  if (count <= 0) return;
  if (count <= grain) return task(0, count);
  std::mutex mutex;
  std::exception_ptr thrown;
  torch::stable::parallel_for(0, count, grain, [&](int64_t first, int64_t last) {
    try {
      task(first, last);
    } catch (...) {
      const std::lock_guard<std::mutex> guard(mutex);
      thrown = std::current_exception();
    }
  });
  if (thrown) std::rethrow_exception(thrown);
}

}  // namespace geotdm
