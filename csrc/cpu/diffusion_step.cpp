// The op diffusion_step on the CPU: one pass over the positions, and one before it where graphs have their mean taken.
#include <ATen/Parallel.h>
#include <ATen/core/LegacyTypeDispatch.h>
#include <torch/library.h>

#include "checks.h"

namespace geotdm {

namespace {

struct Strided {  // float [N, D, T] of any strides; T may be 1 for all frames
  const float* data = nullptr;
  int64_t n = 0, d = 0, t = 0;

  Strided() = default;
  explicit Strided(const at::Tensor& x)
      : data(x.const_data_ptr<float>()), n(x.stride(0)), d(x.stride(1)), t(x.size(2) == 1 ? 0 : x.stride(2)) {}
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

void diffusion_step(const at::Tensor& x, const at::Tensor& before, const std::optional<at::Tensor>& positions,
                    const at::Tensor& output, const std::optional<at::Tensor>& noise,
                    const std::optional<at::Tensor>& x_ref, const std::optional<at::Tensor>& first,
                    const at::Tensor& coefficients, const at::Tensor& step) {
  const at::AutoDispatchBelowADInplaceOrView no_autograd;
  const char* op = "diffusion_step";
  TORCH_CHECK_VALUE(x.dim() == 3, op, ": x must be [N, D, T], got ", x.sizes());
  check_dense(op, "x", x, x.sizes());
  check_dense(op, "before", before, x.sizes());
  check(op, "output", output, x.sizes());
  if (noise) check(op, "noise", *noise, x.sizes());
  TORCH_CHECK_VALUE(positions.has_value() == x_ref.has_value(), op, ": positions must come with x_ref");
  if (x_ref) {
    check_dense(op, "positions", *positions, x.sizes());
    check(op, "x_ref", *x_ref, {x.size(0), x.size(1), x_ref->dim() == 3 && x_ref->size(2) == 1 ? 1 : x.size(2)});
  }
  check_dense(op, "coefficients", coefficients, {coefficients.dim() == 2 ? coefficients.size(0) : 0, 6});
  check_dense(op, "step", step, {1}, at::kLong);
  const int64_t k = *step.const_data_ptr<int64_t>(), num_nodes = x.size(0), dim = x.size(1);
  TORCH_CHECK_VALUE(k >= 0 && k < coefficients.size(0), op, ": step must be in 0..", coefficients.size(0) - 1, ", got ",
                    k);
  if (first) check_offsets(op, "first", *first, first->numel() - 1, num_nodes);
  if (x.numel() == 0) return;

  const float* row = coefficients.const_data_ptr<float>() + 6 * k;
  Step a{dim, x.size(2), row[0], row[1], row[2], row[3], row[4], row[5]};
  a.x = x.mutable_data_ptr<float>(), a.before = before.mutable_data_ptr<float>();
  a.positions = positions ? positions->mutable_data_ptr<float>() : nullptr;
  a.output = Strided(output);
  if (noise) a.noise = Strided(*noise);
  if (x_ref) a.ref = Strided(*x_ref);
  const int64_t* offsets = first ? first->const_data_ptr<int64_t>() : nullptr;
  const int64_t count = first ? first->numel() - 1 : num_nodes, each = x.numel() / count;
  // A few thousand numbers are done before a second thread has begun.
  at::parallel_for(0, count, std::max<int64_t>(1, 32768 / std::max<int64_t>(each, 1)), [&](int64_t begin, int64_t end) {
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

TORCH_LIBRARY_IMPL(geotdm_fast, CPU, m) { m.impl("diffusion_step", diffusion_step); }

}  // namespace geotdm
