// Where a hole's unknown pixels lie, level by level, as lists of blocks of 16 pixels of a row. Everything that is done
// per pixel runs over such lists, so work grows with the holes and not with the picture.
//
// A level halves the one above it (a side of 1 stays). A coarse pixel is unknown where all of its pixels are: the
// coarse problems then have the fine one's boundary values, and corrections are 0 outside the holes.
#pragma once

#include "smooth_holes.h"

#include <cstdlib>
#include <memory>
#include <new>

namespace pconv::cpu {

// A plane whose memory the system hands out, cleared, page by page as it is touched.
template <class T>
class Plane {
  public:
    explicit Plane(int64_t count) : memory_(static_cast<T*>(std::calloc(size_t(count), sizeof(T))), std::free) {
        if (!memory_) throw std::bad_alloc();
    }
    T* data() const { return memory_.get(); }

  private:
    std::unique_ptr<T, decltype(&std::free)> memory_;
};

struct SmoothBlock {
    int64_t offset;  // of its first pixel in a plane
    int32_t y, x;
};

struct SmoothLevel {
    int64_t h, w, pitch, size;  // size: elements of a plane, halos included
    double stiffness, tension;
    std::vector<SmoothBlock> unknown;  // blocks with an unknown pixel
    std::vector<float> mask;           // [unknown, 16], 1 where unknown
    std::vector<SmoothBlock> near;     // and those whose values the start needs
    std::vector<float> beside;         // [near, 16], of the first level: 1 where valid and one of 8 neighbours unknown
    std::vector<int32_t> unknown_border, near_border;  // which of them have to be reflected at the picture's border

    int64_t at(int64_t y, int64_t x) const { return (y + kReach) * pitch + kBlock + x; }
    bool at_border(const SmoothBlock& b) const { return b.y < 2 || b.y >= h - 2 || b.x == 0 || b.x + kBlock > w - 2; }
};

// Blocks marked in a map of the level's blocks, listed in order.
class BlockMap {
  public:
    BlockMap(int64_t h, int64_t w) : h_(h), columns_((w + kBlock - 1) / kBlock), map_(h * columns_) {}
    // All blocks that hold a pixel within `reach` of pixels [first, last] of row y.
    void mark(int64_t y, int64_t first, int64_t last, int64_t reach) {
        const int64_t from = std::max<int64_t>(first - reach, 0) / kBlock;
        const int64_t to = std::min((last + reach) / kBlock, columns_ - 1);
        for (int64_t row = std::max<int64_t>(y - reach, 0); row <= std::min(y + reach, h_ - 1); ++row)
            std::memset(map_.data() + row * columns_ + from, 1, size_t(to - from + 1));
    }
    void list(const SmoothLevel& level, std::vector<SmoothBlock>& blocks, std::vector<int32_t>& border) const {
        for (int64_t y = 0; y < h_; ++y) {
            const char* const row = map_.data() + y * columns_;
            for (const char* at = row; (at = static_cast<const char*>(std::memchr(at, 1, row + columns_ - at))); ++at) {
                const int64_t x = (at - row) * kBlock;
                blocks.push_back({level.at(y, x), int32_t(y), int32_t(x)});
                if (level.at_border(blocks.back())) border.push_back(int32_t(blocks.size() - 1));
            }
        }
    }

  private:
    int64_t h_, columns_;
    std::vector<char> map_;
};

// A part of the picture with one hole, whose pixels are the only ones that are unknown there.
struct SmoothWindow {
    int64_t y, x, h, w;

    // With all that the plate reaches from the hole; a border that is not the picture's is out of reach.
    static SmoothWindow around(const Hole& hole, int64_t h, int64_t w) {
        int64_t left = w, right = 0;
        for (const HoleBlock& b : hole) left = std::min<int64_t>(left, b.x), right = std::max<int64_t>(right, b.x);
        const int64_t y = std::max<int64_t>(hole.front().y - kReach, 0);
        const int64_t x = std::max<int64_t>(left - kBlock, 0);
        return {y, x, std::min(hole.back().y + kReach + 1, h) - y, std::min(right + 2 * kBlock, w) - x};
    }
};

class SmoothLevels {
  public:
    // mask: [h, w] of the picture, 0 in holes.
    SmoothLevels(const uint8_t* mask, int64_t h, int64_t w, const Hole& hole, double tension)
        : window_(SmoothWindow::around(hole, h, w)) {
        first_level(mask, w, hole, tension);
        while (!levels_.back().unknown.empty()) next_level();
        flags_.reset();
    }
    // The last one has no unknown pixel; the start ends there.
    const std::vector<SmoothLevel>& all() const { return levels_; }
    const SmoothWindow& window() const { return window_; }

