// What a kernel may ask of its block, its warp and the instruction set: PTX and intrinsics behind names, so that the
// kernels compile for the host too (-DGEOTDM_EMULATE), against emulation/block.h, which has every name of this file.
#pragma once

#include <cstdint>

#ifdef GEOTDM_EMULATE
#include "emulation/block.h"
#else

#include <cuda_runtime.h>

#define GEOTDM_DEVICE __device__ __forceinline__
#define GEOTDM_ANYWHERE __host__ __device__
#define GEOTDM_UNROLL _Pragma("unroll")
#define GEOTDM_UNROLL_TWICE _Pragma("unroll 2")
#define GEOTDM_UNROLL_FOUR_TIMES _Pragma("unroll 4")
#define GEOTDM_NO_UNROLL _Pragma("unroll 1")

namespace geotdm::cuda {

using Stream = cudaStream_t;

// Loads and stores of one thread move so many bytes at once.
struct alignas(8) Float2 {
  float x, y;
};
struct alignas(16) Float4 {
  float x, y, z, w;
};

GEOTDM_DEVICE int thread_index() { return threadIdx.x; }
GEOTDM_DEVICE int block_threads() { return blockDim.x; }
GEOTDM_DEVICE int64_t block_index() { return blockIdx.x; }
GEOTDM_DEVICE int block_index_y() { return blockIdx.y; }

GEOTDM_DEVICE void sync_block() { __syncthreads(); }
GEOTDM_DEVICE void sync_warp() { __syncwarp(); }
// The value of the lane whose number differs by the bits of `mask`; every lane of the warp calls it.
GEOTDM_DEVICE float shuffle_xor(float value, int mask) { return __shfl_xor_sync(0xffffffffu, value, mask); }

// The same number, of which the compiler does not know that: what follows from it is computed where it is used, and
// does not wait in registers for the next use.
GEOTDM_DEVICE int anew(int value) {
  asm volatile("" : "+r"(value));
  return value;
}

// A place in shared memory. Every access goes through it: the emulation checks bounds, poison and races.
template <class T>
struct Shared {
  T* at;
  GEOTDM_DEVICE Shared operator+(int offset) const { return {at + offset}; }
  GEOTDM_DEVICE T load(int i = 0) const { return at[i]; }
  GEOTDM_DEVICE void store(int i, T value) const { at[i] = value; }
  // Several neighbours at once, as a V (Float2, Float4, uint32_t, ...); the place is aligned to its size.
  template <class V>
  GEOTDM_DEVICE V load_as(int i) const {
    return *reinterpret_cast<const V*>(at + i);
  }
  template <class V>
  GEOTDM_DEVICE void store_as(int i, V value) const {
    *reinterpret_cast<V*>(at + i) = value;
  }
  template <class U>
  GEOTDM_DEVICE Shared<U> as() const {
    return {reinterpret_cast<U*>(at)};
  }
};

// The block's dynamic shared memory.
GEOTDM_DEVICE Shared<unsigned char> shared_memory() {
  extern __shared__ __align__(1024) unsigned char geotdm_shared[];  // as swizzled matrices want it
  return {geotdm_shared};
}

template <class T>
GEOTDM_DEVICE uint32_t shared_address(Shared<T> place) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(place.at));
}

// 16 bytes from global to shared memory, in the background; zeros, and nothing read, where not `inside`.
template <class T>
GEOTDM_DEVICE void copy_async(Shared<T> to, const void* from, bool inside) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(to)), "l"(from),
               "r"(inside ? 16 : 0)
               : "memory");
}
GEOTDM_DEVICE void commit_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }
// Waits for this thread's copies, but for the newest N groups. What other threads copied needs a barrier besides.
template <int N>
GEOTDM_DEVICE void wait_copies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
}

// A line of global memory into the cache that all multiprocessors share, for whoever reads it later.
GEOTDM_DEVICE void prefetch(const void* line) { asm volatile("prefetch.global.L2 [%0];" ::"l"(line)); }

// Four 8 x 8 matrices of 16-bit numbers. Lane i gives row i % 8 of matrix i / 8, 16 aligned bytes; it gets, of each
// matrix, row i / 4, columns 2 (i % 4) and the next (transposed: column i / 4, those rows), the first in the low half.
template <class T>
GEOTDM_DEVICE void load_matrices(uint32_t (&r)[4], Shared<T> row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address(row))
               : "memory");
}
template <class T>
GEOTDM_DEVICE void load_matrices_transposed(uint32_t (&r)[4], Shared<T> row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address(row))
               : "memory");
}

