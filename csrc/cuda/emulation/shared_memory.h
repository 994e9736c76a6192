// The shared memory of one block, which watches every access: bounds, alignment, bytes that nobody wrote, races, and
// copies in the background.
//
// Of every two bytes it keeps who wrote them last and who has read them since, and when. Two accesses of different
// threads, one of them a write, need a barrier in between: of the block, or within a warp sync_warp. Other operations
// of a warp order nothing in memory.
#pragma once

#include <algorithm>

#include "threads.h"

namespace geotdm::emulation {

class SharedMemory {
 public:
  // For a new block: nothing is written.
  void start(int bytes, int threads) {
    size_ = bytes;
    bytes_.assign(bytes + kMaxAccess, kPoison);
    cells_.assign((bytes + kCell - 1) / kCell, {});
    copies_.assign(threads, {});
    fences_.assign(threads, {});
  }

  template <class V>
  V load(int64_t at, Place place) {
    static_assert(sizeof(V) >= kCell, "who reads and writes is known of every two bytes");
    check_place("reads", at, sizeof(V), sizeof(V), block.self, place);
    for (int64_t i = at; i < at + int64_t(sizeof(V)); i += kCell) read_cell(i, block.self, place);
    block.counts.shared_read += sizeof(V);
    return value<V>(at);
  }

  template <class V>
  void store(int64_t at, V value, Place place) {
    static_assert(sizeof(V) >= kCell, "who reads and writes is known of every two bytes");
    check_place("writes", at, sizeof(V), sizeof(V), block.self, place);
    const uint32_t stamp = stamp_of(block.self);
    for (int64_t i = at; i < at + int64_t(sizeof(V)); i += kCell) write_cell(i, stamp, place);
    block.counts.shared_written += sizeof(V);
    std::memcpy(&bytes_[at], &value, sizeof(V));
  }

  // A row of load_matrices: `lane_thread` gave its place, reader(column) gets that column's number.
  template <class Reader>
  const unsigned char* load_row(int64_t at, int lane_thread, Place place, Reader reader) {
    check_place("reads", at, kMaxAccess, kMaxAccess, lane_thread, place);
    for (int column = 0; column < kMaxAccess / kCell; ++column) read_cell(at + column * kCell, reader(column), place);
    block.counts.shared_read += kMaxAccess;
    return &bytes_[at];
  }

  // The destination counts as not written, and nobody may touch it, until this thread has waited.
  void copy_async(int64_t at, const void* from, bool inside, Place place) {
    check_place("copies to", at, kMaxAccess, kMaxAccess, block.self, place);
    if (reinterpret_cast<uintptr_t>(from) % kMaxAccess)
      block.report("thread %d copies from %p, which is not a multiple of %d (%s:%d)", block.self, from, kMaxAccess,
                   place.file, place.line);
    const uint32_t stamp = stamp_of(block.self) | kPending;
    for (int i = 0; i < kMaxAccess; i += kCell) write_cell(at + i, stamp, place);
    Copies& mine = copies_[block.self];
    mine.pending.push_back({at, mine.groups, {}});
    if (inside) std::memcpy(mine.pending.back().value, from, kMaxAccess);
  }
  void commit_copies() { ++copies_[block.self].groups; }
  void wait_copies(int newest) {
    Copies& mine = copies_[block.self];
    std::erase_if(mine.pending, [&](const Copy& copy) {
      if (copy.group >= mine.groups - newest) return false;
      for (int i = 0; i < kMaxAccess; i += kCell) cells_[(copy.at + i) / kCell] = {stamp_of(block.self), 0, 0, 0};
      std::memcpy(&bytes_[copy.at], copy.value, kMaxAccess);
      block.counts.shared_written += kMaxAccess;
      return true;
    });
  }

  // What this thread has written so far is there for the products that others start after a barrier.
  void fence_for_products() { fences_[block.self].push_back(block.tick()); }

  // A number of a product's matrix, for a warp whose first thread is `thread`.
  uint16_t load_for_product(int64_t at, int thread, Place place) {
    check_place("multiplies by", at, kCell, kCell, thread, place);
    read_cell(at, thread, place);
    const uint32_t writer = cells_[at / kCell].writer;
    const std::vector<uint32_t>& fences = fences_[writer & kThread];
    const auto fence = std::upper_bound(fences.begin(), fences.end(), writer / kMaxThreads);
    if (fence == fences.end() || is_unordered(*fence * kMaxThreads | (writer & kThread), thread)) [[unlikely]]
      block.report(
          "thread %d multiplies by byte %lld of shared memory, which thread %u wrote, with no fence_for_products "
          "and barrier in between (%s:%d)",
          thread, static_cast<long long>(at), writer & kThread, place.file, place.line);
    return value<uint16_t>(at);
  }

