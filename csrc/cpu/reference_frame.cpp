// The op reference_frame on the CPU: the mean of the learned prior in one pass over the nodes, summed in double. No way
// back.
#include <numeric>

#include "checks.h"

namespace geotdm {

namespace {

double mean_of(const float* row, int64_t count) { return std::accumulate(row, row + count, 0.0) / count; }

// y [N, T, D], z [N, T, H], ws [S]; x_ref [N, D, S].
Tensor reference_frame(const Tensor& y, const Tensor& z, const Tensor& ws) {
  const char* op = "reference_frame";
  check(y.dim() == 3 && y.size(1) > 0, op, "y must be [N, T, D] with T at least 1, got ", listed(y.sizes()));
  check(z.dim() == 3 && z.size(2) > 0, op, "z must be [N, T, H] with H at least 1, got ", listed(z.sizes()));
  check_dense(op, "y", y, y.sizes());
  check_dense(op, "z", z, {y.size(0), y.size(1), z.size(2)});
  check_dense(op, "ws", ws, {ws.numel()});
  const int64_t num_nodes = y.size(0), num_frames = y.size(1), dim = y.size(2), width = z.size(2), count = ws.numel();
  const Tensor x_ref = empty({num_nodes, dim, count});
  const float *of_y = data(y), *of_z = data(z), *factor = data(ws);
  float* to = mutable_data(x_ref);
  constexpr int64_t kFloatsPerThread = 1 << 15;  // one thread is done with fewer before a second has begun
  const int64_t each = std::max<int64_t>(1, num_frames * (width + count * (dim + 2)));
  parallel_for(num_nodes, std::max<int64_t>(1, kFloatsPerThread / each), [&](int64_t first, int64_t last) {
    std::vector<double> mean(num_frames);
    for (int64_t i = first; i < last; ++i) {
      for (int64_t t = 0; t + 1 < num_frames; ++t) mean[t] = mean_of(of_z + (i * num_frames + t) * width, width);
      for (int64_t s = 0; s < count; ++s) {
        double sum = 0;
        for (int64_t t = 0; t + 1 < num_frames; ++t) sum += mean[t] * factor[s];
        for (int64_t d = 0; d < dim; ++d) {
          const float* at = of_y + i * num_frames * dim + d;
          double place = 0;
          for (int64_t t = 0; t + 1 < num_frames; ++t) place += mean[t] * factor[s] * at[t * dim];
          to[(i * dim + d) * count + s] = static_cast<float>(place + (1 - sum) * at[(num_frames - 1) * dim]);
        }
      }
    }
  });
  return x_ref;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(geotdm_fast, CPU, m) { m.impl("reference_frame", TORCH_BOX(&reference_frame)); }

}  // namespace geotdm
