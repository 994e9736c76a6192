// The neighbour search in periodic boxes: points are moved into their box, and their images within the cutoff of it are
// points too, ghosts, which send but do not receive.
//
// geotdm_fast/reference/cell_search.py says which pairs are near, in float64. Here squares in float32 decide for all
// pairs but those within their rounding of the cutoff, which are computed as it is said there: this file is compiled
// without fused multiply-adds. Where float32 is too coarse, float64 takes its place.
#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include <array>
#include <cmath>
#include <limits>
#include <vector>

#include "cells.h"
#include "radius_found.h"
#include "radius_inputs.h"
#include "radius_search.h"
#include "tensors.h"

namespace geotdm::periodic {

namespace {

using Vector = std::array<double, 3>;

// Byte by byte.
inline Image minus(Image a, Image b) { return plus(plus(a, ~b), 0x01010101); }

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

// One graph in one frame: its nodes in their box, and which images of them are within the cutoff of the others.
class Group {
 public:
  void load(const Search& search, const Graphs& graphs, int64_t graph, int64_t frame) {
    const int64_t* node = graphs.node.data() + graphs.first[graph];
    const int64_t number = search.graph_of_node ? search.graph_of_node[*node] : 0, size = graphs.size(graph);
    const double* inverse = search.boxes.matrix(search.boxes.inverse, number, frame);
    vectors_ = search.boxes.matrix(search.boxes.vectors, number, frame);
    const bool* periodic = search.boxes.periodic + 3 * (search.boxes.count == 1 ? 0 : number);
    nodes_.clear(), lost_.clear();
    for (int64_t i = 0; i < size; ++i) {
      const double* from = search.x + node[i] * search.node_stride + frame * search.frame_stride;
      const Vector x = {from[0], from[search.axis_stride], from[2 * search.axis_stride]};
      const auto row = static_cast<int32_t>(node[i] * search.num_frames + frame);
      Vector away{}, fraction{};
      bool usable = std::isfinite(x[0]) && std::isfinite(x[1]) && std::isfinite(x[2]);
      for (int k = 0; k < 3; ++k) {
        if (!periodic[k]) continue;
        const double s = x[0] * inverse[k] + x[1] * inverse[3 + k] + x[2] * inverse[6 + k];
        away[k] = floor_of(s);
        fraction[k] = s - away[k];
        usable = usable && std::abs(away[k]) <= double(search.boxes.most_away);
      }
      if (!usable) {
        lost_.push_back(row);
        continue;
      }
      Vector moved;
      for (int d = 0; d < 3; ++d)
        moved[d] = x[d] - (away[0] * vectors_[d] + away[1] * vectors_[3 + d] + away[2] * vectors_[6 + d]);
      nodes_.push_back({moved, fraction, row, packed_image(int(away[0]), int(away[1]), int(away[2])), {}, {}});
    }
    choose_images(search, inverse, periodic);
  }

  int64_t num_nodes() const { return static_cast<int64_t>(nodes_.size()); }
  int64_t num_points() const { return num_points_; }
  const std::vector<int32_t>& lost() const { return lost_; }
  // No coordinate of a point is larger: it tells how coarse numbers are here.
  double extent() const { return extent_; }

  Vector shift_of(int a, int b, int c) const {
    Vector shift;
    for (int d = 0; d < 3; ++d) shift[d] = a * vectors_[d] + b * vectors_[3 + d] + c * vectors_[6 + d];
    return shift;
  }

 private:
  template <typename>
  friend class Searcher;
  template <typename>
  friend class Scan;

  struct Node {
    Vector at, fraction;
    int32_t row;
    Image away;
    std::array<int, 3> from, to;  // the images along each vector that may be near to a node
  };

