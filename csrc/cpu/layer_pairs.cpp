// The ops packed_layer_pair, same_numbers and layer_pairs on the CPU: all layers of a network in one call, by the
// kernels of the ops egcl and temporal_attention, so with the same bits. No way back.
#include <tuple>
#include <vector>

#include "in_order.h"
#include "packed_pair.h"

namespace geotdm {

namespace {

// turns [T, 2 (E / 2)]: of the frames that the network will see.
Tensor packed_layer_pair(const Tensors& egcl_params, const Tensors& attention_params, const Tensor& turns,
                         bool low_precision, int64_t precision) {
  const char* op = "packed_layer_pair";
  const int64_t width =
      egcl_params.size() > kEdgeB1 && egcl_params[kEdgeB1].dim() == 1 ? egcl_params[kEdgeB1].size(0) : 0;
  const int64_t num_frames = turns.dim() == 2 ? turns.size(0) : 0;
  check(width % 16 == 0 && width >= 16 && width <= 256, op, "edge_b1 must be [H] with H a multiple of 16 up to 256");
  check(num_frames > 0, op, "turns must be [T, 2 (E / 2)] with T at least 1, got ", listed(turns.sizes()));
  check_egcl_params(op, egcl_params, width);
  check_temporal_params(op, attention_params, turns, num_frames, width, precision);
  const Kernels &ek = kernels(low_precision), &ak = kernels(precision == kBfloat16);
  const PairSizes size{width, num_frames, turns.size(1)};
  const Tensor phases = by_kind(turns, round_up(size.phases, ak.panel));
  Weights of_egcl(ek), of_attention(ak);
  const PackedPair pair{egcl_weights(of_egcl, egcl_params, FirstLayer(egcl_params, width)),
                        temporal_weights(of_attention, attention_params),
                        time_weights(of_attention, phases, attention_params, size.phases)};
  const Tensor packed = empty({packed_pair_size(ek, ak, size)});
  write_packed_pair(pair, ek, ak, size, mutable_data(packed));
  return packed;
}

// Whether `tensors` are dense, float32 on the CPU, and [rows, columns], or [rows] where there are 0 columns, as `sizes`
// [n, 2] tells.
bool have_sizes(const char* op, const Tensors& tensors, const Tensor& sizes) {
  check_dense(op, "sizes", sizes, {sizes.dim() == 2 ? sizes.size(0) : 0, 2}, ScalarType::Long);
  if (static_cast<int64_t>(tensors.size()) != sizes.size(0)) return false;
  const int64_t* size = index_data(sizes);
  return std::all_of(tensors.begin(), tensors.end(), [&](const Tensor& t) {
    const Shape expected(size, size[1] == 0 ? 1 : 2);
    size += 2;
    return t.sizes().equals(expected) && t.is_cpu() && has_dtype(t, ScalarType::Float) && t.is_contiguous();
  });
}

// Whether `tensors` have these sizes, and their numbers, one tensor after the other, the bits of `kept` [k]: whether
// weights are still those that were packed. It reads them all, since a write through `.data` leaves no other trace.
bool same_numbers(const Tensors& tensors, const Tensor& kept, const Tensor& sizes) {
  const char* op = "same_numbers";
  check_dense(op, "kept", kept, {kept.numel()});
  if (!have_sizes(op, tensors, sizes)) return false;
  struct Part {
    const float *now, *then;
    size_t bytes;
  };
  std::vector<Part> parts;
  parts.reserve(tensors.size());
  const float *next = data(kept), *end = next + kept.numel();
  for (const Tensor& tensor : tensors) {
    const int64_t count = tensor.numel();
    check(count <= end - next, op, "kept must hold the numbers of all tensors, got ", kept.numel());
    if (count > 0) parts.push_back({data(tensor), next, count * sizeof(float)});
    next += count;
  }
  check(next == end, op, "kept must hold the numbers of all tensors alone, got ", kept.numel());
  constexpr int64_t kPartsPerThread = 16;  // one thread is done with fewer before a second has begun
  std::atomic<bool> same{true};
  parallel_for(parts.size(), kPartsPerThread, [&](int64_t first, int64_t last) {
    for (; first < last && same.load(std::memory_order_relaxed); ++first)
      if (std::memcmp(parts[first].now, parts[first].then, parts[first].bytes)) same = false;
  });
  return same;
}

// One call of the network: what its tasks read and write.
struct Call {
  const Kernels &egcl_kernels, &attention_kernels;
  std::vector<EGCLForward> egcl{};
  std::vector<TemporalForward> attention{};
  int64_t num_nodes, num_frames, chunk;  // nodes of a chunk
  bool alike;                            // whether h is the same in all frames before the first layer

  int64_t chunks() const { return (num_nodes + chunk - 1) / chunk; }
  int64_t begin(int64_t c) const { return c * chunk; }
  int64_t end(int64_t c) const { return std::min((c + 1) * chunk, num_nodes); }

