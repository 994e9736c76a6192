// The neighbour search in a periodic box: which images are within the cutoff of each node.
//
// geotdm_fast/reference/cell_search.py says which pairs are near, in float64. Here squares in float32 decide for all
// pairs but those within their rounding of the cutoff, which are computed as it is said there: this file is compiled
// without fused multiply-adds. Where float32 is too coarse, float64 takes its place.
#pragma once

#include <cstdint>
#include <limits>
#include <vector>

#include "periodic_candidates.h"
#include "periodic_grid.h"
#include "periodic_group.h"
#include "radius_search.h"

namespace geotdm::periodic {

// What one thread needs to search in numbers of S.
template <typename S>
class Searcher {
 public:
  explicit Searcher(const Search& search) : search_(search), find_(radius_search().maybe(S{})) {}

  static bool is_fine_enough(const Group& group, double cutoff) {
    constexpr double kSquaresFit = 1e15;
    return coarseness(group, cutoff) < 0.01 * cutoff && group.extent() < kSquaresFit && cutoff > 1 / kSquaresFit;
  }

  // Finds the senders of every receiver in blocks first .. last - 1.
  template <typename Found>
  void run(const Group& group, const Grid& grid, int64_t first, int64_t last, Found& found) {
    constexpr S kMore = 1 + 8 * std::numeric_limits<S>::epsilon();
    const double off = coarseness(group, search_.cutoff), near = search_.cutoff - off, far = search_.cutoff + off;
    lower_ = near > 0 ? static_cast<S>(near * near) / kMore : S(-1);
    upper_ = static_cast<S>(far * far) * kMore;
    candidates_.start(group, grid);
    for (int64_t block = first; block < last; ++block) {
      if (!grid.receivers_of(block)) continue;
      candidates_.choose(block);
      for (int64_t i = 0; i < candidates_.num_receivers(); ++i) receive(group, candidates_.receiver(i), found);
    }
  }

 private:
  // Differences of rounded points are off by as much at most, and their squares by a few more roundings.
  static double coarseness(const Group& group, double cutoff) {
    constexpr double kUnit = std::numeric_limits<S>::epsilon() / 2;
    return 16 * kUnit * (group.extent() + cutoff);
  }

  template <typename Found>
  void receive(const Group& group, int64_t place, Found& found) {
    const int64_t padded = candidates_.padded();
    S* all = candidates_.at();
    const S at[3] = {all[place], all[padded + place], all[2 * padded + place]};
    if (!search_.loop) all[place] = std::numeric_limits<S>::quiet_NaN();
    int32_t* sender = found.room(padded);
    Image* image = found.images();
    const Sends own = candidates_.sends()[place];  // whose image is 0
    const Image away = minus(0, own.image);
    bool doubtful = false;
    int64_t degree =
        find_(at, all, padded, padded, lower_, upper_, candidates_.sends(), away, sender, image, &doubtful);
    if (doubtful) degree = near_indeed(group, at, place, away, sender, image);
    all[place] = at[0];
    found.keep(own.row, degree);
  }

  // Those candidates that are near as it is defined.
  int64_t near_indeed(const Group& group, const S* at, int64_t place, Image away, int32_t* sender, Image* image) {
    const int64_t padded = candidates_.padded();
    for (auto c = static_cast<int32_t>(place_.size()); c < padded; ++c) place_.push_back({c, 0});
    bool doubtful;
    const int64_t count =
        find_(at, candidates_.at(), padded, padded, lower_, upper_, place_.data(), 0, sender, image, &doubtful);
    const Vector& here = group.nodes()[candidates_.node_of(place)].at;
    const double limit = search_.cutoff * search_.cutoff;
    int64_t degree = 0;
    for (int64_t e = 0; e < count; ++e) {
      const int32_t candidate = sender[e];
      const auto [a, b, c] = candidates_.image_of(candidate);
      const Vector shift = group.shift_of(a, b, c), &other = group.nodes()[candidates_.node_of(candidate)].at;
      Vector d;
      for (int k = 0; k < 3; ++k) d[k] = (here[k] - other[k]) - shift[k];
      if (!(d[0] * d[0] + d[1] * d[1] + d[2] * d[2] <= limit)) continue;
      const Sends sends = candidates_.sends()[candidate];
      sender[degree] = sends.row;
      image[degree++] = plus(sends.image, away);
    }
    return degree;
  }

  const Search& search_;
  const FindMaybe<S> find_;
  S lower_ = 0, upper_ = 0;
  Candidates<S> candidates_;
  std::vector<Sends> place_;  // each candidate's own place as if it were a row
};

}  // namespace geotdm::periodic
