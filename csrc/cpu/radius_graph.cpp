// The neighbour search on the CPU: every graph in every frame is a group of points, searched cell by cell.
#include <limits>
#include <tuple>
#include <vector>

#include "cells.h"
#include "radius_found.h"
#include "radius_inputs.h"
#include "radius_search.h"
#include "tensors.h"

namespace geotdm {

namespace {

template <typename S>
struct Search {
  const S* x;
  int64_t num_frames, dim, node_stride, frame_stride, axis_stride;
  S limit, reach;
  bool loop;
  FindNear<S> find_near;

  Search(const Tensor& positions, double cutoff, bool with_loops)
      : x(data<S>(positions)),
        num_frames(positions.size(1)),
        dim(positions.size(2)),
        node_stride(positions.stride(0)),
        frame_stride(positions.stride(1)),
        axis_stride(positions.stride(2)),
        limit(static_cast<S>(cutoff) * static_cast<S>(cutoff)),
        // its square is above the limit, however it is rounded
        reach(static_cast<S>(cutoff) * (1 + 8 * std::numeric_limits<S>::epsilon())),
        loop(with_loops),
        find_near(radius_search().find(S{})) {}
};

// One graph in one frame.
template <typename S>
class Group {
 public:
  void load(const Search<S>& search, const Graphs& graphs, int64_t graph, int64_t frame) {
    size_ = graphs.size(graph);
    points_.resize(search.dim * size_);
    row_.resize(size_);
    const int64_t* node = graphs.node.data() + graphs.first[graph];
    for (int64_t i = 0; i < size_; ++i) {
      const S* from = search.x + node[i] * search.node_stride + frame * search.frame_stride;
      for (int64_t d = 0; d < search.dim; ++d) points_[d * size_ + i] = from[d * search.axis_stride];
      row_[i] = static_cast<int32_t>(node[i] * search.num_frames + frame);
    }
    cells_.build(points_.data(), search.dim, size_, search.reach);
  }

  int64_t size() const { return size_; }
  int64_t num_cells() const { return cells_.count(); }

 private:
  template <typename>
  friend class Searcher;

  int64_t size_ = 0;
  std::vector<S> points_;  // [dim] rows of size_
  std::vector<int32_t> row_;
  Cells<S> cells_;
};

// What one thread needs to search.
template <typename S>
class Searcher {
 public:
  explicit Searcher(const Search<S>& search) : search_(search), at_(search.dim) {}

  // Finds the senders of every receiver in cells first .. last - 1. They are written where found.room(most) points to,
  // room for `most` of them; found.keep(row, degree) ends each receiver.
  template <typename Found>
  void run(const Group<S>& group, int64_t first, int64_t last, Found& found) {
    const int64_t dim = search_.dim, stride = round_up(group.size_, kMostLanes);
    around_.resize(group.size_);
    row_.resize(stride);
    candidates_.resize(dim * stride);
    if (group.num_cells() > 1) set_.reset(group.size_);
    for (int64_t cell = first; cell < last; ++cell) {
      const int32_t *begin = group.cells_.begin(cell), *end = group.cells_.end(cell);
      if (begin == end) continue;
      const int64_t count = group.cells_.around(cell, set_, around_.data()), padded = round_up(count, kMostLanes);
      gather(group, count, padded, stride);
      int64_t place = 0;
      for (const int32_t* member = begin; member < end; ++member) {
        while (around_[place] != *member) ++place;
        for (int64_t d = 0; d < dim; ++d) at_[d] = candidates_[d * stride + place];
        if (!search_.loop) candidates_[place] = std::numeric_limits<S>::quiet_NaN();
        const int64_t degree = search_.find_near(dim, at_.data(), candidates_.data(), stride, padded, search_.limit,
                                                 row_.data(), found.room(padded));
        candidates_[place] = at_[0];
        found.keep(row_[place], degree);
      }
    }
  }