  // What h of a chunk's rows makes for a layer; nothing behind the last layer.
  void project(size_t layer, int64_t c) const {
    if (layer == 0 && alike)
      for (int64_t i = begin(c); i < end(c); ++i) project_first_frame(egcl[0], i);
    else if (layer < egcl.size())
      egcl_kernels.egcl_project(egcl[layer], begin(c) * num_frames, end(c) * num_frames);
  }
  // The same of a node whose frames are alike, by its first one.
  void project_first_frame(const EGCLForward& a, int64_t i) const {
    const int64_t row = i * num_frames, stride = a.size.stride;
    egcl_kernels.egcl_project(a, row, row + 1);
    for (float* rows : {a.p, a.q, a.hidden})
      for (int64_t t = 1; rows && t < num_frames; ++t)
        std::copy_n(rows + row * stride, stride, rows + (row + t) * stride);
  }
  void spatial(size_t layer, int64_t c, float* memory) const {
    egcl_kernels.egcl_nodes(egcl[layer], begin(c), end(c), memory);
  }
  void temporal(size_t layer, int64_t c, float* memory) const {
    attention_kernels.temporal_nodes(attention[layer], begin(c), end(c), memory);
    project(layer + 1, c);
  }
};

// Threads that `flop` operations are worth: one is done with fewer before a second has begun.
int64_t worthwhile_threads(double flop, int64_t tasks) {
  constexpr double kFlopPerThread = 4e6;
  const int64_t most = std::min<int64_t>(torch::stable::get_num_threads(), tasks);
  return std::max<int64_t>(1, std::min(most, static_cast<int64_t>(flop / kFlopPerThread)));
}

// Tasks in order: the projections of every chunk; then for each layer its spatial part chunk by chunk, which needs the
// projections of all chunks, and its temporal part, which needs its own chunk, and projects for the next layer. A few
// chunks (`apart`) have both parts in tasks of their own, so that threads end together; of many, both are one task,
// whose rows stay in cache.
void run(const Call& call, int64_t threads, int64_t scratch, bool apart) {
  const int64_t chunks = call.chunks(), layers = static_cast<int64_t>(call.egcl.size());
  std::vector<std::atomic<int64_t>> projected(layers + 1), spatial_done(chunks);
  const auto all_projected = [&](int64_t layer) {
    wait_until([&] { return projected[layer].load(std::memory_order_acquire) == chunks; });
  };
  const auto spatial = [&](int64_t layer, int64_t c, float* memory) {
    all_projected(layer);
    call.spatial(layer, c, memory);
    spatial_done[c].store(layer + 1, std::memory_order_release);
  };
  const auto temporal = [&](int64_t layer, int64_t c, float* memory) {
    wait_until([&] { return spatial_done[c].load(std::memory_order_acquire) > layer; });
    call.temporal(layer, c, memory);
    projected[layer + 1].fetch_add(1, std::memory_order_release);
  };
  const int64_t per_layer = apart ? 2 * chunks : chunks;
  in_order(chunks + layers * per_layer, threads, scratch, [&](int64_t task, float* memory) {
    if (task < chunks) {
      call.project(0, task);
      projected[0].fetch_add(1, std::memory_order_release);
      return;
    }
    const int64_t layer = (task - chunks) / per_layer, at = (task - chunks) % per_layer, c = at % chunks;
    if (at < chunks) spatial(layer, c, memory);
    if (!apart || at >= chunks) temporal(layer, c, memory);
  });
}

// What a caller knows of h.
struct Features {
  bool alike;     // h is the same in all frames
  bool are_read;  // h' is read: else it is not computed, and its tensor holds anything
};

// x' and h' after all layers; arguments as for the op layer_pairs.
std::tuple<Tensor, Tensor> run_layer_pairs(const Tensor& x, const Tensor& h, const Tensor& first, const Tensor& sender,
                                           const Tensors& edge_terms, const std::optional<Tensor>& shift,
                                           const Tensors& packed, int64_t phases, bool normalize, bool pre_norm,
                                           std::optional<double> cutoff, int64_t window, bool low_precision,
                                           int64_t precision, Features features) {
  const char* op = "layer_pairs";
  check_rows(op, x, h);
  check(x.size(1) > 0, op, "x must have at least one frame, got ", listed(x.sizes()));
  const int64_t num_edges = check_edges(op, first, sender, x.size(0)), room = sender.numel();
  check_cutoff(op, cutoff);
  check(window >= 0, op, "window must not be negative, got ", window);
  check(0 <= precision && precision <= kBfloat16, op, "precision must be 0, 1 or 2, got ", precision);
  if (shift) check_dense(op, "shift", *shift, {room, x.size(2)});
  check(!packed.empty(), op, "packed must be one tensor at least, got none");
  check(edge_terms.empty() || edge_terms.size() == packed.size(), op, "edge_terms must be none or ", packed.size(),
        " tensors, got ", edge_terms.size());
  const Kernels &ek = kernels(low_precision), &ak = kernels(precision == kBfloat16);
  const EGCLSizes size = egcl_sizes(ek, x, h, normalize, pre_norm, cutoff, true);
  check(phases >= 0, op, "phases must not be negative, got ", phases);
  const TemporalSizes time = temporal_sizes(ak, x, h, phases, window);
  const PairSizes of_pair{size.width, size.num_frames, phases};
  for (const Tensor& term : edge_terms) check_tensor(op, "edge_terms", term, {room, size.width});
  for (const Tensor& pair : packed) check_dense(op, "packed", pair, {packed_pair_size(ek, ak, of_pair)});

  const auto x_out = new_like(x), h_out = new_like(h);
  const int64_t layers = packed.size(), num_rows = size.num_nodes * size.num_frames;
  // Products of matrices H x H: ten of a row of a node, two of an edge's in a frame, beside the attention.
  const double flop = 2.0 * size.width * size.width * (12.0 * num_rows + 2.0 * num_edges * size.num_frames) * layers;
  const int64_t tile = nodes_per_tile(size.num_frames), threads = worthwhile_threads(flop, size.num_nodes);
  constexpr int64_t kPartsPerThread = 8;
  const bool apart = threads > 1 && size.num_nodes < threads * kPartsPerThread * tile;
  // Between the layers, x and h lie in the results and in `other` by turns; within one in `middle`. A task of the next
  // layer writes its Q while others of this layer read theirs.
  const int64_t of_x = round_up(num_rows * size.dim, 16), of_h = num_rows * size.width,
                of_rows = num_rows * size.stride;
  const Tensor memory = empty({2 * (of_x + of_h) + (apart ? 4 : 3) * of_rows});
  float* middle = mutable_data(memory);
  float *other = middle + of_x + of_h, *p = other + of_x + of_h, *q = p + of_rows, *hidden = q + 2 * of_rows;
  struct {
    const float *x, *h;
  } in{data(x), data(h)};
  Call call{ek, ak, {}, {}, size.num_nodes, size.num_frames, 1, features.alike};
  Tensors terms;
  for (int64_t l = 0; l < layers; ++l) {
    const PackedPair pair = read_packed_pair(data(packed[l]), ek, ak, of_pair);
    if (!edge_terms.empty()) terms.push_back(*padded_term(edge_terms[l], size.stride));
    EGCLForward a{size, graph_of(first, sender, shift), pair.egcl};
    a.x = in.x, a.h = in.h, a.edge_term = edge_terms.empty() ? nullptr : data(terms[l]);
    a.p = p, a.q = q + (l % 2) * of_rows, a.x_out = middle, a.h_out = middle + of_x;
    // Where both parts of a layer are tasks, the shorter one begins the node MLP: then they take as long.
    a.is_begun = apart;
    a.hidden = apart ? hidden : nullptr;
    TemporalForward b{time, pair.attention, pair.time};
    const bool into_result = (layers - 1 - l) % 2 == 0;
    b.x = a.x_out, b.h = a.h_out;
    b.x_out = into_result ? mutable_data(x_out) : other, b.h_out = into_result ? mutable_data(h_out) : other + of_x;
    in = {b.x_out, b.h_out};
    if (l == layers - 1 && !features.are_read) b.h_out = nullptr;
    call.egcl.push_back(a), call.attention.push_back(b);
  }
  if (num_rows == 0) return {x_out, h_out};
  call.chunk = apart          ? 1
               : threads == 1 ? tile
                              : round_up(std::max<int64_t>(1, size.num_nodes / (threads * kPartsPerThread)), tile);
  run(call, threads, std::max(ek.egcl_nodes_scratch(size), ak.temporal_nodes_scratch(time)), apart);
  return {x_out, h_out};
}

// packed: of `packed_layer_pair`, for each pair, with so many phases; edge_terms: [E, H] for each pair, or none.
std::tuple<Tensor, Tensor> layer_pairs(const Tensor& x, const Tensor& h, const Tensor& first, const Tensor& sender,
                                       const Tensors& edge_terms, const std::optional<Tensor>& shift,
                                       const Tensors& packed, int64_t phases, bool normalize, bool pre_norm,
                                       std::optional<double> cutoff, int64_t window, bool low_precision,
                                       int64_t precision) {
  return run_layer_pairs(x, h, first, sender, edge_terms, shift, packed, phases, normalize, pre_norm, cutoff, window,
                         low_precision, precision, {.alike = false, .are_read = true});
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(geotdm_fast, CPU, m) {
  m.impl("packed_layer_pair", TORCH_BOX(&packed_layer_pair));
  m.impl("same_numbers", TORCH_BOX(&same_numbers));
  m.impl("layer_pairs", TORCH_BOX(&layer_pairs));
}

}  // namespace geotdm
