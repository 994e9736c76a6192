// psi(tau) = time_w sinusoid(tau) + time_b for every difference of frames within reach, and the way back. On one thread
// and in float32 whatever the precision: it is little work, and so every run gives the same bits.
#pragma once

#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>

#include <cstdlib>
#include <tuple>

#include "tensors.h"

namespace geotdm {

class TimeEmbedding {
 public:
  // turns [T, 2 (E / 2)] of the frames 0 ... T - 1: cos, sin by turns; dim: E.
  TimeEmbedding(const at::Tensor& turns, int64_t dim, int64_t reach) : dim_(dim), lags_(2 * reach + 1) {
    // Row sigma: [sinusoid(reach - sigma) | 1], so that the bias is one more column of the weight.
    embedded_ = at::zeros({lags_, round_up(dim + 1, k_.panel)}, turns.options());
    const auto dense = turns.contiguous();
    const int64_t n = dim / 2;
    for (int64_t sigma = 0; sigma < lags_; ++sigma) {
      const int64_t tau = reach - sigma;
      const float* turn = data(dense) + std::abs(tau) * 2 * n;
      float* to = mutable_data(embedded_) + sigma * embedded_.size(1);
      for (int64_t i = 0; i < n; ++i) {
        to[i] = tau < 0 ? -turn[2 * i + 1] : turn[2 * i + 1];
        to[n + i] = turn[2 * i];
      }
      to[dim] = 1;
    }
  }

  // Row sigma: psi(reach - sigma), [2 reach + 1, H].
  at::Tensor psi(const at::Tensor& time_w, const at::Tensor& time_b) const {
    const int64_t width = time_w.size(0);
    Weights packed(k_);
    const float* weight = packed.matrix(at::cat({time_w, time_b.unsqueeze(1)}, 1));
    auto out = at::empty({lags_, round_up(width, k_.panel)}, embedded_.options());
    k_.gemm(lags_, width, dim_ + 1, data(embedded_), embedded_.size(1), weight, mutable_data(out), out.size(1), false);
    return out.narrow(1, 0, width);
  }

  // The gradients of time_w and time_b from that of psi, in rows of whole panels.
  std::tuple<at::Tensor, at::Tensor> backward(const at::Tensor& grad_psi) const {
    const int64_t width = grad_psi.size(1), columns = embedded_.size(1);
    auto out = at::zeros({width, columns}, embedded_.options());
    k_.gemm_at(width, dim_ + 1, lags_, data(grad_psi), grad_psi.stride(0), data(embedded_), columns, mutable_data(out),
               columns);
    const auto dense = at::MemoryFormat::Contiguous;
    return {out.narrow(1, 0, dim_).clone(dense), out.select(1, dim_).clone(dense)};
  }

 private:
  const Kernels& k_ = kernels(false);
  int64_t dim_, lags_;
  at::Tensor embedded_;
};

}  // namespace geotdm
