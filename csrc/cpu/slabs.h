// Numbers along an axis in slabs of one width. Only slabs with numbers in them are counted, so neither gaps nor a
// number far out make more of them.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

namespace geotdm {

template <typename S>
class Slabs {
 public:
  // The slab of each number, in their order; returns how many there are, at most `most`, 2^30 or fewer. Numbers in
  // slabs that differ by two or more are farther apart than `width`. Those that are not finite may be in any slab.
  int64_t divide(const S* at, int64_t n, S width, int64_t most, int32_t* slab) {
    double low = INFINITY, high = -INFINITY;
    for (int64_t i = 0; i < n; ++i)
      if (std::isfinite(at[i])) low = std::min<double>(low, at[i]), high = std::max<double>(high, at[i]);
    if (!(low < high)) {
      std::fill(slab, slab + n, 0);
      return 1;
    }
    // A little wider, so that no rounding of what follows matters.
    const double per_slab = 1 / (width * (1 + 1e-5)), length = (high - low) * per_slab;
    if (!(length < double(most))) return divide_sorted(at, n, width, slab);
    number_.assign(static_cast<int64_t>(length) + 2, 0);
    for (int64_t i = 0; i < n; ++i) {
      slab[i] = std::isfinite(at[i]) ? static_cast<int32_t>((at[i] - low) * per_slab) : 0;
      number_[slab[i]] = 1;
    }
    int32_t count = 0;
    for (int32_t& number : number_) {
      const int32_t has_points = number;
      number = count;
      count += has_points;
    }
    for (int64_t i = 0; i < n; ++i) slab[i] = number_[slab[i]];
    return count;
  }

 private:
  // The same of numbers over a length of many more slabs than numbers: one begins at a number, the next at the first
  // one out of its reach.
  int64_t divide_sorted(const S* at, int64_t n, S width, int32_t* slab) {
    sorted_.clear();
    std::copy_if(at, at + n, std::back_inserter(sorted_), [](S value) { return std::isfinite(value); });
    std::sort(sorted_.begin(), sorted_.end());
    size_t count = 1;
    for (const S value : sorted_)
      if (value - sorted_[count - 1] > width) sorted_[count++] = value;
    for (int64_t i = 0; i < n; ++i) {
      const auto after = std::upper_bound(sorted_.begin(), sorted_.begin() + count, at[i]);
      slab[i] = std::isfinite(at[i]) ? static_cast<int32_t>(after - sorted_.begin()) - 1 : 0;
    }
    return static_cast<int64_t>(count);
  }

  std::vector<int32_t> number_;
  std::vector<S> sorted_;
};

}  // namespace geotdm
