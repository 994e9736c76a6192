// Products of four warps in the background, as the PTX ISA has wgmma.mma_async with one factor in registers: their sums
// are poison until somebody waits for them, and what they read must stay as it is until then.
#pragma once

#include "matrices.h"

namespace geotdm::emulation {

constexpr int kWarpsOfGroup = 4;

// A swizzled matrix [rows x 64] of 16-bit numbers, from a byte of its first row on, and the same byte of another row.
inline int64_t swizzled_byte(int64_t from, int row, int byte) {
  const int64_t plain = from + row * 128 + byte;
  return plain ^ (plain >> 7 & 7) << 4;
}

// What a lane gives to a product.
struct Product {
  float* c;           // [n / 8][4]
  const uint32_t* a;  // [4]
  int64_t b;
  int n;
  bool add;
};

class Products {
 public:
  // For a new block.
  void start(int threads) {
    lanes_.assign(threads, {});
    warps_.assign(threads / kWarp, {});
    groups_.assign((threads / kWarp + kWarpsOfGroup - 1) / kWarpsOfGroup, {});
  }

  void start_products() { lanes_[block.self].started = true; }
  void commit() { ++lanes_[block.self].commits; }

  // For all lanes of a warp, whose arguments are `of`.
  template <class ArgumentOf>
  void multiply(ArgumentOf of, Place place) {
    const Product& one = *static_cast<Product*>(of(0));
    const int first = block.self / kWarp * kWarp;
    for (int lane = 0; lane < kWarp; ++lane) {
      const Product& other = *static_cast<Product*>(of(lane));
      if (!lanes_[first + lane].started)
        block.report("thread %d multiplies in the background without start_products (%s:%d)", first + lane, place.file,
                     place.line);
      if (other.b != one.b)
        block.report("thread %d multiplies by the matrix at byte %lld, thread %d of the warp by that at %lld (%s:%d)",
                     first + lane, static_cast<long long>(other.b), first, static_cast<long long>(one.b), place.file,
                     place.line);
    }
    check_group(one, first, place);
    Matrix matrix{one.b, lanes_[first].commits, read(one, first, place)};
    float a[16][16];
    for_lanes<Product>(of, [&](Product& lane, int g, int t) {
      for (int i = 0; i < 4; ++i)
        for (int half = 0; half < 2; ++half)
          a[g + i % 2 * 8][2 * t + i / 2 * 8 + half] = from_bf16(lane.a[i] >> 16 * half & 0xffff);
    });
    for (int lane = 0; lane < kWarp; ++lane) {
      const Product& mine = *static_cast<Product*>(of(lane));
      Lane& state = lanes_[first + lane];
      Sum& sum = pending(state, mine);
      sum.commit = state.commits;
      for (int i = 0; i < mine.n / 2; ++i) {
        const int row = lane / 4 + i % 4 / 2 * 8, column = i / 4 * 8 + lane % 4 * 2 + i % 2;
        float total = mine.add ? sum.values[i] : 0;
        for (int k = 0; k < 16; ++k) total += a[row][k] * from_bf16(matrix.numbers[16 * column + k]);
        sum.values[i] = total;
      }
      std::memset(mine.c, kPoison, mine.n / 2 * sizeof(float));
      state.factors.push_back({mine.a, {mine.a[0], mine.a[1], mine.a[2], mine.a[3]}, state.commits});
    }
    warps_[first / kWarp].matrices.push_back(std::move(matrix));
    ++block.counts.multiply_async;
  }

  // The products but for those of the newest commits are done; the sums `c` of each lane must be among them.
  template <class ArgumentOf>
  void wait(ArgumentOf of, int newest, Place place) {
    const int first = block.self / kWarp * kWarp, done = lanes_[first].commits - newest;
    std::erase_if(warps_[first / kWarp].matrices, [&](const Matrix& matrix) {
      if (matrix.commit >= done) return false;
      const Product product{nullptr, nullptr, matrix.b, static_cast<int>(matrix.numbers.size()) / 16, false};
      if (read(product, first, place) != matrix.numbers)
        block.report("the matrix at byte %lld was written while thread %d multiplied by it (%s:%d)",
                     static_cast<long long>(matrix.b), first, place.file, place.line);
      return true;
    });
    for (int lane = 0; lane < kWarp; ++lane)
      finish(lanes_[first + lane], *static_cast<float**>(of(lane)), lane + first, done, place);
  }

