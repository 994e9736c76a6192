// Kernels for test_cuda_emulation.py: a matrix product as it should be, and one mistake each.
#include "../../csrc/cuda/block.cuh"

using namespace geotdm::cuda;

namespace {

// A step of K: a row of a tile in shared memory is 64 bytes and 16 more, so that load_matrices meets no bank twice.
constexpr int kRowBytes = 64, kStride = kRowBytes + 16, kTile = 64;
constexpr int kBufferBytes = 2 * kTile * kStride;

struct Product {
  const void *a, *b;  // [m, k] and [n, k]
  float* c;           // [m, n]
  int m, n, k;        // k a multiple of kRowBytes / sizeof(Number)
};

// c = a b^T in tiles of 64 x 64: 4 warps of 16 rows each; the next step is copied while this one is multiplied.
template <class Number>
struct TiledProduct {
  using Arguments = Product;
  static constexpr int kThreads = 128, kBlocks = 1;
  static constexpr int kStep = kRowBytes / sizeof(Number);

  GEOTDM_DEVICE static void copy_tile(Shared<unsigned char> to, const void* from, int64_t first, int rows, int k,
                                      int step) {
    for (int i = thread_index(); i < kTile * (kRowBytes / 16); i += kThreads) {
      const int row = i / (kRowBytes / 16), column = i % (kRowBytes / 16) * 16;
      const bool inside = first + row < rows;
      const auto bytes = static_cast<const unsigned char*>(from);
      const int64_t at = ((first + row) * k + step * kStep) * sizeof(Number) + column;
      copy_async(to + (row * kStride + column), inside ? bytes + at : bytes, inside);
    }
  }
  GEOTDM_DEVICE static void copy_step(const Arguments& p, int step) {
    const auto to = shared_memory() + step % 2 * kBufferBytes;
    copy_tile(to, p.a, block_index() * kTile, p.m, p.k, step);
    copy_tile(to + kTile * kStride, p.b, int64_t{block_index_y()} * kTile, p.n, p.k, step);
    commit_copies();
  }
  GEOTDM_DEVICE static void multiply(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
    if constexpr (sizeof(Number) == 2) {
      mma_bf16(c, a, b);
    } else {
      float fa[4], fb[2];
      for (int i = 0; i < 4; ++i) __builtin_memcpy(&fa[i], &a[i], 4);
      for (int i = 0; i < 2; ++i) __builtin_memcpy(&fb[i], &b[i], 4);
      mma_tf32(c, fa, fb);
    }
  }

