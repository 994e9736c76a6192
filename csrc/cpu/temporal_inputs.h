// What the op temporal_attention checks and packs before its kernels run: shared by the op and by layer_pairs.
#pragma once

#include "checks.h"
#include "tensors.h"

namespace geotdm {

// The order of TemporalAttentionParams in geotdm_fast/reference/temporal_attention.py.
enum { kQW1, kQB1, kQW2, kQB2, kKW1, kKB1, kKW2, kKB2, kVW1, kVB1, kVW2, kVB2, kXW1, kXB1, kXW2, kXB2, kTimeW, kTimeB };

// Of the op's argument `precision`: 0 float32, 1 tf32, which the CPU takes for float32, 2 bfloat16.
constexpr int64_t kBfloat16 = 2;

// phases: 2 n for n frequencies.
inline TemporalSizes temporal_sizes(const Kernels& k, const Tensor& x, const Tensor& h, int64_t phases,
                                    int64_t window) {
  const int64_t reach = std::min(window, x.size(1) - 1);
  const int64_t stride = round_up(h.size(2), k.panel), phase_stride = round_up(phases, k.panel);
  return {x.size(0), x.size(1), x.size(2), h.size(2), stride, reach, phases, phase_stride};
}

inline void check_temporal_params(const char* op, const Tensors& params, const Tensor& turns, int64_t num_frames,
                                  int64_t width, int64_t precision) {
  const int64_t time_emb_dim = params.size() > kTimeW && params[kTimeW].dim() == 2 ? params[kTimeW].size(1) : 0;
  const ParamShape shapes[] = {
      {"q_w1", width, width},          {"q_b1", width, 0},  {"q_w2", width, width}, {"q_b2", width, 0},
      {"k_w1", width, width},          {"k_b1", width, 0},  {"k_w2", width, width}, {"k_b2", width, 0},
      {"v_w1", width, width},          {"v_b1", width, 0},  {"v_w2", width, width}, {"v_b2", width, 0},
      {"x_w1", width, width},          {"x_b1", width, 0},  {"x_w2", 1, width},     {"x_b2", 1, 0},
      {"time_w", width, time_emb_dim}, {"time_b", width, 0}};
  check_params(op, params, shapes);
  check_tensor(op, "turns", turns, {num_frames, time_emb_dim / 2 * 2});
  check(0 <= precision && precision <= kBfloat16, op, "precision must be 0, 1 or 2, got ", precision);
}

inline void check_temporal(const char* op, const Tensor& x, const Tensor& h, const Tensor& turns, const Tensors& params,
                           int64_t window, int64_t precision) {
  check_rows(op, x, h);
  check(x.size(1) > 0, op, "x must have at least one frame, got ", listed(x.sizes()));
  check(window >= 0, op, "window must not be negative, got ", window);
  check_temporal_params(op, params, turns, x.size(1), h.size(2), precision);
}

inline TemporalWeights temporal_weights(Weights& w, const Tensors& p) {
  return {w.matrix(p[kQW1]), w.matrix(p[kQW2]), w.matrix(p[kKW1]), w.matrix(p[kKW2]),
          w.matrix(p[kVW1]), w.matrix(p[kVW2]), w.matrix(p[kXW1]), w.vector(p[kQB1]),
          w.vector(p[kQB2]), w.vector(p[kKB1]), w.vector(p[kKB2]), w.vector(p[kVB1]),
          w.vector(p[kVB2]), w.vector(p[kXB1]), w.vector(p[kXW2]), *data(p[kXB2])};
}

// turns [T, 2 n], cosine and sine by turns, with all cosines first.
inline Tensor by_kind(const Matrix& turns, int64_t stride) {
  auto out = zeros({turns.rows, stride});
  const int64_t n = turns.columns / 2;
  for (int64_t t = 0; t < turns.rows; ++t)
    for (int64_t k = 0; k < n; ++k)
      for (int64_t kind = 0; kind < 2; ++kind)
        mutable_data(out)[t * stride + kind * n + k] =
            turns.from[t * turns.row_stride + (2 * k + kind) * turns.column_stride];
  return out;
}

// turns: of `by_kind`, which must live as long.
inline TimeWeights time_weights(Weights& w, const Tensor& turns, const Tensors& p, int64_t num_phases) {
  const Matrix phases = Matrix(turns).slice(0, num_phases), weight = Matrix(p[kTimeW]).slice(0, num_phases);
  return {data(turns),          w.transposed(phases), w.transposed(phases.t()),
          w.transposed(weight), w.matrix(weight),     w.vector(p[kTimeB])};
}

}  // namespace geotdm
