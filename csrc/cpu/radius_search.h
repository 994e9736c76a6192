// The distance test of the neighbour search: one receiver and many candidates. radius_search.inc is compiled once for
// each instruction set, without fused multiply-adds, which would round once where the reference rounds twice.
#pragma once

#include <cstdint>

namespace geotdm {

// Candidates come in whole vectors of any instruction set.
constexpr int64_t kMostLanes = 16;

// Writes the names of the candidates with |c - at|^2 <= limit to `found`, in their order; returns how many there are.
// at: [dim]; candidates: [dim] rows, `stride` apart, of `count` numbers, a multiple of kMostLanes, NaN where there is
// none; name: [count]; found: room for `count`.
template <typename S>
using FindNear = int64_t (*)(int64_t dim, const S* at, const S* candidates, int64_t stride, int64_t count, S limit,
                             const int32_t* name, int32_t* found);

// What an edge says of its sender in a periodic box: its row, and its image but for the receiver's part.
struct Sends {
  int32_t row;
  uint32_t image;  // three int8 and a byte of nothing
};

// The same in three dimensions for squares that are not exact: of the candidates that may be near, |c - at|^2 <= upper,
// writes the rows, and the images plus `away`, byte by byte. doubtful: set where one of them is above `lower`.
template <typename S>
using FindMaybe = int64_t (*)(const S* at, const S* candidates, int64_t stride, int64_t count, S lower, S upper,
                              const Sends* sends, uint32_t away, int32_t* row, uint32_t* image, bool* doubtful);

struct RadiusSearch {
  FindNear<float> find_float;
  FindNear<double> find_double;
  FindMaybe<float> maybe_float;
  FindMaybe<double> maybe_double;

  FindNear<float> find(float) const { return find_float; }
  FindNear<double> find(double) const { return find_double; }
  FindMaybe<float> maybe(float) const { return maybe_float; }
  FindMaybe<double> maybe(double) const { return maybe_double; }
};

extern const RadiusSearch radius_search_baseline, radius_search_avx2, radius_search_avx512;

// That of the instruction set that `kernels` chooses.
const RadiusSearch& radius_search();

}  // namespace geotdm