  GEOTDM_DEVICE static void run(const Arguments& p) {
    const int lane = thread_index() % 32, warp = thread_index() / 32, steps = p.k / kStep;
    float c[kTile / 8][4] = {};
    copy_step(p, 0);
    for (int step = 0; step < steps; ++step) {
      if (step + 1 < steps) {
        copy_step(p, step + 1);
        wait_copies<1>();
      } else {
        wait_copies<0>();
      }
      sync_block();
      const auto tile = shared_memory() + step % 2 * kBufferBytes;
      for (int k = 0; k < kRowBytes; k += 32) {
        uint32_t a[4];
        load_matrices(a, tile + ((warp * 16 + lane % 16) * kStride + k + lane / 16 * 16));
        for (int n = 0; n < kTile; n += 16) {
          uint32_t b[4];
          const int row = n + lane % 8 + lane / 16 * 8;
          load_matrices(b, tile + ((kTile + row) * kStride + k + lane / 8 % 2 * 16));
          multiply(c[n / 8], a, {b[0], b[1]});
          multiply(c[n / 8 + 1], a, {b[2], b[3]});
        }
      }
      sync_block();
    }
    for (int n = 0; n < kTile / 8; ++n)
      for (int i = 0; i < 4; ++i) {
        const int64_t row = block_index() * kTile + warp * 16 + lane / 4 + i / 2 * 8;
        const int column = block_index_y() * kTile + n * 8 + lane % 4 * 2 + i % 2;
        if (row < p.m && column < p.n) p.c[row * p.n + column] = c[n][i];
      }
  }
};

template <class Number>
int product(const Product& p) {
  return launch<TiledProduct<Number>>(p, (p.m + kTile - 1) / kTile, (p.n + kTile - 1) / kTile,
                                      TiledProduct<Number>::kThreads, 2 * kBufferBytes, nullptr);
}

// What load_matrices, transposed or not, gives lane after lane of four 8 x 8 matrices.
struct Matrices {
  const uint16_t* from;  // [4, 8, 8]
  uint32_t* to;          // [32, 4]
  bool transposed;
};
struct LoadOfMatrices {
  using Arguments = Matrices;
  static constexpr int kThreads = 32, kBlocks = 1;
  GEOTDM_DEVICE static void run(const Arguments& p) {
    const auto m = shared_memory().as<uint16_t>();
    for (int i = thread_index(); i < 4 * 8 * 8; i += kThreads) m.store(i, p.from[i]);
    sync_warp();
    uint32_t r[4];
    if (p.transposed)
      load_matrices_transposed(r, m + 8 * thread_index());
    else
      load_matrices(r, m + 8 * thread_index());
    for (int i = 0; i < 4; ++i) p.to[4 * thread_index() + i] = r[i];
  }
};

// The functions of one number or two, for every thread one.
struct Values {
  const float* from;  // [64]
  float* to;          // [7, 64]
};
struct Functions {
  using Arguments = Values;
  static constexpr int kThreads = 64, kBlocks = 1;
  GEOTDM_DEVICE static void run(const Arguments& p) {
    const int i = thread_index();
    const float value = p.from[i], other = shuffle_xor(value, 5);
    const uint32_t packed = pack_bf16(value, other);
    const float results[] = {
        other,           low_bf16(packed), high_bf16(packed), round_tf32(value), tanh_approx(value), exp2_approx(value),
        exp_exact(value)};
    for (int k = 0; k < 7; ++k) p.to[k * kThreads + i] = results[k];
  }
};

// In 64 threads and 256 bytes; `which` says what is done, `out` keeps what is read from being optimized away.
struct Case {
  const void* from;
  float* out;  // [64]
  int which;
};
enum Which {
  kRight,
  kWarpBarrier,
  kReadAfterWrite,
  kWriteAfterRead,
  kWriteAfterReadBeside,
  kWriteAfterReadElsewhere,
  kWriteAfterWrite,
  kWarpBarrierForBlock,
  kMatricesWithoutBarrier,
  kPartOfBlock,
  kPartOfWarp,
  kTwoOperations,
  kTwoBarriers,
  kEarlyEnd,
  kBeyond,
  kBefore,
  kMisaligned,
  kMisalignedRow,
  kMisalignedCopy,
  kMisalignedSource,
  kUnwritten,
  kNotWaited,
  kNotCommitted,
  kNoBarrier,
  kOverwritten,
  kLeftOver,
};
struct Mistake {
  using Arguments = Case;
  static constexpr int kThreads = 64, kBlocks = 1;

