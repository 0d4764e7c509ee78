// The holes of a mask as lists of blocks, 16 pixels of a row each. Blocks that the plate may couple are one hole: two
// rows apart or less, and side by side or one above the other. Holes are then problems of their own, each solved by
// itself in a window of the picture while it lies in the cache.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <numeric>
#include <vector>

namespace pconv::cpu {

constexpr int64_t kBlock = 16;
constexpr int64_t kReach = 2;  // of the plate, in pixels

struct HoleBlock {
    int32_t y, x;  // of its first pixel
};

using Hole = std::vector<HoleBlock>;  // in order of rows, then columns

class HoleFinder {
  public:
    // mask: [h, w], 0 in holes.
    HoleFinder(const uint8_t* mask, int64_t h, int64_t w) {
        for (int64_t y = 0; y < h; ++y) {
            row_begin_.push_back(blocks_.size());
            const uint8_t* const row = mask + y * w;
            for (int64_t x = 0; x < w; x += kBlock) {
                const void* const zero = std::memchr(row + x, 0, size_t(w - x));
                if (!zero) break;
                x = (static_cast<const uint8_t*>(zero) - row) / kBlock * kBlock;
                blocks_.push_back({int32_t(y), int32_t(x)});
            }
        }
        row_begin_.push_back(blocks_.size());
        join(h);
    }

    // In the order of their first blocks.
    std::vector<Hole> holes() {
        std::vector<Hole> found;
        std::vector<size_t> number(blocks_.size());
        for (size_t b = 0; b < blocks_.size(); ++b) {
            const size_t first = root(b);
            if (first == b) {
                number[b] = found.size();
                found.emplace_back();
            }
            found[number[first]].push_back(blocks_[b]);
        }
        return found;
    }

  private:
    Hole blocks_;
    std::vector<size_t> row_begin_, parent_;

    size_t root(size_t b) {
        while (parent_[b] != b) b = parent_[b] = parent_[parent_[b]];
        return b;
    }
    // The smaller number stays the root, so that a hole's root is its first block.
    void unite(size_t a, size_t b) {
        a = root(a), b = root(b);
        parent_[std::max(a, b)] = std::min(a, b);
    }
    void join(int64_t h) {
        parent_.resize(blocks_.size());
        std::iota(parent_.begin(), parent_.end(), size_t(0));
        for (int64_t y = 0; y < h; ++y)
            for (int64_t below = y; below <= std::min(y + kReach, h - 1); ++below) {
                size_t other = row_begin_[below];
                for (size_t b = row_begin_[y]; b < row_begin_[y + 1]; ++b) {
                    while (other < row_begin_[below + 1] && blocks_[other].x < blocks_[b].x - kBlock) ++other;
                    for (size_t at = other; at < row_begin_[below + 1] && blocks_[at].x <= blocks_[b].x + kBlock; ++at)
                        unite(b, at);
                }
            }
    }
};

}  // namespace pconv::cpu