  // At the end of a thread.
  void check_copies() const {
    const Copies& mine = copies_[block.self];
    if (!mine.pending.empty())
      block.report("thread %d ends and has not waited for %zu of its copies, the first to byte %lld", block.self,
                   mine.pending.size(), static_cast<long long>(mine.pending[0].at));
  }

 private:
  static constexpr int kCell = 2, kMaxAccess = 16;

  // A stamp is a thread (10 bits) and a time from 1 on (21 bits); 0 is nobody.
  static constexpr uint32_t kPending = 1u << 31, kThread = kMaxThreads - 1;
  static uint32_t stamp_of(int thread) { return block.time() * kMaxThreads | thread; }
  static bool is_unordered(uint32_t stamp, int thread) {
    const int other = stamp & kThread;
    const uint32_t time = (stamp & ~kPending) / kMaxThreads;
    if (time < block.block_since() || other == thread) return false;
    return other / kWarp != thread / kWarp || time >= block.warp_since(thread);
  }

  struct Cell {
    uint32_t writer;
    // Who read it last since; the last before that of another warp; the last of the same warp but another thread. Of
    // earlier readers every one is ordered before a write that these three are ordered before.
    uint32_t reader, reader_elsewhere, reader_beside;
  };
  struct Copy {
    int64_t at;
    int group;
    unsigned char value[kMaxAccess];
  };
  struct Copies {
    int groups = 0;
    std::vector<Copy> pending;
  };

  int size_ = 0;
  std::vector<unsigned char> bytes_;
  std::vector<Cell> cells_;
  std::vector<Copies> copies_;
  std::vector<std::vector<uint32_t>> fences_;  // of each thread, when

  template <class V>
  V value(int64_t at) const {
    V result;
    std::memcpy(&result, &bytes_[at], sizeof(V));
    return result;
  }

  void check_place(const char* does, int64_t at, int bytes, int alignment, int thread, Place place) const {
    if (at < 0 || at + bytes > size_) [[unlikely]]
      block.report("thread %d %s bytes %lld to %lld of %d bytes of shared memory (%s:%d)", thread, does,
                   static_cast<long long>(at), static_cast<long long>(at + bytes - 1), size_, place.file, place.line);
    if (at % alignment) [[unlikely]]
      block.report("thread %d %s %d bytes at %lld, which is not a multiple of %d (%s:%d)", thread, does, bytes,
                   static_cast<long long>(at), alignment, place.file, place.line);
  }

  void read_cell(int64_t at, int thread, Place place) {
    Cell& cell = cells_[at / kCell];
    if (!cell.writer) [[unlikely]]
      block.report("thread %d reads byte %lld of shared memory, which nobody wrote (%s:%d)", thread,
                   static_cast<long long>(at), place.file, place.line);
    if (cell.writer & kPending) [[unlikely]]
      report_pending("reads", at, thread, place);
    if (is_unordered(cell.writer, thread)) [[unlikely]]
      report_race("reads", at, thread, "wrote", cell.writer, place);
    const uint32_t stamp = stamp_of(thread);
    if (cell.reader == stamp) return;
    const uint32_t differs = (cell.reader ^ stamp) & kThread;
    if (cell.reader && differs) {
      const bool elsewhere = differs >= kWarp;
      cell.reader_beside = elsewhere ? 0 : cell.reader;
      if (elsewhere) cell.reader_elsewhere = cell.reader;
    }
    cell.reader = stamp;
  }

  void write_cell(int64_t at, uint32_t stamp, Place place) {
    Cell& cell = cells_[at / kCell];
    const int thread = stamp & kThread;
    if (cell.writer & kPending) [[unlikely]]
      report_pending("writes", at, thread, place);
    if (is_unordered(cell.writer, thread)) [[unlikely]]
      report_race("writes", at, thread, "wrote", cell.writer, place);
    for (uint32_t reader : {cell.reader, cell.reader_elsewhere, cell.reader_beside})
      if (is_unordered(reader, thread)) [[unlikely]]
        report_race("writes", at, thread, "read", reader, place);
    cell = {stamp, 0, 0, 0};
  }

  [[noreturn]] void report_race(const char* does, int64_t at, int thread, const char* did, uint32_t stamp,
                                Place place) const {
    block.report("thread %d %s byte %lld of shared memory, which thread %u %s, with no barrier in between (%s:%d)",
                 thread, does, static_cast<long long>(at), stamp & kThread, did, place.file, place.line);
  }
  [[noreturn]] void report_pending(const char* does, int64_t at, int thread, Place place) const {
    block.report("thread %d %s byte %lld of shared memory, where a copy of thread %u is under way (%s:%d)", thread,
                 does, static_cast<long long>(at), cells_[at / kCell].writer & kThread, place.file, place.line);
  }
};

inline SharedMemory shared;

}  // namespace geotdm::emulation