  GEOTDM_DEVICE static void run(const Arguments& p) {
    const int i = thread_index();
    const auto numbers = shared_memory().as<float>();
    const auto bytes = static_cast<const unsigned char*>(p.from);
    p.out[i] = 0;
    switch (p.which) {
      case kRight:
        numbers.store(i, i);
        sync_warp();
        p.out[i] = numbers.load(i ^ 1);
        sync_block();
        numbers.store(63 - i, i);
        sync_block();
        p.out[i] += numbers.load(i);
        break;
      case kReadAfterWrite:  // the shuffle orders the threads in any order of the emulation, but nothing in memory
        if (i == 39) numbers.store(39, i);
        p.out[i] = shuffle_xor(i, 1);
        if (i == 40) p.out[i] = numbers.load(39);
        break;
      case kWriteAfterRead:
        numbers.store(i, i);
        sync_block();
        if (i == 39) p.out[i] = numbers.load(40);
        p.out[i] += shuffle_xor(i, 1);
        if (i == 40) numbers.store(40, i);
        break;
      case kWriteAfterReadBeside:
        numbers.store(i, i);
        sync_block();
        if (i == 39) p.out[i] = numbers.load(0);
        p.out[i] += shuffle_xor(i, 1);
        if (i == 40) p.out[i] = numbers.load(0);
        if (i == 40) numbers.store(0, i);
        break;
      case kWriteAfterReadElsewhere:
        numbers.store(i, i);
        sync_block();
        if (i == 39 || i == 2) p.out[i] = numbers.load(0);
        sync_warp();
        if (i == 3) numbers.store(0, i);
        break;
      case kWriteAfterWrite:
        numbers.store(i % 63, i);
        break;
      case kWarpBarrierForBlock:
        numbers.store(i, i);
        sync_block();
        numbers.store(i, 2 * i);
        sync_warp();
        p.out[i] = numbers.load(63 - i);
        break;
      case kWarpBarrier:
        numbers.store(i, i);
        sync_warp();
        p.out[i] = numbers.load(i ^ 1);
        sync_warp();
        numbers.store(i ^ 2, i);
        break;
      case kMatricesWithoutBarrier: {
        if (i >= 32) break;
        if (i < 8) (shared_memory() + 16 * i).as<float>().store_as(0, Float4{});
        uint32_t r[4];
        load_matrices(r, shared_memory() + 16 * (i % 8));
        break;
      }
      case kPartOfBlock:
        if (i != 50) sync_block();
        break;
      case kPartOfWarp:
        if (i != 7) p.out[i] = shuffle_xor(i, 1);
        break;
      case kTwoOperations:
        if (i < 32 || i == 50)
          sync_warp();
        else
          p.out[i] = shuffle_xor(i, 1);
        break;
      case kTwoBarriers:
        if (i < 32)
          sync_block();
        else
          sync_block();
        break;
      case kEarlyEnd:
        if (i >= 32) sync_block();
        break;
      case kBeyond:
        numbers.store(i + 1, i);
        break;
      case kBefore:
        numbers.store(i - 1, i);
        break;
      case kMisaligned:
        (numbers + 2).store_as(0, Float4{});
        break;
      case kMisalignedRow: {
        numbers.store(i, i);
        sync_block();
        uint32_t r[4];
        load_matrices(r, shared_memory() + (i == 3 ? 8 : 0));
        break;
      }
      case kMisalignedCopy:
        copy_async(shared_memory() + 8, bytes, true);
        break;
      case kMisalignedSource:
        copy_async(shared_memory() + 16 * (i % 16), bytes + 4, true);
        break;
      case kUnwritten:
        if (i != 20) numbers.store(i, i);
        sync_block();
        p.out[i] = numbers.load(i);
        break;
      case kNotWaited:
      case kNotCommitted:
      case kNoBarrier:
      case kOverwritten:
      case kLeftOver:
        if (i < 16) {
          copy_async(shared_memory() + 16 * i, bytes + 16 * i, true);
          if (p.which != kNotCommitted) commit_copies();
          if (p.which == kNoBarrier || p.which == kNotCommitted) wait_copies<0>();
          if (p.which == kNotWaited || p.which == kNotCommitted) p.out[i] = numbers.load(4 * i);
          if (p.which == kOverwritten) numbers.store(4 * i, i);
        }
        p.out[i] = shuffle_xor(i, 1);
        if (p.which == kNoBarrier && i == 31) p.out[i] = numbers.load(0);
        break;
    }
  }
};

// c [64, 8 N] = a [64, 64] b^T by one warpgroup, as it should be or with one mistake. b [8 N, 64] comes by copies.
struct InBackground {
  const uint16_t *a, *b;
  float* c;
  int which;
};
enum BackgroundMistake {
  kNone,
  kNoFence,
  kFenceBeforeWriting,
  kFenceAfterBarrier,
  kNoBarrierAfterFence,
  kNotStarted,
  kSumsRead,
  kSumsWritten,
  kFactorsWritten,
  kMatrixWritten,
  kMatrixCopiedOver,
  kProductsNotCommitted,
  kWaitedForOthers,
  kProductsLeftOver,
  kThreeWarps,
  kTwoMatrices,
  kTwoMatricesInWarp,
  kBetweenColumns,
};
template <int N>
struct ProductInBackground {
  using Arguments = InBackground;
  static constexpr int kThreads = 128, kBlocks = 1, kBytes = 8 * N * 128;