  private:
    SmoothWindow window_;
    std::vector<SmoothLevel> levels_;
    std::unique_ptr<Plane<uint8_t>> flags_;  // the last level's unknown pixels, as a plane

    static SmoothLevel shape(int64_t h, int64_t w, double stiffness, double tension) {
        SmoothLevel level{};
        level.h = h, level.w = w, level.stiffness = stiffness, level.tension = tension;
        level.pitch = (w + kBlock - 1) / kBlock * kBlock + 2 * kBlock;
        // Rows a multiple of 1 KiB apart would meet in the same few sets of the cache.
        if (level.pitch % 256 == 0) level.pitch += kBlock;
        level.size = (h + 2 * kReach) * level.pitch + 4 * kBlock;
        return level;
    }

    void add_unknown(SmoothLevel& level, uint8_t* flags, int64_t y, int64_t x, const uint8_t* unknown) {
        level.unknown.push_back({level.at(y, x), int32_t(y), int32_t(x)});
        if (level.at_border(level.unknown.back())) level.unknown_border.push_back(int32_t(level.unknown.size() - 1));
        for (int64_t i = 0; i < kBlock; ++i) level.mask.push_back(float(unknown[i]));
        std::memcpy(flags + level.at(y, x), unknown, kBlock);
    }

    void first_level(const uint8_t* mask, int64_t width, const Hole& hole, double tension) {
        levels_.push_back(shape(window_.h, window_.w, 1 - tension, tension));
        SmoothLevel& level = levels_.back();
        flags_ = std::make_unique<Plane<uint8_t>>(level.size);
        BlockMap near(level.h, level.w);
        for (const HoleBlock& block : hole) {
            const int64_t y = block.y - window_.y, x = block.x - window_.x;
            const uint8_t* const from = mask + block.y * width + block.x;
            uint8_t unknown[kBlock] = {};
            int64_t first = kBlock, last = 0;
            for (int64_t i = 0; i < std::min(kBlock, level.w - x); ++i)
                if (!from[i]) unknown[i] = 1, first = std::min(first, i), last = i;
            add_unknown(level, flags_->data(), y, x, unknown);
            near.mark(y, x + first, x + last, kReach);
        }
        near.list(level, level.near, level.near_border);
        for (const SmoothBlock& block : level.near) {
            const uint8_t* const at = flags_->data() + block.offset;
            for (int64_t i = 0; i < kBlock; ++i) {
                uint8_t any = 0;
                for (const int64_t row : {i - level.pitch, i, i + level.pitch})
                    any |= at[row - 1] | at[row] | at[row + 1];
                level.beside.push_back(block.x + i < level.w && any && !at[i] ? 1.0f : 0.0f);
            }
        }
    }

    void next_level() {
        const SmoothLevel& fine = levels_.back();
        const bool line = fine.h == 1 || fine.w == 1;
        SmoothLevel level =
            shape((fine.h + 1) / 2, (fine.w + 1) / 2, fine.stiffness / (line ? 8 : 4), fine.tension / (line ? 2 : 1));
        auto flags = std::make_unique<Plane<uint8_t>>(level.size);
        BlockMap near(level.h, level.w);
        int64_t done_y = -1, done_x = -1;
        for (size_t b = 0; b < fine.unknown.size(); ++b) {
            const SmoothBlock& block = fine.unknown[b];
            near.mark(block.y / 2, block.x / 2, std::min((block.x + kBlock - 1) / 2, level.w - 1), 1);
            const int64_t y = block.y / 2, x = block.x / 2 / kBlock * kBlock;
            if (block.y % 2 || (y == done_y && x == done_x)) continue;  // both rows' and both halves' answers are one
            done_y = y, done_x = x;
            uint8_t unknown[kBlock] = {};
            bool any = false;
            for (int64_t i = 0; i < std::min(kBlock, level.w - x); ++i) {
                unknown[i] = is_unknown(fine, 2 * y, 2 * (x + i));
                any = any || unknown[i];
            }
            if (any) add_unknown(level, flags->data(), y, x, unknown);
        }
        near.list(level, level.near, level.near_border);
        flags_ = std::move(flags);
        levels_.push_back(std::move(level));
    }

    // Pixels beyond an odd side do not count.
    uint8_t is_unknown(const SmoothLevel& fine, int64_t y, int64_t x) const {
        const uint8_t* const at = flags_->data() + fine.at(y, x);
        const bool below = y + 1 < fine.h, right = x + 1 < fine.w;
        return at[0] && (!right || at[1]) && (!below || at[fine.pitch]) && (!right || !below || at[fine.pitch + 1]);
    }
};

}  // namespace pconv::cpu