// c [16 x 8] += a [16 x 16] b [16 x 8], bfloat16 factors. With g = lane / 4 and t = lane % 4 a lane holds
// a: rows g, g + 8, g, g + 8 at columns 2 t, 2 t, 2 t + 8, 2 t + 8 (and the next); b: column g at rows 2 t, 2 t + 8
// (and the next); c: row g at columns 2 t, 2 t + 1, then row g + 8.
GEOTDM_DEVICE void mma_bf16(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// c [16 x 8] += a [16 x 8] b [8 x 8], tf32 factors (float32 whose low 13 bits do not count). A lane holds
// a: rows g, g + 8, g, g + 8 at columns t, t, t + 4, t + 4; b: column g at rows t, t + 4; c as above.
GEOTDM_DEVICE void mma_tf32(float (&c)[4], const float (&a)[4], const float (&b)[2]) {
  asm("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(__float_as_uint(a[0])), "r"(__float_as_uint(a[1])), "r"(__float_as_uint(a[2])), "r"(__float_as_uint(a[3])),
        "r"(__float_as_uint(b[0])), "r"(__float_as_uint(b[1])));
}

// Products of a warpgroup, four warps from one whose number is a multiple of four: wgmma, which compute capability 9.0
// alone has, and only in code compiled for 9.0a. They run in the background. A warp starts some by start_products,
// multiply_async and commit_products; all four warps do so, with the same matrices. Until wait_products nobody touches
// their sums, or writes to their matrices.
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
constexpr bool kHasWarpgroups = true;
#else
constexpr bool kHasWarpgroups = false;
#endif

// What this thread wrote to shared memory is there for products that other threads start after a barrier.
GEOTDM_DEVICE void fence_for_products() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

// The compiler has put the factors into their registers before what follows.
template <int K>
GEOTDM_DEVICE void settle(uint32_t (&a)[K][4]) {
  GEOTDM_UNROLL
  for (int k = 0; k < K; ++k) asm volatile("" : "+r"(a[k][0]), "+r"(a[k][1]), "+r"(a[k][2]), "+r"(a[k][3])::"memory");
}
// Before the first multiply_async; its factors are settled.
GEOTDM_DEVICE void start_products() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
GEOTDM_DEVICE void commit_products() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }

#define GEOTDM_SUMS(c, n) "+f"(c[n][0]), "+f"(c[n][1]), "+f"(c[n][2]), "+f"(c[n][3])
#define GEOTDM_SUMS_8(c, n)                                                                                      \
  GEOTDM_SUMS(c, n), GEOTDM_SUMS(c, n + 1), GEOTDM_SUMS(c, n + 2), GEOTDM_SUMS(c, n + 3), GEOTDM_SUMS(c, n + 4), \
      GEOTDM_SUMS(c, n + 5), GEOTDM_SUMS(c, n + 6), GEOTDM_SUMS(c, n + 7)

// Waits until all products but those of the newest N commits are done, `c`, which they sum, among them.
template <int N>
GEOTDM_DEVICE void wait_products(float (&c)[8][4]) {
  asm volatile("wgmma.wait_group.sync.aligned %32;" : GEOTDM_SUMS_8(c, 0) : "n"(N) : "memory");
}
template <int N>
GEOTDM_DEVICE void wait_products(float (&c)[16][4]) {
  asm volatile("wgmma.wait_group.sync.aligned %64;" : GEOTDM_SUMS_8(c, 0), GEOTDM_SUMS_8(c, 8) : "n"(N) : "memory");
}

// A matrix [8 N x 64] of 16-bit numbers as products read it: rows of 128 bytes, whose eight pieces of 16 bytes have
// changed places: piece i of row r is in place i ^ r % 8. The matrix begins at a multiple of 1024 bytes.
GEOTDM_ANYWHERE constexpr int swizzled_piece(int row, int piece) { return 8 * row + (piece ^ row % 8); }

// As the descriptor of wgmma: groups of eight rows are 1024 bytes apart, swizzled by 128 bytes.
struct SwizzledMatrix {
  uint32_t low;
  static constexpr uint32_t kHigh = 1024 >> 4 | 1 << 30;
  GEOTDM_DEVICE SwizzledMatrix operator+(int bytes) const { return {low + bytes / 16}; }
  GEOTDM_DEVICE uint64_t bits() const { return uint64_t{kHigh} << 32 | low; }
};
GEOTDM_DEVICE SwizzledMatrix anew(SwizzledMatrix matrix) {
  asm volatile("" : "+r"(matrix.low));
  return matrix;
}
template <class T>
GEOTDM_DEVICE SwizzledMatrix swizzled_matrix(Shared<T> place) {
  return {shared_address(place) >> 4 | 1 << 16};
}

