// The op layer_pairs_step on the CPU: a whole diffusion step, with the bits of its operations one by one. It calls the
// ops layer_pairs and diffusion_step as functions, so it stands behind their files in module.cpp.
#include "checks.h"

namespace geotdm {

namespace {

// Numbers [N, T, C] of any strides; T may be 1 for all frames.
struct Rows {
  const float* from;
  int64_t node, frame, column;

  Rows(const Tensor& t)
      : from(data(t)), node(t.stride(0)), frame(t.size(1) == 1 ? 0 : t.stride(1)), column(t.stride(2)) {}
  float at(int64_t i, int64_t t, int64_t c) const { return from[i * node + t * frame + c * column]; }
};

// The place of each noisy frame among `num_frames`.
std::vector<int64_t> places(const char* op, const std::optional<Tensor>& noisy, int64_t num_noisy, int64_t num_frames) {
  std::vector<int64_t> out(num_noisy);
  if (!noisy) {
    for (int64_t t = 0; t < num_noisy; ++t) out[t] = t;
    return out;
  }
  check_dense(op, "noisy", *noisy, {num_noisy}, ScalarType::Long);
  std::copy_n(index_data(*noisy), num_noisy, out.begin());
  for (const int64_t t : out) check(t >= 0 && t < num_frames, op, "noisy must be in 0..", num_frames - 1, ", got ", t);
  return out;
}

// x, before, positions, noise, x_ref, first_node, coefficients, step: as for diffusion_step, but `step` is counted up.
// given [N, T, D], and noisy [T_noisy], the places in it that x takes: none where no frame is given. The layers see
// positions multiplied by `scale`, and features [N, 1 or T, H] + rows [R, H], of which the row of this step.
// From first_edge to precision: as for layer_pairs.
void layer_pairs_step(const Tensor& x, const Tensor& before, const std::optional<Tensor>& positions, const Tensor& step,
                      const std::optional<Tensor>& noise, const std::optional<Tensor>& x_ref,
                      const std::optional<Tensor>& first_node, const Tensor& coefficients,
                      const std::optional<Tensor>& given, const std::optional<Tensor>& noisy, double scale,
                      const Tensor& features, const Tensor& rows, const Tensor& first_edge, const Tensor& sender,
                      const Tensors& edge_terms, const std::optional<Tensor>& shift, const Tensors& packed,
                      int64_t phases, bool normalize, bool pre_norm, std::optional<double> cutoff, int64_t window,
                      bool low_precision, int64_t precision) {
  const char* op = "layer_pairs_step";
  const int64_t k = checked_step(op, "first_node", x, before, positions, noise, x_ref, first_node, coefficients, step);
  check(given.has_value() == noisy.has_value(), op, "given must come with noisy");
  const Tensor& seen = positions ? *positions : x;
  const int64_t num_nodes = x.size(0), dim = x.size(1), num_noisy = x.size(2);
  const int64_t num_frames = given && given->dim() == 3 ? given->size(1) : num_noisy;
  if (given) check_tensor(op, "given", *given, {num_nodes, num_frames, dim});
  const std::vector<int64_t> place = places(op, noisy, num_noisy, num_frames);
  const int64_t width = rows.dim() == 2 ? rows.size(1) : 0, num_rows = rows.dim() == 2 ? rows.size(0) : 0;
  check_dense(op, "rows", rows, {num_rows, width});
  const int64_t of_features = features.dim() == 3 && features.size(1) == 1 ? 1 : num_frames;
  check_tensor(op, "features", features, {num_nodes, of_features, width});
  check(k < num_rows, op, "step must be in 0..", num_rows - 1, " (rows), got ", k);

  const float factor = static_cast<float>(scale);
  const float *from = data(seen), *row = data(rows) + k * width;
  const Rows all(given ? *given : features), feature(features);
  const Tensor y = empty({num_nodes, num_frames, dim}), z = empty({num_nodes, num_frames, width});
  float *to_y = mutable_data(y), *to_z = mutable_data(z);
  for (int64_t i = 0; i < num_nodes; ++i, to_y += num_frames * dim, from += dim * num_noisy) {
    if (given)
      for (int64_t t = 0; t < num_frames; ++t)
        for (int64_t d = 0; d < dim; ++d) to_y[t * dim + d] = all.at(i, t, d);
    for (int64_t t = 0; t < num_noisy; ++t)
      for (int64_t d = 0; d < dim; ++d) to_y[place[t] * dim + d] = from[d * num_noisy + t] * factor;
    for (int64_t t = 0; t < num_frames; ++t, to_z += width)
      for (int64_t c = 0; c < width; ++c) to_z[c] = feature.at(i, t, c) + row[c];
  }
  const Tensor y_out = std::get<0>(run_layer_pairs(y, z, first_edge, sender, edge_terms, shift, packed, phases,
                                                   normalize, pre_norm, cutoff, window, low_precision, precision,
                                                   {.alike = of_features == 1, .are_read = false}));
  const Tensor output = new_like(x);
  const float *after = data(y_out), *start = data(seen);
  float* to = mutable_data(output);
  for (int64_t i = 0; i < num_nodes; ++i, after += num_frames * dim)
    for (int64_t d = 0; d < dim; ++d)
      for (int64_t t = 0; t < num_noisy; ++t) *to++ = (after[place[t] * dim + d] - *start++) / factor;
  diffusion_step(x, before, positions, output, noise, x_ref, first_node, coefficients, step);
  ++*mutable_data<int64_t>(step);
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(geotdm_fast, CPU, m) { m.impl("layer_pairs_step", TORCH_BOX(&layer_pairs_step)); }

}  // namespace geotdm
