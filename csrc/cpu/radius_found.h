// Where the neighbour search puts what it finds: edges in the order of their receivers, or a table of fixed capacity.
//
// A searcher asks for room(most), writes the senders of a receiver there, and its images to images() in a periodic box,
// and ends the receiver by keep(row, degree); or by lose(row) where it is near to nothing.
#pragma once

#include <algorithm>
#include <bit>
#include <cstdint>
#include <cstring>
#include <functional>
#include <memory>
#include <mutex>
#include <numeric>
#include <vector>

#include "tensors.h"

namespace geotdm {

// Three int8 and a byte of nothing.
using Image = uint32_t;

// Byte by byte.
inline Image plus(Image a, Image b) {
  constexpr Image kLow = 0x7f7f7f7f;
  return ((a & kLow) + (b & kLow)) ^ ((a ^ b) & ~kLow);
}

inline Image packed_image(int n0, int n1, int n2) {
  const int8_t bytes[4] = {static_cast<int8_t>(n0), static_cast<int8_t>(n1), static_cast<int8_t>(n2), 0};
  Image image;
  std::memcpy(&image, bytes, sizeof image);
  return image;
}

// To [count, 3] int8; nothing is written behind it.
inline void unpack_images(const Image* from, int64_t count, int8_t* to) {
  int64_t done = 0;
  if constexpr (std::endian::native == std::endian::little) {
    for (; done + 4 <= count; done += 4, to += 12) {  // four in two stores
      const uint64_t low = from[done] | uint64_t{from[done + 1]} << 24 | uint64_t{from[done + 2]} << 48;
      const uint32_t high = from[done + 2] >> 16 | from[done + 3] << 8;
      std::memcpy(to, &low, sizeof low);
      std::memcpy(to + 8, &high, sizeof high);
    }
    from += done, count -= done;
  }
  for (int64_t e = 0; e + 1 < count; ++e, to += 3) std::memcpy(to, from + e, sizeof(Image));
  if (count) std::memcpy(to, from + count - 1, 3);
}

// Senders as they are found; where a receiver's edges belong is known only when all are.
class Edges {
 public:
  explicit Edges(int32_t* degree, bool has_images = false) : degree_(degree), has_images_(has_images) {}

  // [2, E]: receivers and senders. image: where there are images, takes them, [E, 3] int8.
  Tensor edge_index(int64_t num_rows, std::optional<Tensor>* image = nullptr) const {
    std::vector<int64_t> first(num_rows + 1, 0);
    for (int64_t row = 0; row < num_rows; ++row) first[row + 1] = first[row] + std::max(degree_[row], 0);
    const int64_t num_edges = first.back();
    auto edges = empty({2, num_edges}, ScalarType::Long);
    int64_t *receiver = mutable_data<int64_t>(edges), *sender = receiver + num_edges;
    int8_t* images = nullptr;
    if (image) {
      *image = empty({num_edges, 3}, ScalarType::Char);
      images = mutable_data<int8_t>(**image);
    }
    parallel(static_cast<int64_t>(blocks_.size()), 0, [&](int64_t begin, int64_t end, float*) {
      for (int64_t b = begin; b < end; ++b) {
        const int32_t* from = blocks_[b]->sender.get();
        const Image* image_from = blocks_[b]->image.get();
        for (const int32_t row : blocks_[b]->row) {
          const int64_t to = first[row], degree = degree_[row];
          std::fill_n(receiver + to, degree, row);
          std::copy_n(from, degree, sender + to);
          from += degree;
          if (!images) continue;
          unpack_images(image_from, degree, images + 3 * to);
          image_from += degree;
        }
      }
    });
    return edges;
  }

  class Found;

 private:
  struct Block {
    Block(int64_t room, bool has_images)
        : size(room), sender(new int32_t[room]), image(has_images ? new Image[room] : nullptr) {}

    int64_t size, used = 0;
    std::unique_ptr<int32_t[]> sender;
    std::unique_ptr<Image[]> image;
    std::vector<int32_t> row;
  };

  Block* add_block(int64_t least) {
    constexpr int64_t kUsual = 1 << 17;
    auto block = std::make_unique<Block>(std::max(least, kUsual), has_images_);
    const std::lock_guard<std::mutex> guard(mutex_);
    return blocks_.emplace_back(std::move(block)).get();
  }

  int32_t* degree_;
  bool has_images_;
  std::mutex mutex_;
  std::vector<std::unique_ptr<Block>> blocks_;
};

class Edges::Found {
 public:
  explicit Found(Edges& all) : all_(all) {}
  int32_t* room(int64_t most) {
    if (!block_ || block_->used + most > block_->size) block_ = all_.add_block(most);
    return block_->sender.get() + block_->used;
  }
  Image* images() { return block_->image.get() + block_->used; }
  void keep(int32_t row, int64_t degree) {
    all_.degree_[row] = static_cast<int32_t>(degree);
    block_->row.push_back(row);
    block_->used += degree;
  }
  void lose(int32_t row) { all_.degree_[row] = -1; }

 private:
  Edges& all_;
  Block* block_ = nullptr;
};

// Senders at a fixed capacity, -1 behind the last; image [rows, capacity, 3], 0 there, where it has them.
class Table {
 public:
  Table(int32_t* sender, int32_t* degree, int64_t capacity)
      : sender_(sender), degree_(degree), capacity_(capacity), has_images_(false), image_(nullptr) {}
  Table(int32_t* sender, int32_t* degree, int64_t capacity, int8_t* image)
      : sender_(sender), degree_(degree), capacity_(capacity), has_images_(true), image_(image) {}
  int32_t* room(int64_t most) {
    const int64_t size = std::max(most, capacity_);
    if (static_cast<int64_t>(found_.size()) < size) {
      found_.resize(size);
      if (has_images_) images_.resize(size);
    }
    return found_.data();
  }
  Image* images() { return images_.data(); }
  void keep(int32_t row, int64_t degree) {
    int32_t* to = sender_ + row * capacity_;
    const int32_t* from = found_.data();
    // a choice, not two loops, which cost more than so few numbers
    for (int64_t k = 0; k < capacity_; ++k) to[k] = k < degree ? from[k] : -1;
    degree_[row] = static_cast<int32_t>(degree);
    if (!has_images_) return;
    const int64_t kept = std::min(degree, capacity_);
    int8_t* image_to = image_ + 3 * row * capacity_;
    unpack_images(images_.data(), kept, image_to);
    if (kept < capacity_) std::memset(image_to + 3 * kept, 0, 3 * (capacity_ - kept));
  }
  void lose(int32_t row) {
    room(0);
    keep(row, 0);
    degree_[row] = -1;
  }

 private:
  int32_t *sender_, *degree_;
  int64_t capacity_;
  bool has_images_;
  int8_t* image_;
  std::vector<int32_t> found_;
  std::vector<Image> images_;
};

}  // namespace geotdm
