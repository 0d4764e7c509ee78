// Cases of the decoder's stage, their data and their truth: loops in double over the doubled and concatenated tensor,
// written from the definition. Nothing here knows of phases.
#pragma once

#include "device_memory.h"
#include "reference.h"

namespace pconv::test {

// What a mask of the stage looks like.
enum class Holes { no_mask, random, batch1, full, empty };

struct UpcatCase {
    const char* name;
    int64_t n, low_channels, skip_channels, h, w, k;  // h, w: of the small grid
    Holes low, skip;
    bool bias;
};

struct UpcatProblem {
    Geometry g{};  // at full resolution
    int64_t low_channels = 0;
    std::vector<double> low, skip, weight, bias, low_mask, skip_mask;  // NCHW, KCRS
    int64_t low_mask_n = 0, skip_mask_n = 0, ratio_n = 1;              // 0: no mask

    bool is_low(int64_t c) const { return c < low_channels; }
    bool valid(int64_t n, int64_t c, int64_t y, int64_t x) const {
        if (y < 0 || y >= g.h || x < 0 || x >= g.w) return false;
        if (is_low(c))
            return low_mask_n == 0 || low_mask[((low_mask_n > 1 ? n : 0) * (g.h / 2) + y / 2) * (g.w / 2) + x / 2] != 0;
        return skip_mask_n == 0 || skip_mask[((skip_mask_n > 1 ? n : 0) * g.h + y) * g.w + x] != 0;
    }
    // Of the doubled and concatenated input.
    double value(int64_t n, int64_t c, int64_t y, int64_t x) const {
        if (is_low(c)) return low[((n * low_channels + c) * (g.h / 2) + y / 2) * (g.w / 2) + x / 2];
        return skip[((n * (g.c - low_channels) + c - low_channels) * g.h + y) * g.w + x];
    }
};

inline double rounded_to(DType dtype, double value) {
    uint8_t memory[8];
    store_number(dtype, memory, value);
    return load_number(dtype, memory);
}

inline int64_t masks_of(Holes holes, int64_t n) { return holes == Holes::no_mask ? 0 : holes == Holes::batch1 ? 1 : n; }

// Weights are rounded to `weight_type`: their sums in phases are then not exact in it, as in a network.
inline UpcatProblem make_upcat_problem(const UpcatCase& c, DType weight_type, uint64_t seed) {
    UpcatProblem p;
    Random random{seed * 0x9E3779B97F4A7C15ull + 1};
    Geometry& g = p.g;
    g.n = c.n, g.c = c.low_channels + c.skip_channels, g.h = g.p = 2 * c.h, g.w = g.q = 2 * c.w, g.k = c.k;
    g.r = g.s = 3;
    g.stride_h = g.stride_w = g.pad_h = g.pad_w = g.dil_h = g.dil_w = g.groups = 1;
    p.low_channels = c.low_channels;
    const auto fill = [&](std::vector<double>& values, int64_t count) {
        values.resize(size_t(count));
        for (double& value : values) value = random.number();
    };
    fill(p.low, c.n * c.low_channels * c.h * c.w);
    fill(p.skip, c.n * c.skip_channels * g.h * g.w);
    fill(p.weight, g.k * g.c * 9);
    for (double& value : p.weight)
        value = rounded_to(weight_type, value + double(int64_t(random.bits() >> 30 & 15)) / 512);
    if (c.bias) fill(p.bias, g.k);
    // Whole windows die in the top rows, which also makes taps dead that lower rows of a tile still need.
    const auto make_mask = [&](std::vector<double>& mask, Holes holes, int64_t images, int64_t h, int64_t w) {
        for (int64_t i = 0; i < images * h * w; ++i) {
            const bool hole =
                holes == Holes::empty || (holes != Holes::full && (i / w % h < h / 3 || random.chance(0.4)));
            mask.push_back(hole ? 0 : 1 + double(i % 3));  // anything but 0 is valid
        }
    };
    p.low_mask_n = masks_of(c.low, c.n), p.skip_mask_n = masks_of(c.skip, c.n);
    make_mask(p.low_mask, c.low, p.low_mask_n, c.h, c.w);
    make_mask(p.skip_mask, c.skip, p.skip_mask_n, g.h, g.w);
    p.ratio_n = p.low_mask_n > 1 || p.skip_mask_n > 1 ? c.n : 1;
    // What lies in a hole must not matter.
    for (int64_t n = 0; n < g.n; ++n)
        for (int64_t ch = 0; ch < g.c; ++ch)
            for (int64_t y = 0; y < g.h; ++y)
                for (int64_t x = 0; x < g.w; ++x) {
                    if (p.valid(n, ch, y, x)) continue;
                    const double nan = std::numeric_limits<double>::quiet_NaN();
                    if (p.is_low(ch))
                        p.low[((n * c.low_channels + ch) * c.h + y / 2) * c.w + x / 2] = nan;
                    else
                        p.skip[((n * c.skip_channels + ch - c.low_channels) * g.h + y) * g.w + x] = nan;
                }
    return p;
}

struct UpcatTruth {
    Result y;
    std::vector<double> ratio;  // [ratio_n, H, W]
};

inline UpcatTruth upcat_truth(const UpcatProblem& problem) {
    const Geometry& g = problem.g;
    UpcatTruth truth{Result(g.n * g.k * g.h * g.w), std::vector<double>(size_t(problem.ratio_n * g.h * g.w))};
    for (int64_t n = 0; n < std::max(g.n, problem.ratio_n); ++n)
        for (int64_t p = 0; p < g.h; ++p)
            for (int64_t q = 0; q < g.w; ++q) {
                int64_t count = 0;
                for (int64_t c = 0; c < g.c; ++c)
                    for (int64_t tap = 0; tap < 9; ++tap)
                        count += problem.valid(n, c, p + tap / 3 - 1, q + tap % 3 - 1);
                const double ratio = count > 0 ? double(9 * g.c) / double(count) : 0;
                if (n < problem.ratio_n) truth.ratio[(n * g.h + p) * g.w + q] = ratio;
                if (n >= g.n || count == 0) continue;
                for (int64_t k = 0; k < g.k; ++k) {
                    const int64_t at = ((n * g.k + k) * g.h + p) * g.w + q;
                    for (int64_t c = 0; c < g.c; ++c)
                        for (int64_t tap = 0; tap < 9; ++tap) {
                            const int64_t y = p + tap / 3 - 1, x = q + tap % 3 - 1;
                            if (problem.valid(n, c, y, x))
                                truth.y.add(
                                    at, ratio * problem.weight[(k * g.c + c) * 9 + tap] * problem.value(n, c, y, x));
                        }
                    if (!problem.bias.empty()) truth.y.add(at, problem.bias[k]);
                }
            }
    return truth;
}

struct UpcatGradients {
    Result low, skip, weight, bias;  // NCHW, KCRS
};

// From the same loops: a small pixel gets what each of its four doubles gets. grad: NKHW, NaN where a window is dead.
inline UpcatGradients upcat_gradients(
    const UpcatProblem& problem, const std::vector<double>& ratio, const std::vector<double>& grad) {
    const Geometry& g = problem.g;
    const int64_t low = problem.low_channels, skip = g.c - low, half_h = g.h / 2, half_w = g.w / 2;
    UpcatGradients truth{
        Result(g.n * low * half_h * half_w), Result(g.n * skip * g.h * g.w), Result(g.k * g.c * 9), Result(g.k)};
    for (int64_t i = 0; i < g.n * g.k * g.h * g.w; ++i) {
        const int64_t q = i % g.w, p = i / g.w % g.h, k = i / (g.w * g.h) % g.k, n = i / (g.w * g.h * g.k);
        const double own = ratio[((problem.ratio_n > 1 ? n : 0) * g.h + p) * g.w + q];
        if (own == 0) continue;
        truth.bias.add(k, grad[i]);
        for (int64_t c = 0; c < g.c; ++c)
            for (int64_t tap = 0; tap < 9; ++tap) {
                const int64_t y = p + tap / 3 - 1, x = q + tap % 3 - 1, at = (k * g.c + c) * 9 + tap;
                if (!problem.valid(n, c, y, x)) continue;
                truth.weight.add(at, own * grad[i] * problem.value(n, c, y, x));
                const double share = own * grad[i] * problem.weight[at];
                if (c < low)
                    truth.low.add(((n * low + c) * half_h + y / 2) * half_w + x / 2, share);
                else
                    truth.skip.add(((n * skip + c - low) * g.h + y) * g.w + x, share);
            }
    }
    return truth;
}

}  // namespace pconv::test
