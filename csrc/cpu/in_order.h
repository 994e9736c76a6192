// Tasks that wait for one another, shared among torch's threads without a barrier between them.
#pragma once

#include <atomic>
#include <thread>

#include "tensors.h"

namespace geotdm {

// Returns when ready() holds, which another thread brings about. A thread whose core is taken away meanwhile must get
// it back, so the wait gives its own away after some time.
template <typename Ready>
void wait_until(const Ready& ready) {
#if defined(__x86_64__)
  constexpr int kSpins = 4000;  // some ten microseconds
  for (int spins = 0; spins < kSpins; ++spins) {
    if (ready()) return;
    __builtin_ia32_pause();
  }
#endif
  while (!ready()) std::this_thread::yield();
}

// Runs task(i, memory) for i = 0 .. count - 1, each thread with its own scratch of `floats`. A thread takes the first
// task that nobody has taken, so a task may wait for any before it: whoever has that one is at it.
template <typename Task>
void in_order(int64_t count, int64_t threads, int64_t floats, const Task& task) {
  const int64_t aligned = round_up(floats, 16);
  const Tensor memory = empty({threads * aligned + 16});
  float* start = reinterpret_cast<float*>(round_up(reinterpret_cast<int64_t>(mutable_data(memory)), 64));
  std::atomic<int64_t> next{0};
  parallel_for(threads, 1, [&](int64_t thread, int64_t end) {
    for (; thread < end; ++thread)
      for (int64_t i; (i = next.fetch_add(1, std::memory_order_relaxed)) < count;) task(i, start + thread * aligned);
  });
}

}  // namespace geotdm
