// Points of one group in cells, so that two within reach of one another are in the same cell or in two that touch.
//
// Along each axis points get the number of their slab; where cells would be many more than points, neighbouring slabs
// are taken together.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <vector>

#include "slabs.h"

namespace geotdm {

// Numbers below a bound, taken out in ascending order: a bit for each, and one for each 64 of those.
class AscendingSet {
 public:
  void reset(int64_t bound) {
    bits_.assign((bound >> 6) + 1, 0);
    words_.assign((bound >> 12) + 1, 0);
  }
  void insert(int32_t i) {
    bits_[i >> 6] |= uint64_t{1} << (i & 63);
    words_[i >> 12] |= uint64_t{1} << (i >> 6 & 63);
  }
  // Writes all of them, leaves none, returns how many there were.
  int64_t take(int32_t* out) {
    int64_t count = 0;
    for (size_t top = 0; top < words_.size(); ++top) {
      for (uint64_t words = words_[top]; words; words &= words - 1) {
        const int64_t word = (top << 6) + __builtin_ctzll(words);
        for (uint64_t bits = bits_[word]; bits; bits &= bits - 1)
          out[count++] = static_cast<int32_t>((word << 6) + __builtin_ctzll(bits));
        bits_[word] = 0;
      }
      words_[top] = 0;
    }
    return count;
  }

 private:
  std::vector<uint64_t> bits_, words_;
};

template <typename S>
class Cells {
 public:
  // points: [dim] rows of n; the first three are divided. reach: two points farther apart along an axis, as S rounds
  // the difference, need not be looked at together. A point with a coordinate that is not finite may be in any cell.
  void build(const S* points, int64_t dim, int64_t n, S reach) {
    num_points_ = n;
    size_ = {1, 1, 1};
    if (n < kWorthwhile) {
      members_.resize(n);
      for (int64_t i = 0; i < n; ++i) members_[i] = static_cast<int32_t>(i);
      first_ = {0, static_cast<int32_t>(n)};
      return;
    }
    const int64_t axes = std::min<int64_t>(dim, 3);
    for (int64_t a = 0; a < axes; ++a) {
      slab_[a].resize(n);
      size_[a] = slabs_.divide(points + a * n, n, reach, most(n), slab_[a].data());
    }
    std::array<int, 3> shift{};
    while (double(size_[0]) * double(size_[1]) * double(size_[2]) > double(most(n))) {
      const auto longest = std::max_element(size_.begin(), size_.end()) - size_.begin();
      size_[longest] = (size_[longest] + 1) / 2;
      ++shift[longest];
    }
    cell_.assign(n, 0);
    for (int64_t a = 0; a < axes; ++a)
      for (int64_t i = 0; i < n; ++i) cell_[i] = static_cast<int32_t>(cell_[i] * size_[a] + (slab_[a][i] >> shift[a]));
    sort_by_cell();
  }

  int64_t count() const { return static_cast<int64_t>(first_.size()) - 1; }
  // The points of a cell, ascending.
  const int32_t* begin(int64_t cell) const { return members_.data() + first_[cell]; }
  const int32_t* end(int64_t cell) const { return members_.data() + first_[cell + 1]; }

  // The points of the cell and of those that touch it, ascending: room for all points. Returns how many there are.
  int64_t around(int64_t cell, AscendingSet& set, int32_t* out) const {
    if (count() == 1) {
      std::copy(members_.begin(), members_.end(), out);
      return num_points_;
    }
    const int64_t k = cell % size_[2], j = cell / size_[2] % size_[1], i = cell / size_[2] / size_[1];
    const int64_t low = std::max<int64_t>(k - 1, 0), high = std::min(k + 2, size_[2]);
    for (int64_t a = std::max<int64_t>(i - 1, 0); a < std::min(i + 2, size_[0]); ++a)
      for (int64_t b = std::max<int64_t>(j - 1, 0); b < std::min(j + 2, size_[1]); ++b) {
        const int32_t* row = first_.data() + (a * size_[1] + b) * size_[2];
        for (int32_t p = row[low]; p < row[high]; ++p) set.insert(members_[p]);
      }
    return set.take(out);
  }

 private:
  // All pairs of fewer points cost less than cells.
  static constexpr int64_t kWorthwhile = 100;

  // Cells, and slabs before empty ones are left out.
  static int64_t most(int64_t n) { return std::min<int64_t>(2 * n, 1 << 30); }

  void sort_by_cell() {
    first_.assign(size_[0] * size_[1] * size_[2] + 2, 0);
    for (const int32_t cell : cell_) ++first_[cell + 2];
    for (size_t c = 2; c < first_.size(); ++c) first_[c] += first_[c - 1];
    members_.resize(num_points_);
    for (int64_t i = 0; i < num_points_; ++i) members_[first_[cell_[i] + 1]++] = static_cast<int32_t>(i);
    first_.pop_back();
  }

  int64_t num_points_ = 0;
  std::array<int64_t, 3> size_{};               // cells along each axis
  std::vector<int32_t> first_, members_;        // where each cell begins in the list of points
  std::array<std::vector<int32_t>, 3> slab_{};  // of each point, along each axis
  std::vector<int32_t> cell_;
  Slabs<S> slabs_;
};

}  // namespace geotdm
