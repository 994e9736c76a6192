// The threads of one block: which runs next, where they meet, and the report when they do not.
//
// A thread runs until it must wait; then the next one does, in an order that is always the same. Blocks run one after
// another, and one launch at a time.
#pragma once

#include <bit>
#include <cstdarg>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include "fibres.h"

namespace geotdm::emulation {

constexpr int kWarp = 32, kMaxThreads = 1024;

// A line of the kernel's source, as the default of a last argument.
struct Place {
  const char* file;
  int line;
  static constexpr Place here(const char* file = __builtin_FILE(), int line = __builtin_LINE()) { return {file, line}; }
  bool operator==(const Place& other) const {
    return line == other.line && (file == other.file || std::strcmp(file, other.file) == 0);
  }
};

enum class Operation {
  kSyncBlock,
  kSyncWarp,
  kShuffleXor,
  kLoadMatrices,
  kLoadMatricesTransposed,
  kMmaBf16,
  kMmaTf32,
  kMultiplyAsync,
  kWaitProducts,
};
constexpr const char* kOperationNames[] = {
    "sync_block", "sync_warp", "shuffle_xor",    "load_matrices", "load_matrices_transposed",
    "mma_bf16",   "mma_tf32",  "multiply_async", "wait_products"};
inline const char* name(Operation operation) { return kOperationNames[static_cast<int>(operation)]; }

enum class Order : int { kForward, kReverse, kShuffle };

// What happened since geotdm_emulation_take_counts was last called. A thread's events count once for each thread; those
// of a warp once for the warp.
struct Counts {
  int64_t mma_bf16, mma_tf32, load_matrices;
  int64_t bank_conflicts;  // of load_matrices: times that eight rows had to be read once more
  int64_t tanh, exp2, exp;
  int64_t shared_read, shared_written;  // bytes; copies and load_matrices too
  int64_t sync_block, sync_warp, shuffle;
  int64_t multiply_async;  // of one warp
};

struct Thread {
  void* stack;
  bool ended;
  Operation operation;  // where it waits, if it is not ready
  Place place;
  void* argument;  // of that operation
};

struct Warp {
  uint32_t ready;    // lanes that may run
  uint32_t arrived;  // lanes that wait for the others
  uint32_t since;    // time of the last barrier of the warp or the block
};

class Block {
 public:
  int self = 0;  // the running thread
  int64_t x = 0;
  int y = 0;
  Order order = Order::kForward;
  uint32_t seed = 1;
  Counts counts{};
  std::string text;  // the report of the last launch, or nothing

  // Barriers are numbered. An access at time t is ordered before those that another thread of the warp makes when
  // t < warp_since, and of another warp when t < block_since.
  uint32_t time() const { return time_; }
  uint32_t warp_since(int thread) const { return warps_[thread / kWarp].since; }
  uint32_t block_since() const { return block_since_; }

  int count() const { return count_; }

  // From here on time is later.
  uint32_t tick() {
    constexpr uint32_t kMaxTime = (1u << 21) - 1;  // what the shadow of shared memory has bits for
    if (time_ == kMaxTime) report("more than %u barriers in a block cannot be told apart", kMaxTime);
    return ++time_;
  }

  // Runs `entry` on every thread of a block; false if there is a report.
  bool run(const char* kernel, int threads, void (*entry)()) {
    kernel_ = kernel;
    count_ = threads;
    stacks_.reserve(threads);
    threads_.assign(threads, {});
    warps_.assign(threads / kWarp, {~0u, 0, 1});
    ready_warps_ = ~0u >> (32 - threads / kWarp);
    time_ = block_since_ = 1;
    arrived_ = ended_ = 0;
    random_ = seed * 2654435761u | 1;
    for (int i = 0; i < threads; ++i) threads_[i].stack = stacks_.start(i, entry);
    self = next();
    geotdm_emulation_switch(&launcher_, threads_[self].stack);
    return text.empty();
  }

  // Every lane of the warp calls this; the last to come calls compute(lane -> its argument) for all.
  template <class Compute>
  void meet_warp(Operation operation, void* argument, Place place, Compute compute) {
    Warp& warp = warps_[self / kWarp];
    Thread* lanes = &threads_[self / kWarp * kWarp];
    if (warp.arrived) agree(self / kWarp * kWarp + std::countr_zero(warp.arrived), operation, place);
    lanes[self % kWarp].argument = argument;
    warp.arrived |= 1u << self % kWarp;
    if (~warp.arrived) return wait(operation, place);
    compute([lanes](int lane) { return lanes[lane].argument; });
    warp.arrived = 0;
    warp.ready = ~0u;
    ready_warps_ |= 1u << self / kWarp;
    run_next();
  }

