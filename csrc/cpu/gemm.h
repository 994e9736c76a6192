// Small matrix products on tiles that stay in cache: C[M, N] (+)= A[M, K] B[K, N], summed in float32. Rows of C (and of
// every tile) are `padded(N)` floats apart, so that whole vectors may be written.
//
// gemm_float32.h or, for factors rounded to bfloat16, gemm_bf16.h or gemm_amx.h has
//   ProductUnit: an object of it must live while a thread multiplies;
//   packed_rows(k): the floats from row 0 to row k (a multiple of kPanel) of a packed panel, and for the number of all
//     rows, from one panel to the next;
//   pack(packed, b, k, n, k_stride, n_stride): B[k, n] at b[k * k_stride + n * n_stride], into `packed`; a transpose is
//     packed by swapping the strides;
//   multiply(m, n, k, a, a_stride, packed_b, panel_step, c, c_stride, accumulate): C (+)= A B, for B the
//     first k rows of panels that are panel_step floats apart;
//   gemm_at(k, n, m, a, a_stride, b, b_stride, c, c_stride): C[K, N] += A[M, K]^T B[M, N], a weight's gradient from a
//     tile of M rows; A and B as they are, rows padded(K) and padded(N) apart.
#pragma once

#if defined(GEOTDM_AMX)
#include "gemm_amx.h"
#elif defined(GEOTDM_LOW_PRECISION)
#include "gemm_bf16.h"
#else
#include "gemm_float32.h"
#endif

namespace geotdm::GEOTDM_ISA {

inline int64_t packed_size(int64_t k, int64_t n) { return packed_rows(k) * (padded(n) / kPanel); }

// C (+)= A B, B packed.
inline void gemm(int64_t m, int64_t n, int64_t k, const float* a, int64_t a_stride, const float* packed_b, float* c,
                 int64_t c_stride, bool accumulate = false) {
  multiply(m, n, k, a, a_stride, packed_b, packed_rows(k), c, c_stride, accumulate);
}

}  // namespace geotdm::GEOTDM_ISA