// c [16 x 8 N] (+)= a [16 x 16] b^T, a warp's rows of a and c as in mma_bf16; b [8 N x 16] are columns of a swizzled
// matrix, `b` the matrix and as many bytes as the first of them is from its beginning.
template <bool kAdd>
GEOTDM_DEVICE void multiply_async(float (&c)[8][4], const uint32_t (&a)[4], SwizzledMatrix b) {
  asm volatile(
      "{.reg .pred add; setp.ne.b32 add, %37, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, "
      "%13, %14, %15, %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31}, "
      "{%32, %33, %34, %35}, %36, add, 1, 1, 0;}"
      : GEOTDM_SUMS_8(c, 0)
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b.bits()), "n"(kAdd));
}
template <bool kAdd>
GEOTDM_DEVICE void multiply_async(float (&c)[16][4], const uint32_t (&a)[4], SwizzledMatrix b) {
  asm volatile(
      "{.reg .pred add; setp.ne.b32 add, %69, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, "
      "%13, %14, %15, %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, %32, %33, %34, "
      "%35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, %48, %49, %50, %51, %52, %53, %54, %55, %56, "
      "%57, %58, %59, %60, %61, %62, %63}, {%64, %65, %66, %67}, %68, add, 1, 1, 0;}"
      : GEOTDM_SUMS_8(c, 0), GEOTDM_SUMS_8(c, 8)
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b.bits()), "n"(kAdd));
}

// Two bfloat16 numbers, the first in the low half; to nearest even.
GEOTDM_DEVICE uint32_t pack_bf16(float low, float high) {
  uint32_t packed;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(packed) : "f"(high), "f"(low));
  return packed;
}
GEOTDM_DEVICE float low_bf16(uint32_t packed) { return __uint_as_float(packed << 16); }
GEOTDM_DEVICE float high_bf16(uint32_t packed) { return __uint_as_float(packed & 0xffff0000u); }

// To the nearest number of 10 bits of mantissa, ties away from zero.
GEOTDM_DEVICE float round_tf32(float value) {
  uint32_t bits;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(bits) : "f"(value));
  return __uint_as_float(bits);
}

// The product rounded by itself, never fused with an addition: so that two of the same factors cancel.
GEOTDM_DEVICE float multiply_rounded(float a, float b) { return __fmul_rn(a, b); }

// The nearest number that is finite in every precision; of NaN, some such number.
GEOTDM_DEVICE float finite(float value) { return fminf(fmaxf(value, -3e38f), 3e38f); }

// The same of two bfloat16 numbers.
GEOTDM_DEVICE uint32_t finite_pair(uint32_t packed) {
  const uint32_t most = pack_bf16(3e38f, 3e38f);
  asm("max.bf16x2 %0, %0, %1;" : "+r"(packed) : "r"(most | 0x80008000u));
  asm("min.bf16x2 %0, %0, %1;" : "+r"(packed) : "r"(most));
  return packed;
}

GEOTDM_DEVICE float tanh_approx(float value) {
  float result;
  asm("tanh.approx.f32 %0, %1;" : "=f"(result) : "f"(value));
  return result;
}
GEOTDM_DEVICE float exp2_approx(float value) {
  float result;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(value));
  return result;
}
GEOTDM_DEVICE float exp_exact(float value) { return expf(value); }

// A kernel is a type: `Arguments`, passed by value; `kThreads`, of a block at the most; `kBlocks`, resident on a
// multiprocessor at the least; and `run(const Arguments&)`.
template <class Kernel>
__global__ void __launch_bounds__(Kernel::kThreads, Kernel::kBlocks)
    kernel_entry(const __grid_constant__ typename Kernel::Arguments arguments) {
  Kernel::run(arguments);
}

// The shared memory that a block of the current device may have.
inline int shared_limit() {
  int device = 0, bytes = 0;
  cudaGetDevice(&device);
  cudaDeviceGetAttribute(&bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
  return bytes;
}

// How many blocks run at a time, one on each multiprocessor of the current device.
inline int multiprocessors() {
  int device = 0, count = 0;
  cudaGetDevice(&device);
  cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, device);
  return count;
}

// Whether the current device takes the code of `kernel` that was compiled for 9.0a: elsewhere the kernel is empty and
// for fewer threads.
template <class Kernel>
bool has_warpgroups() {
  cudaFuncAttributes about;
  if (cudaFuncGetAttributes(&about, kernel_entry<Kernel>) != cudaSuccess) return false;
  return about.binaryVersion == 90 && about.maxThreadsPerBlock >= 32 * Kernel::kWarps;
}

// Launches `blocks_x` x `blocks_y` blocks of `threads`; 0 (cudaSuccess) or the error.
template <class Kernel>
int launch(const typename Kernel::Arguments& arguments, int64_t blocks_x, int blocks_y, int threads, int shared_bytes,
           Stream stream) {
  if (blocks_x == 0 || blocks_y == 0) return 0;
  const auto entry = kernel_entry<Kernel>;
  // Not kept in a static: it is a setting of the device, and cheap.
  if (shared_bytes > 48 * 1024)
    if (const auto error = cudaFuncSetAttribute(entry, cudaFuncAttributeMaxDynamicSharedMemorySize, shared_bytes))
      return error;
  void* given[] = {const_cast<typename Kernel::Arguments*>(&arguments)};
  return cudaLaunchKernel(entry, dim3(blocks_x, blocks_y), dim3(threads), given, shared_bytes, stream);
}

inline const char* error_text(int error) { return cudaGetErrorString(static_cast<cudaError_t>(error)); }

}  // namespace geotdm::cuda

#endif