  void sync_warp(Place place) {
    meet_warp(Operation::kSyncWarp, nullptr, place, [this](auto) {
      ++counts.sync_warp;
      warps_[self / kWarp].since = tick();
    });
  }

  void sync_block(Place place) {
    if (arrived_)
      agree(first_, Operation::kSyncBlock, place);
    else
      first_ = self;
    if (++arrived_ < count_) return wait(Operation::kSyncBlock, place);
    arrived_ = 0;
    ++counts.sync_block;
    block_since_ = tick();
    for (Warp& warp : warps_) warp = {~0u, 0, block_since_};
    ready_warps_ = ~0u >> (32 - count_ / kWarp);
    run_next();
  }

  [[noreturn]] void end() {
    threads_[self].ended = true;
    if (++ended_ == count_) leave();
    unready();
    run_next();
    std::abort();  // nobody switches to a thread that ended
  }

  // Ends the launch with a text in the style of printf. No thread is gone back to: their frames are given up.
  [[noreturn]] __attribute__((format(printf, 2, 3))) void report(const char* format, ...) {
    va_list arguments;
    va_start(arguments, format);
    char message[1024];
    std::vsnprintf(message, sizeof message, format, arguments);
    va_end(arguments);
    text = std::string(kernel_) + ", block (" + std::to_string(x) + ", " + std::to_string(y) + "): " + message;
    leave();
  }

 private:
  const char* kernel_ = "";
  int count_ = 0, arrived_ = 0, ended_ = 0, first_ = 0;
  uint32_t ready_warps_ = 0, time_ = 1, block_since_ = 1, random_ = 1;
  void* launcher_ = nullptr;
  Stacks stacks_;
  std::vector<Thread> threads_;
  std::vector<Warp> warps_;

  void agree(int other, Operation operation, Place place) {
    const Thread& there = threads_[other];
    if (there.operation == operation && there.place == place) return;
    report("thread %d is in %s (%s:%d) while thread %d waits in %s (%s:%d)", self, name(operation), place.file,
           place.line, other, name(there.operation), there.place.file, there.place.line);
  }

  void wait(Operation operation, Place place) {
    threads_[self].operation = operation;
    threads_[self].place = place;
    unready();
    run_next();
  }

  void unready() {
    Warp& warp = warps_[self / kWarp];
    warp.ready &= ~(1u << self % kWarp);
    if (!warp.ready) ready_warps_ &= ~(1u << self / kWarp);
  }

  void run_next() {
    const int before = self;
    self = next();
    if (self != before) geotdm_emulation_switch(&threads_[before].stack, threads_[self].stack);
  }

  int next() {
    if (!ready_warps_) report_deadlock();
    const int warp = pick(ready_warps_);
    return warp * kWarp + pick(warps_[warp].ready);
  }

  int pick(uint32_t mask) {
    if (order == Order::kForward) return std::countr_zero(mask);
    if (order == Order::kReverse) return 31 - std::countl_zero(mask);
    random_ ^= random_ << 13;  // xorshift
    random_ ^= random_ >> 17;
    random_ ^= random_ << 5;
    for (int skip = random_ % std::popcount(mask); skip > 0; --skip) mask &= mask - 1;
    return std::countr_zero(mask);
  }

  [[noreturn]] void leave() {
    void* given_up;
    geotdm_emulation_switch(&given_up, launcher_);
    std::abort();
  }

  // Nobody can run: says who is where, neighbours together.
  [[noreturn]] void report_deadlock() {
    std::string all;
    for (int first = 0, last; first < count_; first = last) {
      const std::string where = whereabouts(first);
      for (last = first + 1; last < count_ && whereabouts(last) == where;) ++last;
      if (first > 0) all += "; ";
      all += last - first == 1 ? "thread " + std::to_string(first)
                               : "threads " + std::to_string(first) + "-" + std::to_string(last - 1);
      all += " " + where;
      if (all.size() > 800) {
        all += "; ...";
        break;
      }
    }
    report("no thread can go on: %s", all.c_str());
  }

  std::string whereabouts(int i) const {
    const Thread& thread = threads_[i];
    if (thread.ended) return "ended";
    return std::string("in ") + name(thread.operation) + " (" + thread.place.file + ":" +
           std::to_string(thread.place.line) + ")";
  }
};

inline Block block;

}  // namespace geotdm::emulation