  void choose_images(const Search& search, const double* inverse, const bool* periodic) {
    // Far wider than what is rounded; one point too many costs little.
    constexpr double kMargin = 1e-6;
    Vector low{}, high{}, reach{};
    std::array<int, 3> most{};
    for (int k = 0; k < 3; ++k) {
      if (!periodic[k]) continue;
      low[k] = 1, high[k] = 0;
      for (const Node& node : nodes_)
        low[k] = std::min(low[k], node.fraction[k]), high[k] = std::max(high[k], node.fraction[k]);
      const double column = inverse[k] * inverse[k] + inverse[3 + k] * inverse[3 + k] + inverse[6 + k] * inverse[6 + k];
      reach[k] = search.cutoff * std::sqrt(column) + kMargin;
      most[k] = static_cast<int>(search.boxes.images[k]);
    }
    num_points_ = 0;
    extent_ = 0;
    for (Node& node : nodes_) {
      int64_t count = 1;
      for (int k = 0; k < 3; ++k) {
        if (!periodic[k]) continue;
        const double first = -floor_of(node.fraction[k] + reach[k] - low[k]);
        node.from[k] = first < -most[k] ? -most[k] : static_cast<int>(first);
        const double last = floor_of(high[k] + reach[k] - node.fraction[k]);
        node.to[k] = last > most[k] ? most[k] : static_cast<int>(last);
        count *= node.to[k] - node.from[k] + 1;
      }
      num_points_ += count;
      for (const double coordinate : node.at) extent_ = std::max(extent_, std::abs(coordinate));
    }
    for (int k = 0; k < 3; ++k)
      extent_ +=
          most[k] * std::max({std::abs(vectors_[3 * k]), std::abs(vectors_[3 * k + 1]), std::abs(vectors_[3 * k + 2])});
  }

  const double* vectors_ = nullptr;
  std::vector<Node> nodes_;    // those that are somewhere
  std::vector<int32_t> lost_;  // rows of the others
  int64_t num_points_ = 0;
  double extent_ = 0;
};

// The points of a group in numbers of S, in cells: every node followed by its images in their order, so that senders
// come out sorted.
template <typename S>
class Scan {
 public:
  // Differences of rounded points are off by as much at most, and their squares by a few more roundings.
  static double coarseness(const Group& group, double cutoff) {
    constexpr double kUnit = std::numeric_limits<S>::epsilon() / 2;
    return 8 * kUnit * group.extent() + 16 * kUnit * cutoff;
  }
  static bool is_fine_enough(const Group& group, double cutoff) {
    constexpr double kSquaresFit = 1e15;
    return coarseness(group, cutoff) < 0.01 * cutoff && group.extent() < kSquaresFit && cutoff > 1 / kSquaresFit;
  }

  void load(const Group& group, double cutoff) {
    constexpr S kMore = 1 + 8 * std::numeric_limits<S>::epsilon();
    const double off = coarseness(group, cutoff), near = cutoff - off, far = cutoff + off;
    lower_ = near > 0 ? static_cast<S>(near * near) / kMore : S(-1);
    upper_ = static_cast<S>(far * far) * kMore;
    const int64_t n = group.num_points();
    rows_.resize(3 * n), node_.resize(n), image_.resize(n), points_.resize(n);
    S* place = rows_.data();
    int64_t p = 0;
    for (int64_t i = 0; i < group.num_nodes(); ++i) {
      const Group::Node& node = group.nodes_[i];
      for (int a = node.from[0]; a <= node.to[0]; ++a)
        for (int b = node.from[1]; b <= node.to[1]; ++b) {
          const Vector row = group.shift_of(a, b, 0);
          for (int c = node.from[2]; c <= node.to[2]; ++c, ++p) {
            for (int d = 0; d < 3; ++d)
              place[d * n + p] = static_cast<S>(node.at[d] + (row[d] + c * group.vectors_[6 + d]));
            node_[p] = static_cast<int32_t>(i);
            image_[p] = packed_image(a, b, c);
            points_[p] = {{place[p], place[n + p], place[2 * n + p]}, {node.row, minus(image_[p], node.away)}};
          }
        }
    }
    cells_.build(rows_.data(), 3, n, static_cast<S>(far) * kMore, group.num_nodes());
  }
  int64_t num_cells() const { return cells_.count(); }

 private:
  template <typename>
  friend class Searcher;

  // What an edge says of its sender: the row, and the image but for the receiver's part.
  struct Sends {
    int32_t row;
    Image image;
  };
  // Together: points around a cell are anywhere in memory.
  struct Point {
    S at[3];
    Sends sends;
  };

