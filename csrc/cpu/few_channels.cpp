// A network's first layer in one pass: a direct convolution of 1 to 4 input channels that masks as it gathers and
// renormalises in registers. x [N, H, W, C] and y [N, P, Q, K] are channels_last fp32.
//
// Such a layer has much output for little arithmetic: a pass before and one after a library's convolution cost it
// 15 to 30 percent. Here y is written once, and where no window has a valid pixel nothing is multiplied.
#include "copy_runs.h"
#include "instruction_set.h"
#include "kernels.h"
#include "parallel.h"

#include <algorithm>
#include <vector>

namespace pconv::cpu {
namespace {

constexpr int64_t kPixels = 6;     // of a register tile
constexpr int64_t kGranule = 16;   // K is a multiple of it: whole vectors of either instruction set
constexpr int64_t kMaxTaps = 512;  // more would leave the near cache, and one running sum lose digits

// One register tile: pixels side by side in a row, and some of their channels.
struct Tile {
    const float* const* rows;  // [R] gathered input rows
    const float* weight;       // [R, segments, length, the tile's channels]
    const float* bias;         // [the tile's channels] or nullptr
    const float* ratio;        // [pixels]
    float* y;                  // [pixels, K], at the tile's first channel
    int64_t column;            // of the first pixel's window in the rows, in floats
    int64_t step;              // floats from one pixel's window to the next one's
    // A window's row is `segments` runs of `length` floats, `jump` apart: one run, or with dilation one for each tap.
    int64_t window_rows, segments, length, jump;
    int64_t channels;      // K
    float negative_slope;  // of the activation, 1: none
};

// Baseline x86 has too few registers, and no fused multiply-add, to keep up with the library; others are untried.
#define PCONV_TILE "few_channels_tile.h"
#include "vector_tiles.h"

// The tile for this machine.
struct Variant {
    void (*compute)(const Tile&, int64_t pixels, int64_t channels) = nullptr;
    int64_t block = kGranule;  // channels of a full tile
};

Variant variant() {
#ifdef PCONV_HAS_TILES
    switch (instruction_set()) {
        case InstructionSet::kAvx512: return {avx512::compute_any, avx512::kBlock};
        case InstructionSet::kAvx2: return {avx2::compute_any, avx2::kBlock};
        case InstructionSet::kBaseline: break;
    }
#endif
    return {};
}

struct alignas(64) Line {
    float values[kGranule];
};

// [K / block, R, S, C, block], the last block narrower: what a tile reads lies in one stretch, vectors aligned.
std::vector<Line> packed(const Geometry& g, const float* weight, const int64_t step[4], int64_t block) {
    std::vector<Line> lines(g.k / kGranule * g.r * g.s * g.c);
    float* out = lines.data()->values;
    for (int64_t first = 0; first < g.k; first += block)
        for (int64_t r = 0; r < g.r; ++r)
            for (int64_t s = 0; s < g.s; ++s)
                for (int64_t c = 0; c < g.c; ++c)
                    for (int64_t k = first; k < std::min(g.k, first + block); ++k)
                        *out++ = weight[k * step[0] + c * step[1] + r * step[2] + s * step[3]];
    return lines;
}

// The input rows under one thread's windows: masked, and with margins of zeros, so that tiles know no bounds.
// Windows overlap, so rows are kept while requests stay within one window's height.
class Rows {
  public:
    Rows(const Geometry& g, const Mask& mask, const float* x)
        : g_(g),
          mask_(mask),
          x_(x),
          count_(std::min((g.r - 1) * g.dil_h + 1, g.h)),
          width_((g.w + 2 * g.pad_w) * g.c),
          held_(count_, -1),
          zeros_(width_),
          values_(count_ * width_) {}

    // Row y of picture n; zeros outside it.
    const float* get(int64_t n, int64_t y) {
        if (y < 0 || y >= g_.h) return zeros_.data();
        const int64_t slot = y % count_, row = n * g_.h + y, floats = g_.w * g_.c;
        float* out = values_.data() + slot * width_;
        if (held_[slot] == row) return out;
        held_[slot] = row;
        const float* source = x_ + row * floats;
        float* inside = out + g_.pad_w * g_.c;
        if (!mask_.bytes) {
            std::copy_n(source, floats, inside);
        } else {
            const uint8_t* valid = mask_.bytes + n * mask_.batch_step + y * g_.w;
            copy_runs(
                reinterpret_cast<const char*>(source), valid, g_.w, g_.c * sizeof(float),
                reinterpret_cast<char*>(inside));
        }
        return out;
    }

  private:
    const Geometry& g_;
    const Mask& mask_;
    const float* x_;
    int64_t count_, width_;
    std::vector<int64_t> held_;  // which row each slot has, counted through all pictures
    std::vector<float> zeros_, values_;
};

}  // namespace

bool suits_few_channels(const Geometry& g, const Mask& mask) {
    return g.layout == Layout::nhwc && g.dtype == DType::f32 && g.groups == 1 && g.c <= 4 && mask.blocks == 1 &&
           g.k % kGranule == 0 && g.c * g.r * g.s <= kMaxTaps && variant().compute;
}

void few_channels(
    const Geometry& g, const Mask& mask, const Ratio& ratio, const float* x, const float* weight,
    const int64_t weight_step[4], const float* bias, float negative_slope, float* y) {
    const Variant tiles = variant();
    const std::vector<Line> lines = packed(g, weight, weight_step, tiles.block);
    const int64_t taps = g.r * g.s * g.c;
    Tile shared{};
    shared.step = g.stride_w * g.c;
    shared.window_rows = g.r;
    shared.segments = g.dil_w == 1 ? 1 : g.s;
    shared.length = taps / g.r / shared.segments;
    shared.jump = g.dil_w * g.c;
    shared.channels = g.k;
    shared.negative_slope = negative_slope;
    // As grain_for has it, a multiplication costing about an eighth of a byte of traffic.
    parallel_for(g.n * g.p, grain_for(g.q * g.k * (taps / 8 + 4)), [&](int64_t begin, int64_t end) {
        Rows gathered(g, mask, x);
        std::vector<const float*> window(g.r);
        Tile t = shared;
        t.rows = window.data();
        for (int64_t row = begin; row < end; ++row) {
            const int64_t n = row / g.p, p = row % g.p;
            for (int64_t r = 0; r < g.r; ++r) window[r] = gathered.get(n, p * g.stride_h - g.pad_h + r * g.dil_h);
            const auto* ratios = static_cast<const float*>(ratio.values) + ((ratio.n == 1 ? 0 : n) * g.p + p) * g.q;
            for (int64_t first = 0; first < g.k; first += tiles.block) {
                const int64_t channels = std::min(tiles.block, g.k - first);
                t.weight = lines.data()->values + first * taps;
                t.bias = bias ? bias + first : nullptr;
                for (int64_t q = 0; q < g.q; q += kPixels) {
                    const int64_t pixels = std::min(kPixels, g.q - q);
                    t.column = q * t.step;
                    t.ratio = ratios + q;
                    t.y = y + (row * g.q + q) * g.k + first;
                    if (std::any_of(t.ratio, t.ratio + pixels, [](float value) { return value > 0; }))
                        tiles.compute(t, pixels, channels);
                    else
                        for (int64_t j = 0; j < pixels; ++j) std::fill_n(t.y + j * g.k, channels, 0.0f);
                }
            }
        }
    });
}

}  // namespace pconv::cpu
