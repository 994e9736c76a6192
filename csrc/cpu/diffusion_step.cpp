// The op diffusion_step on the CPU: one pass over the positions, and one before it where graphs have their mean taken.
#include "checks.h"

namespace geotdm {

namespace {

struct Strided {  // float [N, D, T] of any strides; T may be 1 for all frames
  const float* data = nullptr;
  int64_t n = 0, d = 0, t = 0;

  Strided() = default;
  explicit Strided(const Tensor& x)
      : data(geotdm::data(x)), n(x.stride(0)), d(x.stride(1)), t(x.size(2) == 1 ? 0 : x.stride(2)) {}
  const float* row(int64_t node, int64_t axis) const { return data + node * n + axis * d; }
};

struct Step {
  int64_t dim, num_frames;
  float p, q, a, b, c, s;
  float *x = nullptr, *before = nullptr, *positions = nullptr;
  Strided output{}, noise{}, ref{};

  // Of nodes first .. last - 1, one axis; the means are taken off each term, for the projection is linear.
  void run(int64_t first, int64_t last, int64_t axis, const float (&mean)[4]) const {
    for (int64_t i = first; i < last; ++i) {
      const int64_t at = (i * dim + axis) * num_frames;
      const float *out = output.row(i, axis), *z = noise.data ? noise.row(i, axis) : nullptr;
      const float* shift = ref.data ? ref.row(i, axis) : nullptr;
      for (int64_t t = 0; t < num_frames; ++t) {
        const float now = x[at + t] - mean[0];
        const float clean = p * now + q * (out[t * output.t] - mean[2]);
        float after = a * now + b * clean + c * (before[at + t] - mean[1]);
        if (z) after += s * (z[t * noise.t] - mean[3]);
        x[at + t] = after;
        before[at + t] = clean;
        if (shift) positions[at + t] = after + shift[t * ref.t];
      }
    }
  }

  void means(int64_t first, int64_t last, int64_t axis, float (&mean)[4]) const {
    double sum[4] = {};
    for (int64_t i = first; i < last; ++i) {
      const int64_t at = (i * dim + axis) * num_frames;
      const float *out = output.row(i, axis), *z = noise.data ? noise.row(i, axis) : nullptr;
      for (int64_t t = 0; t < num_frames; ++t) {
        sum[0] += x[at + t], sum[1] += before[at + t], sum[2] += out[t * output.t];
        if (z) sum[3] += z[t * noise.t];
      }
    }
    for (int k = 0; k < 4; ++k) mean[k] = static_cast<float>(sum[k] / ((last - first) * num_frames));
  }
};

// Checks what the ops diffusion_step and layer_pairs_step have in common, and gives the row of `coefficients` to take.
// `first_name`: what the op calls `first`.
int64_t checked_step(const char* op, const char* first_name, const Tensor& x, const Tensor& before,
                     const std::optional<Tensor>& positions, const std::optional<Tensor>& noise,
                     const std::optional<Tensor>& x_ref, const std::optional<Tensor>& first, const Tensor& coefficients,
                     const Tensor& step) {
  check(x.dim() == 3, op, "x must be [N, D, T], got ", listed(x.sizes()));
  check_dense(op, "x", x, x.sizes());
  check_dense(op, "before", before, x.sizes());
  if (noise) check_tensor(op, "noise", *noise, x.sizes());
  check(positions.has_value() == x_ref.has_value(), op, "positions must come with x_ref");
  if (x_ref) {
    check_dense(op, "positions", *positions, x.sizes());
    check_tensor(op, "x_ref", *x_ref, {x.size(0), x.size(1), x_ref->dim() == 3 && x_ref->size(2) == 1 ? 1 : x.size(2)});
  }
  check_dense(op, "coefficients", coefficients, {coefficients.dim() == 2 ? coefficients.size(0) : 0, 6});
  check_dense(op, "step", step, {1}, ScalarType::Long);
  const int64_t k = *index_data(step);
  check(k >= 0 && k < coefficients.size(0), op, "step must be in 0..", coefficients.size(0) - 1, ", got ", k);
  if (first) check_offsets(op, first_name, *first, first->numel() - 1, x.size(0));
  return k;
}

void diffusion_step(const Tensor& x, const Tensor& before, const std::optional<Tensor>& positions, const Tensor& output,
                    const std::optional<Tensor>& noise, const std::optional<Tensor>& x_ref,
                    const std::optional<Tensor>& first, const Tensor& coefficients, const Tensor& step) {
  const char* op = "diffusion_step";
  const int64_t k = checked_step(op, "first", x, before, positions, noise, x_ref, first, coefficients, step);
  check_tensor(op, "output", output, x.sizes());
  const int64_t num_nodes = x.size(0), dim = x.size(1);
  if (x.numel() == 0) return;

  const float* row = data(coefficients) + 6 * k;
  Step a{dim, x.size(2), row[0], row[1], row[2], row[3], row[4], row[5]};
  a.x = mutable_data(x), a.before = mutable_data(before);
  a.positions = positions ? mutable_data(*positions) : nullptr;
  a.output = Strided(output);
  if (noise) a.noise = Strided(*noise);
  if (x_ref) a.ref = Strided(*x_ref);
  const int64_t* offsets = first ? index_data(*first) : nullptr;
  const int64_t count = first ? first->numel() - 1 : num_nodes, each = x.numel() / count;
  // A few thousand numbers are done before a second thread has begun.
  parallel_for(count, std::max<int64_t>(1, 32768 / std::max<int64_t>(each, 1)), [&](int64_t begin, int64_t end) {
    for (int64_t g = begin; g < end; ++g)
      for (int64_t axis = 0; axis < dim; ++axis) {
        const int64_t from = offsets ? offsets[g] : g, to = offsets ? offsets[g + 1] : g + 1;
        float mean[4] = {};
        if (offsets && from < to) a.means(from, to, axis, mean);
        a.run(from, to, axis, mean);
      }
  });
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(geotdm_fast, CPU, m) { m.impl("diffusion_step", TORCH_BOX(&diffusion_step)); }

}  // namespace geotdm