  S lower_, upper_;
  std::vector<S> rows_;  // 3 rows of coordinates
  std::vector<Point> points_;
  std::vector<int32_t> node_;
  std::vector<Image> image_;
  Cells<S> cells_;
};

// What one thread needs to search.
template <typename S>
class Searcher {
 public:
  explicit Searcher(const Search& search) : search_(search), find_(radius_search().maybe(S{})) {}

  // Finds the senders of every receiver in cells first .. last - 1.
  template <typename Found>
  void run(const Group& group, const Scan<S>& scan, int64_t first, int64_t last, Found& found) {
    const int64_t num_points = group.num_points(), stride = round_up(num_points, kMostLanes);
    around_.resize(num_points);
    sends_.resize(num_points);
    if (static_cast<int64_t>(candidates_.size()) < 3 * stride) candidates_.resize(3 * stride);
    if (scan.num_cells() > 1) set_.reset(num_points);
    for (int64_t cell = first; cell < last; ++cell) {
      const int32_t *begin = scan.cells_.begin(cell), *end = scan.cells_.end(cell);
      while (begin < end && scan.image_[*begin]) ++begin;
      if (begin == end) continue;
      const int64_t count = scan.cells_.around(cell, set_, around_.data()), padded = round_up(count, kMostLanes);
      gather(scan, count, padded, stride);
      int64_t place = 0;
      for (const int32_t* member = begin; member < end; ++member) {
        if (scan.image_[*member]) continue;
        while (around_[place] != *member) ++place;
        receive(group, scan, place, padded, stride, found);
      }
    }
  }

 private:
  template <typename Found>
  void receive(const Group& group, const Scan<S>& scan, int64_t place, int64_t padded, int64_t stride, Found& found) {
    const S at[3] = {candidates_[place], candidates_[stride + place], candidates_[2 * stride + place]};
    if (!search_.loop) candidates_[place] = std::numeric_limits<S>::quiet_NaN();
    int32_t* sender = found.room(padded);
    bool doubtful = false;
    int64_t degree = find_(at, candidates_.data(), stride, padded, scan.lower_, scan.upper_, sender, &doubtful);
    candidates_[place] = at[0];
    if (doubtful) degree = near_indeed(group, scan, group.nodes_[scan.node_[around_[place]]], sender, degree);
    Image* image = found.images();
    const auto* from = sends_.data();
    const Image away = minus(0, from[place].image);  // its own image is 0
    for (int64_t e = 0; e < degree; ++e) {
      const auto sends = from[sender[e]];
      sender[e] = sends.row;
      image[e] = plus(sends.image, away);
    }
    found.keep(from[place].row, degree);
  }

  // Keeps the candidates that are near as it is defined.
  int64_t near_indeed(const Group& group, const Scan<S>& scan, const Group::Node& node, int32_t* candidate,
                      int64_t count) const {
    const double limit = search_.cutoff * search_.cutoff;
    int64_t degree = 0;
    for (int64_t e = 0; e < count; ++e) {
      const int32_t point = around_[candidate[e]];
      int8_t n[4];
      std::memcpy(n, &scan.image_[point], sizeof n);
      const Vector shift = group.shift_of(n[0], n[1], n[2]), &other = group.nodes_[scan.node_[point]].at;
      Vector d;
      for (int k = 0; k < 3; ++k) d[k] = (node.at[k] - other[k]) - shift[k];
      if (d[0] * d[0] + d[1] * d[1] + d[2] * d[2] <= limit) candidate[degree++] = candidate[e];
    }
    return degree;
  }

  void gather(const Scan<S>& scan, int64_t count, int64_t padded, int64_t stride) {
    S *x = candidates_.data(), *y = x + stride, *z = y + stride;
    for (int64_t c = 0; c < count; ++c) {
      const auto& point = scan.points_[around_[c]];
      x[c] = point.at[0], y[c] = point.at[1], z[c] = point.at[2];
      sends_[c] = point.sends;
    }
    for (S* row : {x, y, z}) std::fill(row + count, row + padded, std::numeric_limits<S>::quiet_NaN());
  }