 private:
  void gather(const Group<S>& group, int64_t count, int64_t padded, int64_t stride) {
    for (int64_t d = 0; d < search_.dim; ++d) {
      const S* from = group.points_.data() + d * group.size_;
      S* to = candidates_.data() + d * stride;
      for (int64_t c = 0; c < count; ++c) to[c] = from[around_[c]];
      std::fill(to + count, to + padded, std::numeric_limits<S>::quiet_NaN());
    }
    for (int64_t c = 0; c < count; ++c) row_[c] = group.row_[around_[c]];
  }

  const Search<S>& search_;
  AscendingSet set_;
  std::vector<S> at_, candidates_;
  std::vector<int32_t> around_, row_;
};

// Searches every group. make_found(): what takes the senders in one thread; is asked for often.
template <typename S, typename MakeFound>
void search_groups(const Search<S>& search, const Graphs& graphs, const MakeFound& make_found) {
  constexpr int64_t kLarge = 2048;  // nodes of a graph that all threads search together
  std::vector<int64_t> small;
  for (int64_t graph = 0; graph < graphs.count(); ++graph) {
    if (graphs.size(graph) < kLarge) {
      small.push_back(graph);
      continue;
    }
    Group<S> group;
    for (int64_t frame = 0; frame < search.num_frames; ++frame) {
      group.load(search, graphs, graph, frame);
      parallel(group.num_cells(), 0, [&](int64_t first, int64_t last, float*) {
        Searcher<S> searcher(search);
        auto found = make_found();
        searcher.run(group, first, last, found);
      });
    }
  }
  parallel(static_cast<int64_t>(small.size()) * search.num_frames, 0, [&](int64_t first, int64_t last, float*) {
    Group<S> group;
    Searcher<S> searcher(search);
    auto found = make_found();
    for (int64_t g = first; g < last; ++g) {
      group.load(search, graphs, small[g / search.num_frames], g % search.num_frames);
      searcher.run(group, 0, group.num_cells(), found);
    }
  });
}

template <typename MakeFound>
void search_all(const Tensor& x, const std::optional<Tensor>& batch, double cutoff, bool loop,
                const MakeFound& make_found) {
  const Graphs graphs(batch, x.size(0));
  if (has_dtype(x, ScalarType::Double))
    search_groups(Search<double>(x, cutoff, loop), graphs, make_found);
  else
    search_groups(Search<float>(x, cutoff, loop), graphs, make_found);
}

// edge_index [2, E], and the degree of each receiver.
std::tuple<Tensor, Tensor> radius_graph(const Tensor& x, const std::optional<Tensor>& batch, double cutoff, bool loop) {
  check_search_inputs("radius_graph", x, batch);
  const int64_t num_rows = x.size(0) * x.size(1);
  auto degree = empty({num_rows}, ScalarType::Int);
  Edges edges(mutable_data<int32_t>(degree));
  search_all(x, batch, cutoff, loop, [&] { return Edges::Found(edges); });
  return {edges.edge_index(num_rows), degree};
}

// sender [N T, capacity], and how many there are of each receiver, more than that or not.
std::tuple<Tensor, Tensor> radius_neighbours(const Tensor& x, const std::optional<Tensor>& batch, double cutoff,
                                             int64_t capacity, bool loop) {
  check_search_inputs("radius_neighbours", x, batch);
  check(capacity >= 0, "radius_neighbours", "capacity must not be negative, got ", capacity);
  const int64_t num_rows = x.size(0) * x.size(1);
  auto sender = empty({num_rows, capacity}, ScalarType::Int), degree = empty({num_rows}, ScalarType::Int);
  int32_t *to = mutable_data<int32_t>(sender), *number = mutable_data<int32_t>(degree);
  search_all(x, batch, cutoff, loop, [&] { return Table(to, number, capacity); });
  return {sender, degree};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(geotdm_fast, CPU, m) {
  m.impl("radius_graph", TORCH_BOX(&radius_graph));
  m.impl("radius_neighbours", TORCH_BOX(&radius_neighbours));
}

}  // namespace geotdm