  // At the end of a thread.
  void check_end() {
    const Lane& lane = lanes_[block.self];
    if (!lane.sums.empty()) block.report("thread %d ends and has not waited for its products", block.self);
    const int warp = block.self / kWarp;
    const size_t others = groups_[warp / kWarpsOfGroup].matrices.size();
    warps_[warp].ended = true;
    if (warps_[warp].products != others)
      block.report("thread %d ends after %zu products, its warpgroup has made %zu", block.self, warps_[warp].products,
                   others);
  }

 private:
  struct Sum {
    float* c;
    int commit;
    std::vector<float> values;
  };
  struct FactorA {
    const uint32_t* a;
    uint32_t before[4];
    int commit;
  };
  struct Lane {
    bool started;
    int commits;
    std::vector<Sum> sums;
    std::vector<FactorA> factors;
  };
  struct Matrix {
    int64_t b;
    int commit;
    std::vector<uint16_t> numbers;  // [n, 16]
  };
  struct Warp {
    bool ended;
    size_t products;
    std::vector<Matrix> matrices;
  };
  struct Group {
    std::vector<int64_t> matrices;  // that its warps multiply by, in their order
  };
  std::vector<Lane> lanes_;
  std::vector<Warp> warps_;
  std::vector<Group> groups_;

  void check_group(const Product& product, int first, Place place) {
    Warp& warp = warps_[first / kWarp];
    const int start = first / kWarp / kWarpsOfGroup * kWarpsOfGroup;
    std::vector<int64_t>& matrices = groups_[start / kWarpsOfGroup].matrices;
    if (start + kWarpsOfGroup > static_cast<int>(warps_.size()))
      block.report("thread %d multiplies in the background, and its warpgroup has not four warps (%s:%d)", first,
                   place.file, place.line);
    if (warp.products == matrices.size()) {
      for (int i = start; i < start + kWarpsOfGroup; ++i)
        if (warps_[i].ended)
          block.report("thread %d multiplies in the background when warp %d has ended (%s:%d)", first, i, place.file,
                       place.line);
      matrices.push_back(product.b);
    }
    if (const int64_t other = matrices[warp.products++]; other != product.b)
      block.report("thread %d multiplies by the matrix at byte %lld, another warp of its group by that at %lld (%s:%d)",
                   first, static_cast<long long>(product.b), static_cast<long long>(other), place.file, place.line);
  }

  std::vector<uint16_t> read(const Product& product, int thread, Place place) const {
    if (product.b % 1024 >= 128 || product.b % 32)
      block.report("thread %d multiplies by columns at byte %lld, which are no 16 of a swizzled matrix (%s:%d)", thread,
                   static_cast<long long>(product.b), place.file, place.line);
    std::vector<uint16_t> numbers;
    for (int row = 0; row < product.n; ++row)
      for (int k = 0; k < 16; ++k)
        numbers.push_back(shared.load_for_product(swizzled_byte(product.b, row, 2 * k), thread, place));
    return numbers;
  }

  static Sum& pending(Lane& lane, const Product& product) {
    for (Sum& sum : lane.sums)
      if (sum.c == product.c) return sum;
    lane.sums.push_back({product.c, 0, {product.c, product.c + product.n / 2}});
    return lane.sums.back();
  }

  void finish(Lane& lane, const float* wanted, int thread, int done, Place place) {
    lane.started = false;
    std::erase_if(lane.factors, [&](const FactorA& factor) {
      if (factor.commit >= done) return false;
      if (std::memcmp(factor.a, factor.before, sizeof factor.before))
        block.report("thread %d wrote to factors before it waited for their product (%s:%d)", thread, place.file,
                     place.line);
      return true;
    });
    std::erase_if(lane.sums, [&](const Sum& sum) {
      if (sum.commit >= done) {
        if (sum.c == wanted)
          block.report("thread %d waits for products, but not for those that it names (%s:%d)", thread, place.file,
                       place.line);
        return false;
      }
      for (size_t i = 0; i < sum.values.size(); ++i)
        if (std::bit_cast<uint32_t>(sum.c[i]) != ~0u)
          block.report("thread %d wrote to sums before it waited for their products (%s:%d)", thread, place.file,
                       place.line);
      std::copy(sum.values.begin(), sum.values.end(), sum.c);
      return true;
    });
  }
};

inline Products products;

}  // namespace geotdm::emulation
