// psi(tau) = time_w sinusoid(tau) + time_b for every difference of frames within reach, and the way back. On one thread
// and in float32 whatever the precision: it is little work, and so every run gives the same bits.
#pragma once

#include <cstdlib>
#include <utility>

#include "tensors.h"

namespace geotdm {

class TimeEmbedding {
 public:
  // turns [T, 2 (E / 2)] of the frames 0 ... T - 1: cos, sin by turns; dim: E.
  TimeEmbedding(const Matrix& turns, int64_t dim, int64_t reach)
      // Row sigma: [sinusoid(reach - sigma) | 1], so that the bias is one more column of the weight.
      : dim_(dim), lags_(2 * reach + 1), columns_(round_up(dim + 1, k_.panel)), embedded_(zeros({lags_, columns_})) {
    const int64_t n = dim / 2;
    for (int64_t sigma = 0; sigma < lags_; ++sigma) {
      const int64_t tau = reach - sigma;
      const int64_t turn = std::abs(tau) * turns.row_stride;
      float* to = mutable_data(embedded_) + sigma * columns_;
      for (int64_t i = 0; i < n; ++i) {
        const float sine = turns.from[turn + (2 * i + 1) * turns.column_stride];
        to[i] = tau < 0 ? -sine : sine;
        to[n + i] = turns.from[turn + 2 * i * turns.column_stride];
      }
      to[dim] = 1;
    }
  }

  // Row sigma: psi(reach - sigma), [2 reach + 1, H and up to a whole panel that nobody wrote].
  Tensor psi(const Tensor& time_w, const Tensor& time_b) const {
    const Vector bias(time_b);
    const int64_t width = bias.size, columns = round_up(width, k_.panel);
    Weights packed(k_);
    const float* weight = packed.matrix(side_by_side(time_w, {bias.from, width, 1, bias.stride}));
    auto out = empty({lags_, columns});
    k_.gemm(lags_, width, dim_ + 1, data(embedded_), columns_, weight, mutable_data(out), columns, false);
    return out;
  }

  // The gradients of time_w and time_b from that of psi.
  std::pair<Tensor, Tensor> backward(const Matrix& grad_psi) const {
    const int64_t width = grad_psi.columns;
    const auto out = zeros({width, columns_});
    k_.gemm_at(width, dim_ + 1, lags_, grad_psi.from, grad_psi.row_stride, data(embedded_), columns_, mutable_data(out),
               columns_);
    const Matrix grad(out);
    return {dense(grad.slice(0, dim_)), dense(grad.column(dim_))};
  }

 private:
  const Kernels& k_ = kernels(false);
  int64_t dim_, lags_, columns_;
  Tensor embedded_;
};

}  // namespace geotdm
