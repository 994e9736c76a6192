// What the temporal attention kernels are given. Rows are (node, frame); arrays that the op owns have rows `stride`
// floats apart (the width H rounded up to a whole panel).
#pragma once

#include <cstdint>
#include <initializer_list>

namespace geotdm {

struct TemporalSizes {
  int64_t num_nodes, num_frames, dim;
  int64_t width, stride;
  int64_t reach;                 // a frame sees those at most so far away; at most num_frames - 1
  int64_t phases, phase_stride;  // 2 n for n frequencies of the sinusoids, and that padded to whole panels
};

// Matrices packed for x W^T (forward) or dz W (transposed); vectors padded with zeros.
struct TemporalWeights {
  const float *q1, *q2, *k1, *k2, *v1, *v2, *x1;
  const float *q_b1, *q_b2, *k_b1, *k_b2, *v_b1, *v_b2, *x_b1, *x2;
  float x_b2;
};

// psi(t - s) = W [sin f (t - s) | cos f (t - s)] + b for n frequencies f. By the addition theorems both are sums of the
// phases of s, (cos f s | sin f s), by factors of t: so psi is 2 n more columns of keys and values, the same for all
// nodes, between two maps of a query's own row.
struct TimeWeights {
  const float* turns;        // [T, phase_stride]: row t is (cos f t | sin f t)
  const float* phases;       // [T, 2 n], packed: the same rows as values
  const float* phase_keys;   // [2 n, T], packed: the same rows as keys
  const float* to_phases;    // packed for x W, x [rows, H]
  const float* from_phases;  // packed for z W^T, z [rows, 2 n]
  const float* bias;         // b
};

// The hidden layers of the four MLPs before bias and activation, in the order in which they are kept.
enum HiddenLayer { kHiddenQ, kHiddenK, kHiddenV, kHiddenX };

struct TemporalForward {
  TemporalSizes size;
  TemporalWeights weight;
  TimeWeights time;
  const float *x{}, *h{};    // [N, T, D], [N, T, H]
  float *x_out{}, *h_out{};  // [N, T, D], [N, T, H] or null where nobody wants h'
  // Kept for the way back, all or none: [N, T, stride], gate [N, T], hidden [4, N, T, stride] as HiddenLayer.
  float *q{}, *k{}, *v{}, *gate{}, *hidden{};
};

struct TemporalBackward {
  TemporalSizes size;
  TemporalWeights weight, transposed;
  TimeWeights time;
  const float *x{}, *h{}, *q{}, *k{}, *v{}, *gate{}, *hidden{};
  const float *grad_x_out{}, *grad_h_out{};
  float *grad_x{}, *grad_h{};  // [N, T, D], [N, T, H]
};

// One slot of the weights' gradients; see EGCLEdgeSlot.
struct TemporalSlot {
  int64_t q1, q2, k1, k2, v1, v2, x1, q_b1, q_b2, k_b1, k_b2, v_b1, v_b2, x_b1, x2, x_b2, time_b, time, size;
  [[gnu::always_inline]] explicit TemporalSlot(const TemporalSizes& s) {
    const int64_t stride = s.stride;
    int64_t next = 0;
    for (int64_t* matrix : {&q1, &q2, &k1, &k2, &v1, &v2, &x1}) *matrix = next, next += s.width * stride;
    for (int64_t* vector : {&q_b1, &q_b2, &k_b1, &k_b2, &v_b1, &v_b2, &x_b1, &x2, &x_b2, &time_b})
      *vector = next, next += stride;
    time = next;
    size = next + s.width * s.phase_stride;
  }
};

}  // namespace geotdm