  const Search& search_;
  const FindMaybe<S> find_;
  AscendingSet set_;
  std::vector<S> candidates_;
  std::vector<int32_t> around_;
  std::vector<typename Scan<S>::Sends> sends_;
};

// Searches cells of a group, in float32 where that is fine enough.
template <typename Run>
void in_numbers(const Group& group, double cutoff, const Run& run) {
  if (Scan<float>::is_fine_enough(group, cutoff))
    run(float{});
  else
    run(double{});
}

// Searches every group. make_found(): what takes the senders in one thread; is asked for often.
template <typename MakeFound>
void search_groups(const Search& search, const Graphs& graphs, const at::TensorOptions& options,
                   const MakeFound& make_found) {
  constexpr int64_t kLarge = 2048;  // nodes of a graph that all threads search together
  std::vector<int64_t> small;
  for (int64_t graph = 0; graph < graphs.count(); ++graph) {
    if (graphs.size(graph) < kLarge) {
      if (graphs.size(graph)) small.push_back(graph);
      continue;
    }
    Group group;
    for (int64_t frame = 0; frame < search.num_frames; ++frame) {
      group.load(search, graphs, graph, frame);
      auto losing = make_found();
      for (const int32_t row : group.lost()) losing.lose(row);
      in_numbers(group, search.cutoff, [&]<typename S>(S) {
        Scan<S> scan;
        scan.load(group, search.cutoff);
        parallel(scan.num_cells(), 0, options, [&](int64_t first, int64_t last, float*) {
          Searcher<S> searcher(search);
          auto found = make_found();
          searcher.run(group, scan, first, last, found);
        });
      });
    }
  }
  parallel(static_cast<int64_t>(small.size()) * search.num_frames, 0, options,
           [&](int64_t first, int64_t last, float*) {
             Group group;
             std::tuple<Scan<float>, Scan<double>> scans;
             std::tuple<Searcher<float>, Searcher<double>> searchers{search, search};
             auto found = make_found();
             for (int64_t g = first; g < last; ++g) {
               group.load(search, graphs, small[g / search.num_frames], g % search.num_frames);
               for (const int32_t row : group.lost()) found.lose(row);
               in_numbers(group, search.cutoff, [&]<typename S>(S) {
                 auto& scan = std::get<Scan<S>>(scans);
                 scan.load(group, search.cutoff);
                 std::get<Searcher<S>>(searchers).run(group, scan, 0, scan.num_cells(), found);
               });
             }
           });
}

Boxes checked_boxes(const char* op, const at::Tensor& x, const std::optional<at::Tensor>& batch,
                    const at::Tensor& vectors, const at::Tensor& inverse, const at::Tensor& pbc, at::IntArrayRef images,
                    int64_t most_away) {
  TORCH_CHECK_VALUE(x.size(2) == 3, op, ": x must be [N, T, 3] in boxes, got ", x.sizes());
  TORCH_CHECK_VALUE(vectors.dim() == 4 && vectors.size(0) > 0 && (vectors.size(1) == 1 || vectors.size(1) == x.size(1)),
                    op, ": vectors must be [G, 1 or ", x.size(1), ", 3, 3], got ", vectors.sizes());
  const int64_t count = vectors.size(0), num_frames = vectors.size(1);
  check_dense(op, "vectors", vectors, {count, num_frames, 3, 3}, at::kDouble);
  check_dense(op, "inverse", inverse, {count, num_frames, 3, 3}, at::kDouble);
  check_dense(op, "pbc", pbc, {count, 3}, at::kBool);
  constexpr int64_t kMost = 64;
  for (const int64_t number : images)
    TORCH_CHECK_VALUE(number >= 0 && number <= kMost, op, ": images must be in 0..", kMost, ", got ", images);
  const int64_t largest = *std::max_element(images.begin(), images.end());
  TORCH_CHECK_VALUE(most_away >= 0 && 2 * most_away + largest <= 127, op, ": most_boxes_away must be in 0..",
                    (127 - largest) / 2, " for images ", images, ", got ", most_away);
  if (count > 1) {
    TORCH_CHECK_VALUE(batch || x.size(0) == 0, op, ": batch must come with boxes of ", count, " graphs, got none");
    const int64_t* graph = batch ? index_data(*batch) : nullptr;
    for (int64_t i = 0; batch && i < x.size(0); ++i)
      TORCH_CHECK_VALUE(graph[i] >= 0 && graph[i] < count, op, ": batch must be in 0..", count - 1,
                        " as the boxes, got ", graph[i]);
  }
  return {vectors.const_data_ptr<double>(),
          inverse.const_data_ptr<double>(),
          pbc.const_data_ptr<bool>(),
          count,
          num_frames,
          {images[0], images[1], images[2]},
          most_away};
}

template <typename MakeFound>
void search_all(const at::Tensor& x, const std::optional<at::Tensor>& batch, const Boxes& boxes, double cutoff,
                bool loop, const MakeFound& make_found) {
  const Graphs graphs(batch, x.size(0));
  const Search search{x.const_data_ptr<double>(),           x.size(1), x.stride(0), x.stride(1), x.stride(2),
                      batch ? index_data(*batch) : nullptr, boxes,     cutoff,      loop};
  search_groups(search, graphs, x.options().dtype(at::kFloat), make_found);
}

void check_positions(const char* op, const at::Tensor& x, const std::optional<at::Tensor>& batch) {
  check_search_inputs(op, x, batch);
  check(op, "x", x, x.sizes(), at::kDouble);
}

// edge_index [2, E], image [E, 3], and the degree of each receiver, -1 where it is near to nothing.
std::tuple<at::Tensor, at::Tensor, at::Tensor> radius_graph_periodic(
    const at::Tensor& x, const std::optional<at::Tensor>& batch, const at::Tensor& vectors, const at::Tensor& inverse,
    const at::Tensor& pbc, at::IntArrayRef images, int64_t most_boxes_away, double cutoff, bool loop) {
  const at::AutoDispatchBelowADInplaceOrView no_autograd;
  const char* op = "radius_graph_periodic";
  check_positions(op, x, batch);
  const Boxes boxes = checked_boxes(op, x, batch, vectors, inverse, pbc, images, most_boxes_away);
  const int64_t num_rows = x.size(0) * x.size(1);
  auto degree = at::empty({num_rows}, x.options().dtype(at::kInt));
  Edges edges(degree.mutable_data_ptr<int32_t>(), true);
  search_all(x, batch, boxes, cutoff, loop, [&] { return Edges::Found(edges); });
  at::Tensor image;
  auto edge_index = edges.edge_index(num_rows, x.options().dtype(at::kFloat), &image);
  return {edge_index, image, degree};
}

// sender [N T, capacity], image [N T, capacity, 3], and the degree of each receiver, more than that or not, -1 where it
// is near to nothing.
std::tuple<at::Tensor, at::Tensor, at::Tensor> radius_neighbours_periodic(
    const at::Tensor& x, const std::optional<at::Tensor>& batch, const at::Tensor& vectors, const at::Tensor& inverse,
    const at::Tensor& pbc, at::IntArrayRef images, int64_t most_boxes_away, double cutoff, int64_t capacity,
    bool loop) {
  const at::AutoDispatchBelowADInplaceOrView no_autograd;
  const char* op = "radius_neighbours_periodic";
  check_positions(op, x, batch);
  TORCH_CHECK_VALUE(capacity >= 0, op, ": capacity must not be negative, got ", capacity);
  const Boxes boxes = checked_boxes(op, x, batch, vectors, inverse, pbc, images, most_boxes_away);
  const int64_t num_rows = x.size(0) * x.size(1);
  const auto options = x.options().dtype(at::kInt);
  auto sender = at::empty({num_rows, capacity}, options), degree = at::empty({num_rows}, options);
  auto image = at::empty({num_rows, capacity, 3}, options.dtype(at::kChar));
  int32_t *to = sender.mutable_data_ptr<int32_t>(), *number = degree.mutable_data_ptr<int32_t>();
  int8_t* image_to = image.mutable_data_ptr<int8_t>();
  search_all(x, batch, boxes, cutoff, loop, [&] { return Table(to, number, capacity, image_to); });
  return {sender, image, degree};
}

}  // namespace

TORCH_LIBRARY_IMPL(geotdm_fast, CPU, m) {
  m.impl("radius_graph_periodic", radius_graph_periodic);
  m.impl("radius_neighbours_periodic", radius_neighbours_periodic);
}

}  // namespace geotdm::periodic
