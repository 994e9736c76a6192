// One graph in one frame in its periodic box: where its nodes are, once they are moved into it.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "radius_found.h"
#include "radius_inputs.h"

namespace geotdm::periodic {

using Vector = std::array<double, 3>;

struct Boxes {
  const double *vectors, *inverse;
  const bool* periodic;
  int64_t count, num_frames;
  std::array<int64_t, 3> images;
  int64_t most_away;

  const double* matrix(const double* of, int64_t graph, int64_t frame) const {
    const int64_t box = count == 1 ? 0 : graph, t = num_frames == 1 ? 0 : frame;
    return of + 9 * (box * num_frames + t);
  }
};

struct Search {
  const double* x;
  int64_t num_frames, node_stride, frame_stride, axis_stride;
  const int64_t* graph_of_node;  // nullptr: one graph
  Boxes boxes;
  double cutoff;
  bool loop;
};

// Of a number that need not be whole, or finite; the compiler calls a library for it, which takes longer.
inline double floor_of(double value) {
  if (!(std::abs(value) < 1e9)) return std::floor(value);
  const auto whole = static_cast<double>(static_cast<int32_t>(value));
  return whole > value ? whole - 1 : whole;
}

// Byte by byte.
inline Image minus(Image a, Image b) { return plus(plus(a, ~b), 0x01010101); }

class Group {
 public:
  struct Node {
    Vector at;
    int32_t row;
    Image image;  // of the box that it came from, as an edge of a sender counts it
  };

  void load(const Search& search, const Graphs& graphs, int64_t graph, int64_t frame) {
    const int64_t* node = graphs.node.data() + graphs.first[graph];
    const int64_t number = search.graph_of_node ? search.graph_of_node[*node] : 0, size = graphs.size(graph);
    const double* inverse = search.boxes.matrix(search.boxes.inverse, number, frame);
    vectors_ = search.boxes.matrix(search.boxes.vectors, number, frame);
    const bool* periodic = search.boxes.periodic + 3 * (search.boxes.count == 1 ? 0 : number);
    nodes_.clear(), lost_.clear();
    for (auto& axis : fraction_) axis.resize(size);
    Vector most_terms{};
    for (int64_t i = 0; i < size; ++i) {
      const double* from = search.x + node[i] * search.node_stride + frame * search.frame_stride;
      const Vector x = {from[0], from[search.axis_stride], from[2 * search.axis_stride]};
      const auto row = static_cast<int32_t>(node[i] * search.num_frames + frame);
      const size_t place = nodes_.size();
      Vector away{}, terms{};
      bool usable = std::isfinite(x[0]) && std::isfinite(x[1]) && std::isfinite(x[2]);
      for (int k = 0; usable && k < 3; ++k) {
        const Vector term = {x[0] * inverse[k], x[1] * inverse[3 + k], x[2] * inverse[6 + k]};
        const double s = term[0] + term[1] + term[2];
        if (periodic[k]) {
          away[k] = floor_of(s);
          usable = std::abs(away[k]) <= double(search.boxes.most_away);
        }
        terms[k] = std::abs(term[0]) + std::abs(term[1]) + std::abs(term[2]);
        fraction_[k][place] = std::isfinite(terms[k]) ? s - away[k] : 0;
      }
      if (!usable) {
        lost_.push_back(row);
        continue;
      }
      // Of those that are lost they may be so large that everything would be near to everything.
      for (int k = 0; k < 3; ++k) most_terms[k] = std::max(most_terms[k], terms[k]);
      Vector moved;
      for (int d = 0; d < 3; ++d)
        moved[d] = x[d] - (away[0] * vectors_[d] + away[1] * vectors_[3 + d] + away[2] * vectors_[6 + d]);
      nodes_.push_back({moved, row, packed_image(-int(away[0]), -int(away[1]), -int(away[2]))});
    }
    for (int k = 0; k < 3; ++k) {
      // Far wider than what is rounded: a candidate too many costs little.
      const double margin = 1e-6 + 1e-15 * most_terms[k];
      const double column = inverse[k] * inverse[k] + inverse[3 + k] * inverse[3 + k] + inverse[6 + k] * inverse[6 + k];
      reach_[k] = search.cutoff * std::sqrt(column) + margin;
      most_[k] = periodic[k] ? static_cast<int>(search.boxes.images[k]) : 0;
    }
    extent_ = 0;
    for (const Node& own : nodes_)
      for (const double coordinate : own.at) extent_ = std::max(extent_, std::abs(coordinate));
    for (int k = 0; k < 3; ++k) {
      const double* v = vectors_ + 3 * k;
      extent_ += most_[k] * std::max({std::abs(v[0]), std::abs(v[1]), std::abs(v[2])});
    }
  }

  // Those that are somewhere, ascending, and the rows of the others.
  const std::vector<Node>& nodes() const { return nodes_; }
  const std::vector<int32_t>& lost() const { return lost_; }
  int64_t size() const { return static_cast<int64_t>(nodes_.size()); }
  // How far along vector k each node is, in boxes: 0 to 1 where that direction is periodic, any number where not.
  const double* fraction(int k) const { return fraction_[k].data(); }
  // Two positions whose fractions differ by more are not near.
  double reach(int k) const { return reach_[k]; }
  // Images are looked at from -most(k) to most(k).
  int most(int k) const { return most_[k]; }
  const double* vector(int k) const { return vectors_ + 3 * k; }
  // No coordinate of an image is larger: it tells how coarse numbers are here.
  double extent() const { return extent_; }

  Vector shift_of(int a, int b, int c) const {
    Vector shift;
    for (int d = 0; d < 3; ++d) shift[d] = a * vectors_[d] + b * vectors_[3 + d] + c * vectors_[6 + d];
    return shift;
  }

 private:
  const double* vectors_ = nullptr;
  std::vector<Node> nodes_;
  std::vector<int32_t> lost_;
  std::array<std::vector<double>, 3> fraction_;
  Vector reach_{};
  std::array<int, 3> most_{};
  double extent_ = 0;
};

}  // namespace geotdm::periodic