  GEOTDM_DEVICE static void run(const Arguments& p) {
    const int lane = thread_index() % 32, first = thread_index() / 32 * 16 + lane / 4;
    const auto memory = shared_memory();
    if (p.which == kFenceBeforeWriting) fence_for_products();
    for (int i = thread_index(); i < 8 * N * 8; i += kThreads)
      copy_async(memory + 16 * swizzled_piece(i / 8, i % 8), p.b + 8 * i, true);
    commit_copies();
    wait_copies<0>();
    if (p.which != kNoFence && p.which != kFenceBeforeWriting && p.which != kFenceAfterBarrier) fence_for_products();
    if (p.which != kNoBarrierAfterFence) sync_block();
    if (p.which == kFenceAfterBarrier) fence_for_products();

    uint32_t a[4][4];
    for (int k = 0; k < 4; ++k)
      for (int i = 0; i < 4; ++i)
        __builtin_memcpy(&a[k][i], p.a + (first + i % 2 * 8) * 64 + 16 * k + i / 2 * 8 + lane % 4 * 2, 4);
    float c[N][4];
    int columns = 0;
    if (p.which == kTwoMatrices && thread_index() >= 96) columns = 32;
    if (p.which == kTwoMatricesInWarp && thread_index() == 37) columns = 32;
    if (p.which == kBetweenColumns) columns = 16;
    const SwizzledMatrix b = swizzled_matrix(memory);
    settle(a);
    if (p.which != kNotStarted) start_products();
    if (p.which != kThreeWarps || thread_index() < 96) {
      multiply_async<false>(c, a[0], b + columns);
      for (int k = 1; k < 4; ++k) multiply_async<true>(c, a[k], b + (32 * k + columns) % 128);
    }
    if (p.which != kProductsNotCommitted) commit_products();
    if (p.which == kSumsRead) p.c[thread_index()] = c[0][0];
    if (p.which == kSumsWritten && thread_index() == 70) c[N - 1][3] = 1;
    if (p.which == kFactorsWritten && thread_index() == 70) a[1][2] ^= 1;
    if (p.which == kMatrixWritten || p.which == kMatrixCopiedOver) sync_block();
    if (p.which == kMatrixWritten && thread_index() == 70) memory.as<float>().store(5, 1);
    if (p.which == kMatrixWritten) {
      fence_for_products();
      sync_block();
    }
    if (p.which == kMatrixCopiedOver && thread_index() == 0) copy_async(memory, p.b, true);
    if (p.which == kWaitedForOthers)
      wait_products<1>(c);
    else if (p.which != kProductsLeftOver)
      wait_products<0>(c);
    if (p.which == kSumsRead) return;
    for (int n = 0; n < N; ++n)
      for (int i = 0; i < 4; ++i) p.c[(first + i / 2 * 8) * 8 * N + 8 * n + lane % 4 * 2 + i % 2] = c[n][i];
  }
};

}  // namespace

#define EXPORT extern "C" __attribute__((visibility("default")))

EXPORT int product_bf16(const Product* p) { return product<uint16_t>(*p); }
EXPORT int product_tf32(const Product* p) { return product<float>(*p); }
EXPORT int matrices(const Matrices* p) {
  return launch<LoadOfMatrices>(*p, 1, 1, LoadOfMatrices::kThreads, 512, nullptr);
}
EXPORT int functions(const Values* p) { return launch<Functions>(*p, 1, 1, Functions::kThreads, 0, nullptr); }
EXPORT int mistake(const Case* p, int64_t blocks, int shared_bytes) {
  return launch<Mistake>(*p, blocks, 1, Mistake::kThreads, shared_bytes, nullptr);
}
EXPORT int product_in_background_64(const InBackground* p) {
  return launch<ProductInBackground<8>>(*p, 1, 1, 128, ProductInBackground<8>::kBytes, nullptr);
}
EXPORT int product_in_background_128(const InBackground* p) {
  return launch<ProductInBackground<16>>(*p, 1, 1, 128, ProductInBackground<16>::kBytes, nullptr);
}
