// The ops that search neighbours in periodic boxes, and how graphs, frames and threads share the work.
#include <tuple>
#include <vector>

#include "periodic_grid.h"
#include "periodic_group.h"
#include "periodic_searcher.h"
#include "radius_found.h"
#include "radius_inputs.h"
#include "tensors.h"

namespace geotdm::periodic {

namespace {

using Images = std::vector<int64_t>;

// What one thread needs to search: run(group, grid, first, last, found) finds the senders of every receiver in blocks
// first .. last - 1, in float32 where that is fine enough.
class AnySearcher {
 public:
  explicit AnySearcher(const Search& search) : search_(search), in_float_(search), in_double_(search) {}

  template <typename Found>
  void run(const Group& group, const Grid& grid, int64_t first, int64_t last, Found& found) {
    if (Searcher<float>::is_fine_enough(group, search_.cutoff))
      in_float_.run(group, grid, first, last, found);
    else
      in_double_.run(group, grid, first, last, found);
  }

 private:
  const Search& search_;
  Searcher<float> in_float_;
  Searcher<double> in_double_;
};

// Searches every group. make_found(): what takes the senders in one thread; is asked for often.
template <typename MakeFound>
void search_groups(const Search& search, const Graphs& graphs, const MakeFound& make_found) {
  constexpr int64_t kLarge = 2048;  // nodes of a graph that all threads search together
  std::vector<int64_t> small;
  Group large;
  Grid grid_of_large;
  for (int64_t graph = 0; graph < graphs.count(); ++graph) {
    if (graphs.size(graph) < kLarge) {
      if (graphs.size(graph)) small.push_back(graph);
      continue;
    }
    for (int64_t frame = 0; frame < search.num_frames; ++frame) {
      large.load(search, graphs, graph, frame);
      grid_of_large.build(large);
      auto losing = make_found();
      for (const int32_t row : large.lost()) losing.lose(row);
      parallel(grid_of_large.count_blocks(), 0, [&](int64_t first, int64_t last, float*) {
        AnySearcher searcher(search);
        auto found = make_found();
        searcher.run(large, grid_of_large, first, last, found);
      });
    }
  }
  parallel(static_cast<int64_t>(small.size()) * search.num_frames, 0, [&](int64_t first, int64_t last, float*) {
    Group group;
    Grid grid;
    AnySearcher searcher(search);
    auto found = make_found();
    for (int64_t g = first; g < last; ++g) {
      group.load(search, graphs, small[g / search.num_frames], g % search.num_frames);
      for (const int32_t row : group.lost()) found.lose(row);
      grid.build(group);
      searcher.run(group, grid, 0, grid.count_blocks(), found);
    }
  });
}

Boxes checked_boxes(const char* op, const Tensor& x, const std::optional<Tensor>& batch, const Tensor& vectors,
                    const Tensor& inverse, const Tensor& pbc, const Images& images, int64_t most_away) {
  check(x.size(2) == 3, op, "x must be [N, T, 3] in boxes, got ", listed(x.sizes()));
  check(vectors.dim() == 4 && vectors.size(0) > 0 && (vectors.size(1) == 1 || vectors.size(1) == x.size(1)), op,
        "vectors must be [G, 1 or ", x.size(1), ", 3, 3], got ", listed(vectors.sizes()));
  const int64_t count = vectors.size(0), num_frames = vectors.size(1);
  check_dense(op, "vectors", vectors, {count, num_frames, 3, 3}, ScalarType::Double);
  check_dense(op, "inverse", inverse, {count, num_frames, 3, 3}, ScalarType::Double);
  check_dense(op, "pbc", pbc, {count, 3}, ScalarType::Bool);
  check(images.size() == 3, op, "images must be 3 numbers, got ", listed(images));
  constexpr int64_t kMost = 64;
  for (const int64_t number : images)
    check(number >= 0 && number <= kMost, op, "images must be in 0..", kMost, ", got ", listed(images));
  const int64_t largest = *std::max_element(images.begin(), images.end());
  check(most_away >= 0 && 2 * most_away + largest <= 127, op, "most_boxes_away must be in 0..", (127 - largest) / 2,
        " for images ", listed(images), ", got ", most_away);
  if (count > 1) {
    check(batch || x.size(0) == 0, op, "batch must come with boxes of ", count, " graphs, got none");
    const int64_t* graph = batch ? index_data(*batch) : nullptr;
    for (int64_t i = 0; batch && i < x.size(0); ++i)
      check(graph[i] >= 0 && graph[i] < count, op, "batch must be in 0..", count - 1, " as the boxes, got ", graph[i]);
  }
  return {data<double>(vectors),
          data<double>(inverse),
          data<bool>(pbc),
          count,
          num_frames,
          {images[0], images[1], images[2]},
          most_away};
}

template <typename MakeFound>
void search_all(const Tensor& x, const std::optional<Tensor>& batch, const Boxes& boxes, double cutoff, bool loop,
                const MakeFound& make_found) {
  const Graphs graphs(batch, x.size(0));
  const Search search{data<double>(x), x.size(1),   x.stride(0),
                      x.stride(1),     x.stride(2), batch ? index_data(*batch) : nullptr,
                      boxes,           cutoff,      loop};
  search_groups(search, graphs, make_found);
}

void check_positions(const char* op, const Tensor& x, const std::optional<Tensor>& batch) {
  check_search_inputs(op, x, batch);
  check_tensor(op, "x", x, x.sizes(), ScalarType::Double);
}

// edge_index [2, E], image [E, 3], and the degree of each receiver, -1 where it is near to nothing.
std::tuple<Tensor, Tensor, Tensor> radius_graph_periodic(const Tensor& x, const std::optional<Tensor>& batch,
                                                         const Tensor& vectors, const Tensor& inverse,
                                                         const Tensor& pbc, const Images& images,
                                                         int64_t most_boxes_away, double cutoff, bool loop) {
  const char* op = "radius_graph_periodic";
  check_positions(op, x, batch);
  const Boxes boxes = checked_boxes(op, x, batch, vectors, inverse, pbc, images, most_boxes_away);
  const int64_t num_rows = x.size(0) * x.size(1);
  auto degree = empty({num_rows}, ScalarType::Int);
  Edges edges(mutable_data<int32_t>(degree), true);
  search_all(x, batch, boxes, cutoff, loop, [&] { return Edges::Found(edges); });
  std::optional<Tensor> image;
  auto edge_index = edges.edge_index(num_rows, &image);
  return {edge_index, *image, degree};
}

// sender [N T, capacity], image [N T, capacity, 3], and the degree of each receiver, more than that or not, -1 where it
// is near to nothing.
std::tuple<Tensor, Tensor, Tensor> radius_neighbours_periodic(const Tensor& x, const std::optional<Tensor>& batch,
                                                              const Tensor& vectors, const Tensor& inverse,
                                                              const Tensor& pbc, const Images& images,
                                                              int64_t most_boxes_away, double cutoff, int64_t capacity,
                                                              bool loop) {
  const char* op = "radius_neighbours_periodic";
  check_positions(op, x, batch);
  check(capacity >= 0, op, "capacity must not be negative, got ", capacity);
  const Boxes boxes = checked_boxes(op, x, batch, vectors, inverse, pbc, images, most_boxes_away);
  const int64_t num_rows = x.size(0) * x.size(1);
  auto sender = empty({num_rows, capacity}, ScalarType::Int), degree = empty({num_rows}, ScalarType::Int);
  auto image = empty({num_rows, capacity, 3}, ScalarType::Char);
  int32_t *to = mutable_data<int32_t>(sender), *number = mutable_data<int32_t>(degree);
  int8_t* image_to = mutable_data<int8_t>(image);
  search_all(x, batch, boxes, cutoff, loop, [&] { return Table(to, number, capacity, image_to); });
  return {sender, image, degree};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(geotdm_fast, CPU, m) {
  m.impl("radius_graph_periodic", TORCH_BOX(&radius_graph_periodic));
  m.impl("radius_neighbours_periodic", TORCH_BOX(&radius_neighbours_periodic));
}

}  // namespace geotdm::periodic
