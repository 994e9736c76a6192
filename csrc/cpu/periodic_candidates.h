// The images that a block of a periodic grid may be near to, as its receivers are compared with them: in the order of
// nodes, then of images, so that what is found is sorted.
//
// They are chosen along one vector after the other: along the first from all nodes, for blocks that share its slab;
// along the second from what is left, for blocks in a row; along the third for each block.
#pragma once

#include <array>
#include <cstdint>
#include <limits>
#include <vector>

#include "periodic_grid.h"
#include "periodic_group.h"
#include "radius_search.h"
#include "tensors.h"

namespace geotdm::periodic {

template <typename S>
class Candidates {
 public:
  // The group and its grid are those of all calls until the next one.
  void start(const Group& group, const Grid& grid) {
    group_ = &group, grid_ = &grid;
    slab_ = row_ = -1;
  }

  // Chooses those of a block.
  void choose(int64_t block) {
    const int64_t row = block / grid_->size(2), slab = row / grid_->size(1);
    if (slab != slab_) choose_first(slab_ = slab);
    if (row != row_) choose_second(row_ = row);
    choose_third(block);
  }

  // count() numbers and NaN up to padded() in each of three rows, padded() apart.
  int64_t count() const { return count_; }
  int64_t padded() const { return padded_; }
  S* at() { return at_.data(); }
  const Sends* sends() const { return sends_.data(); }
  // The block's own nodes among them.
  int64_t num_receivers() const { return num_receivers_; }
  int32_t receiver(int64_t i) const { return receiver_[i]; }

  // The node of a candidate, and which image of it.
  int64_t node_of(int64_t candidate) const { return origin_[third_[candidate].from].node; }
  std::array<int, 3> image_of(int64_t candidate) const {
    const Origin& origin = origin_[third_[candidate].from];
    return {origin.image_0, origin.image_1, third_[candidate].image};
  }

 private:
  // An image along one vector of what was chosen before.
  struct Pick {
    int32_t from, image;
  };
  struct Point {
    S at[3];
    int32_t block;  // -1: of another box along the first two vectors
    Sends sends;
  };
  struct Origin {
    int32_t node;
    int image_0, image_1;
  };
  // What an image adds.
  struct Shift {
    S by[3];
    Image image;
  };

  template <typename T>
  static void make_room(std::vector<T>& of, int64_t size) {
    if (static_cast<int64_t>(of.size()) < size) of.resize(size);
  }

  // Images in the window of numbers fraction(0), ..., fraction(count - 1), in their order; returns how many there are.
  // All from the window's first to its last image are written, and what does not belong is overwritten: a branch would
  // cost more. As numbers that can have images are less than 1 apart, at most one at each end does not belong.
  template <typename Fraction>
  static int64_t pick(int64_t count, const Fraction& fraction, const Window& window, std::vector<Pick>& picks) {
    const int first = window.first, last = window.last, most = last - first + 1;
    make_room(picks, count * most + most);
    Pick* to = picks.data();
    for (int64_t e = 0; e < count; ++e) {
      const double at = fraction(e);
      const int before = (at + first < window.low), behind = (at + last > window.high);
      for (int j = 0; j < most; ++j) to[j] = {static_cast<int32_t>(e), first + before + j};
      to += most - before - behind;
    }
    return to - picks.data();
  }

  // Of the images of two windows, those of the second one together.
  template <typename By, typename Name>
  void set_shifts(const Window& first, const Window& second, const By& by, const Name& name) {
    shifts_.clear();
    for (int a = first.first; a <= first.last; ++a)
      for (int b = second.first; b <= second.last; ++b) {
        const Vector shift = by(a, b);
        shifts_.push_back({{static_cast<S>(shift[0]), static_cast<S>(shift[1]), static_cast<S>(shift[2])}, name(a, b)});
      }
  }

  void choose_first(int64_t slab) {
    const double* fraction = group_->fraction(0);
    num_first_ = pick(group_->size(), [&](int64_t i) { return fraction[i]; }, grid_->window(0, slab), first_);
    row_ = -1;
  }

  void choose_second(int64_t row) {
    const double* fraction = group_->fraction(1);
    const Window& window = grid_->window(1, row % grid_->size(1));
    num_second_ = pick(num_first_, [&](int64_t e) { return fraction[first_[e].from]; }, window, second_);
    make_room(points_, num_second_), make_room(origin_, num_second_), make_room(fraction_, num_second_);
    const double* next_fraction = group_->fraction(2);
    const Window& first = grid_->window(0, slab_);
    set_shifts(
        first, window, [&](int a, int b) { return group_->shift_of(a, b, 0); },
        [](int a, int b) { return packed_image(a, b, 0); });
    const int width = window.last - window.first + 1;
    for (int64_t e = 0; e < num_second_; ++e) {
      const Pick before = first_[second_[e].from];
      const int a = before.image, b = second_[e].image;
      const Shift& shift = shifts_[(a - first.first) * width + b - window.first];
      const Group::Node& node = group_->nodes()[before.from];
      for (int d = 0; d < 3; ++d) points_[e].at[d] = static_cast<S>(node.at[d]) + shift.by[d];
      points_[e].block = a || b ? -1 : grid_->block_of(before.from);
      points_[e].sends = {node.row, plus(node.image, shift.image)};
      origin_[e] = {before.from, a, b};
      fraction_[e] = next_fraction[before.from];
    }
  }

  void choose_third(int64_t block) {
    const Window& window = grid_->window(2, block % grid_->size(2));
    count_ = pick(num_second_, [&](int64_t e) { return fraction_[e]; }, window, third_);
    padded_ = round_up(count_, kMostLanes);
    make_room(at_, 3 * padded_), make_room(sends_, padded_), make_room(receiver_, count_ + 1);
    set_shifts(
        {0, 0, 0, 0}, window, [&](int, int c) { return group_->shift_of(0, 0, c); },
        [](int, int c) { return packed_image(0, 0, c); });
    const Shift* shifts = shifts_.data() - window.first;
    S *x = at_.data(), *y = x + padded_, *z = y + padded_;
    int32_t* receiver = receiver_.data();
    for (int64_t c = 0; c < count_; ++c) {
      const Pick chosen = third_[c];
      const Point& point = points_[chosen.from];
      const Shift& shift = shifts[chosen.image];
      x[c] = point.at[0] + shift.by[0], y[c] = point.at[1] + shift.by[1], z[c] = point.at[2] + shift.by[2];
      sends_[c] = {point.sends.row, plus(point.sends.image, shift.image)};
      *receiver = static_cast<int32_t>(c);
      receiver += int(point.block == block) & int(chosen.image == 0);
    }
    num_receivers_ = receiver - receiver_.data();
    for (S* row : {x, y, z}) std::fill(row + count_, row + padded_, std::numeric_limits<S>::quiet_NaN());
  }

  const Group* group_ = nullptr;
  const Grid* grid_ = nullptr;
  int64_t slab_ = -1, row_ = -1;
  std::vector<Pick> first_, second_, third_;
  int64_t num_first_ = 0, num_second_ = 0, count_ = 0, padded_ = 0, num_receivers_ = 0;
  std::vector<Point> points_;  // the second choice, without what the third vector adds
  std::vector<Origin> origin_;
  std::vector<double> fraction_;
  std::vector<Shift> shifts_;
  std::vector<S> at_;
  std::vector<Sends> sends_;
  std::vector<int32_t> receiver_;
};

}  // namespace geotdm::periodic
