// The weights of a pair of layers, EGCL and temporal attention, as their kernels read them, in one tensor: a chain of
// diffusion steps packs them once.
#pragma once

#include "egcl_inputs.h"
#include "temporal_inputs.h"

namespace geotdm {

// Floats that a packed matrix [k, n] fits into, of whatever instruction set and precision with panels so wide.
inline int64_t matrix_room(int64_t k, int64_t n, int64_t panel) { return round_up(k, 32) * round_up(n, panel); }

// phases: 2 n for n frequencies.
struct PairSizes {
  int64_t width, num_frames, phases;
};

struct PackedPair {
  EGCLWeights egcl;
  TemporalWeights attention;
  TimeWeights time;

  // f(part, floats, room) for every array, in the order of the tensor, in which it has room for so many floats.
  template <typename F>
  void each_array(const Kernels& of_egcl, const Kernels& of_attention, const PairSizes& size, const F& f) {
    const auto [width, num_frames, phases] = size;
    const int64_t panel = of_egcl.panel, stride = round_up(width, panel), room = matrix_room(width, width, panel);
    const int64_t of_turns = num_frames * round_up(phases, panel);
    for (const float** matrix :
         {&egcl.receiver, &egcl.sender, &egcl.edge2, &egcl.coord1, &egcl.node1_h, &egcl.node1_m, &egcl.node2})
      f(*matrix, of_egcl.packed_size(width, width), room);
    for (const float** matrix :
         {&attention.q1, &attention.q2, &attention.k1, &attention.k2, &attention.v1, &attention.v2, &attention.x1})
      f(*matrix, of_attention.packed_size(width, width), room);
    const auto of_time = [&](const float*& matrix, int64_t k, int64_t n) {
      f(matrix, of_attention.packed_size(k, n), matrix_room(k, n, panel));
    };
    of_time(time.phases, num_frames, phases), of_time(time.phase_keys, phases, num_frames);
    of_time(time.to_phases, width, phases), of_time(time.from_phases, phases, width);
    f(time.turns, of_turns, of_turns);
    for (const float** vector :
         {&egcl.edge_b1, &egcl.distance, &egcl.edge_b2, &egcl.coord_b1, &egcl.coord2, &egcl.node_b1, &egcl.node_b2,
          &attention.q_b1, &attention.q_b2, &attention.k_b1, &attention.k_b2, &attention.v_b1, &attention.v_b2,
          &attention.x_b1, &attention.x2, &time.bias})
      f(*vector, stride, stride);
  }
};

// The first two panels hold a number each. `geotdm_fast/ops/fakes.py` has the same sum.
inline int64_t packed_pair_size(const Kernels& of_egcl, const Kernels& of_attention, const PairSizes& size) {
  int64_t total = 2 * of_egcl.panel;
  PackedPair{}.each_array(of_egcl, of_attention, size, [&](const float*, int64_t, int64_t room) { total += room; });
  return total;
}

inline void write_packed_pair(PackedPair pair, const Kernels& of_egcl, const Kernels& of_attention,
                              const PairSizes& size, float* to) {
  std::fill(to, to + 2 * of_egcl.panel, 0.0f);
  to[0] = pair.egcl.coord_b2, to[of_egcl.panel] = pair.attention.x_b2;
  to += 2 * of_egcl.panel;
  pair.each_array(of_egcl, of_attention, size, [&](const float* part, int64_t floats, int64_t room) {
    std::fill(std::copy_n(part, floats, to), to + room, 0.0f);
    to += room;
  });
}

inline PackedPair read_packed_pair(const float* from, const Kernels& of_egcl, const Kernels& of_attention,
                                   const PairSizes& size) {
  PackedPair pair{};
  pair.egcl.coord_b2 = from[0], pair.attention.x_b2 = from[of_egcl.panel];
  from += 2 * of_egcl.panel;
  pair.each_array(of_egcl, of_attention, size, [&](const float*& part, int64_t, int64_t room) {
    part = from;
    from += room;
  });
  return pair;
}

}  // namespace geotdm
