// A periodic box in blocks: receivers of one block have the same candidates, images whose fractions are within reach of
// the block's along every vector.
#pragma once

#include <array>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "periodic_group.h"
#include "slabs.h"

namespace geotdm::periodic {

// The candidates along one vector: `low` <= fraction + image <= `high`, images from `first` to `last` alone, each of
// them that of some node.
struct Window {
  double low, high;
  int first, last;
};

class Grid {
 public:
  void build(const Group& group) {
    const int64_t n = group.size();
    std::array<int64_t, 3> count{};
    for (int k = 0; k < 3; ++k) count[k] = divide(group, k);
    const int64_t together = n < kFew ? n : slabs_together(group, count);
    block_.assign(n, 0);
    for (int k = 0; k < 3; ++k) {
      size_[k] = n == 0 ? 0 : (count[k] + together - 1) / together;
      for (int64_t i = 0; i < n; ++i) {
        slab_[k][i] = static_cast<int32_t>(slab_[k][i] / together);
        block_[i] = static_cast<int32_t>(block_[i] * size_[k] + slab_[k][i]);
      }
      set_windows(group, k);
    }
    receivers_.assign(count_blocks(), 0);
    for (const int32_t block : block_) ++receivers_[block];
  }

  int64_t size(int k) const { return size_[k]; }
  // Block (a, b, c) is (a size(1) + b) size(2) + c.
  int64_t count_blocks() const { return size_[0] * size_[1] * size_[2]; }
  const Window& window(int k, int64_t slab) const { return window_[k][slab]; }
  int32_t block_of(int64_t node) const { return block_[node]; }
  int64_t receivers_of(int64_t block) const { return receivers_[block]; }

 private:
  // Fewer nodes are one block.
  static constexpr int64_t kFew = 32;
  // A slab is as many times the reach wide, or some of them together are: the least costs are about there.
  static constexpr double kWidth = 1.2;

  int64_t divide(const Group& group, int k) {
    const int64_t n = group.size();
    slab_[k].resize(n);
    if (n < kFew) {
      std::fill(slab_[k].begin(), slab_[k].end(), 0);
      return 1;
    }
    const double* at = group.fraction(k);
    const auto [low, high] = std::minmax_element(at, at + n);
    const double widths = (*high - *low) / (kWidth * group.reach(k));
    // as wide as each other, where they are not many
    const double width =
        widths < double(n) ? (*high - *low) / std::max(1.0, std::round(widths)) : kWidth * group.reach(k);
    return slabs_.divide(at, n, width, 2 * n, slab_[k].data());
  }

  // How many neighbouring slabs are taken together. By rough costs of a receiver in clock cycles: its share of what a
  // block costs, and looking at each candidate.
  int64_t slabs_together(const Group& group, const std::array<int64_t, 3>& count) const {
    constexpr double kBlock = 100, kLookedThrough = 3, kCandidate = 8, kCompared = 0.8;
    double least = std::numeric_limits<double>::infinity();
    int64_t best = 1;
    const int64_t longest = *std::max_element(count.begin(), count.end());
    for (int64_t together = 1;; together = std::max(together + 1, together * 3 / 2)) {
      double blocks = 1, candidates = double(group.size()), looked_through = 1;
      for (int k = 0; k < 3; ++k) {
        const double size = std::ceil(double(count[k]) / double(together));
        const double share = 1 / size + 2 / (kWidth * double(count[k]));  // of the nodes, each image counted
        blocks *= size;
        if (k == 2) looked_through = candidates;
        candidates *= group.most(k) ? share : std::min(share, 1.0);
      }
      const double of_block = kBlock + kLookedThrough * looked_through + kCandidate * candidates;
      const double cost = of_block * blocks / double(group.size()) + kCompared * candidates;
      if (cost < least) least = cost, best = together;
      if (together >= longest) return best;
    }
  }

  void set_windows(const Group& group, int k) {
    const double* at = group.fraction(k);
    window_[k].assign(size_[k], {INFINITY, -INFINITY, 0, 0});
    double low = INFINITY, high = -INFINITY;
    for (int64_t i = 0; i < group.size(); ++i) {
      Window& window = window_[k][slab_[k][i]];
      window.low = std::min(window.low, at[i]), window.high = std::max(window.high, at[i]);
      low = std::min(low, at[i]), high = std::max(high, at[i]);
    }
    const int most = group.most(k);
    for (Window& window : window_[k]) {
      window.low -= group.reach(k), window.high += group.reach(k);
      if (!most) continue;
      const double first = -floor_of(high - window.low), last = floor_of(window.high - low);
      window.first = first < -most ? -most : static_cast<int>(first);
      window.last = last > most ? most : static_cast<int>(last);
    }
  }

  std::array<int64_t, 3> size_{};
  std::array<std::vector<int32_t>, 3> slab_;  // of each node
  std::array<std::vector<Window>, 3> window_;
  std::vector<int32_t> block_, receivers_;
  Slabs<double> slabs_;
};

}  // namespace geotdm::periodic
