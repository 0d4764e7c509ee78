// A case, its data and its truth: loops in double, written from the formulas and from nothing else. Beside each result
// stands its magnitude, the same sum over absolute values, which is what rounding errors are in proportion to.
#pragma once

#include "geometry.h"

#include <cmath>
#include <cstdint>
#include <limits>
#include <string>
#include <vector>

namespace pconv::test {

struct CaseSpec {
    std::string name, mask;
    Geometry g{};
    bool bias = false;
    std::vector<int64_t> mask_channels;
};

struct Random {
    uint64_t state;
    uint64_t bits() { return state ^= state << 13, state ^= state >> 7, state ^= state << 17; }
    // A multiple of 1/16 between -2 and 2: exact in every dtype, tf32 included, so that only sums are rounded.
    double number() { return double(int64_t(bits() >> 20 & 63) - 32) / 16; }
    bool chance(double p) { return double(bits() >> 40) < p * double(1 << 24); }
};

struct Problem {
    Geometry g;
    std::vector<double> x, weight, bias, grad;  // NCHW, KCRS, K, NKPQ
    std::vector<double> mask;                   // [mask_n, blocks, H, W]
    std::vector<int64_t> first;
    int64_t mask_n = 1, blocks = 0;  // blocks == 0: no mask
    int64_t ratio_n = 1, ratio_groups = 1;

    bool valid(int64_t n, int64_t c, int64_t y, int64_t x_) const {
        if (y < 0 || y >= g.h || x_ < 0 || x_ >= g.w) return false;
        if (blocks == 0) return true;
        int64_t b = 0;
        while (c >= first[b + 1]) ++b;
        return mask[(((mask_n > 1 ? n : 0) * blocks + b) * g.h + y) * g.w + x_] != 0;
    }
};

inline Problem make_problem(const CaseSpec& spec, uint64_t seed) {
    Problem p;
    p.g = spec.g;
    Random random{seed * 0x9E3779B97F4A7C15ull + 1};
    const Geometry& g = spec.g;
    const auto fill = [&](std::vector<double>& values, int64_t count) {
        values.resize(size_t(count));
        for (double& value : values) value = random.number();
    };
    fill(p.x, g.n * g.c * g.h * g.w);
    fill(p.weight, g.k * (g.c / g.groups) * g.r * g.s);
    fill(p.grad, g.n * g.k * g.p * g.q);
    if (spec.bias) fill(p.bias, g.k);
    if (spec.mask != "none") {
        p.blocks = spec.mask == "channels" ? g.c : spec.mask == "blocks" ? int64_t(spec.mask_channels.size()) : 1;
        p.mask_n = spec.mask == "batch1" ? 1 : g.n;
        p.first.push_back(0);
        for (int64_t b = 0; b < p.blocks; ++b)
            p.first.push_back(p.first.back() + (spec.mask == "blocks" ? spec.mask_channels[b] : g.c / p.blocks));
        // Whole windows die in the top rows, which also makes taps dead that lower rows of a tile still need.
        for (int64_t i = 0; i < p.mask_n * p.blocks * g.h * g.w; ++i) {
            const bool hole =
                spec.mask == "empty" || (spec.mask != "full" && (i / g.w % g.h < g.h / 3 || random.chance(0.4)));
            p.mask.push_back(hole ? 0 : 1);
        }
    }
    p.ratio_n = p.mask_n;
    p.ratio_groups = spec.mask == "channels" && g.groups > 1 ? g.groups : 1;
    // What lies in a hole must not matter.
    for (int64_t n = 0; n < g.n; ++n)
        for (int64_t c = 0; c < g.c; ++c)
            for (int64_t i = 0; i < g.h * g.w; ++i)
                if (!p.valid(n, c, i / g.w, i % g.w))
                    p.x[(n * g.c + c) * g.h * g.w + i] = std::numeric_limits<double>::quiet_NaN();
    return p;
}

struct Result {
    std::vector<double> value, magnitude;
    explicit Result(int64_t count = 0) : value(size_t(count)), magnitude(size_t(count)) {}
    void add(int64_t at, double product) { value[at] += product, magnitude[at] += std::fabs(product); }
};

struct Truth {
    Result y, dx, dw, db;
    std::vector<double> ratio;  // [ratio_n, ratio_groups, P, Q]
};

// Calls visit(n, k, c, p, q, r, s, y, x) for every product of the convolution whose pixel is valid.
template <class Visit>
void for_each_product(const Problem& problem, const Visit& visit) {
    const Geometry& g = problem.g;
    const int64_t cg = g.c / g.groups, kg = g.k / g.groups;
    for (int64_t n = 0; n < g.n; ++n)
        for (int64_t p = 0; p < g.p; ++p)
            for (int64_t q = 0; q < g.q; ++q)
                for (int64_t c = 0; c < g.c; ++c)
                    for (int64_t r = 0; r < g.r; ++r)
                        for (int64_t s = 0; s < g.s; ++s) {
                            const int64_t y = p * g.stride_h - g.pad_h + r * g.dil_h,
                                          x = q * g.stride_w - g.pad_w + s * g.dil_w;
                            if (!problem.valid(n, c, y, x)) continue;
                            for (int64_t k = c / cg * kg; k < (c / cg + 1) * kg; ++k) visit(n, k, c, p, q, r, s, y, x);
                        }
}

inline std::vector<double> true_ratio(const Problem& problem) {
    const Geometry& g = problem.g;
    const int64_t per_group = g.c / problem.ratio_groups;
    std::vector<double> ratio;
    for (int64_t n = 0; n < problem.ratio_n; ++n)
        for (int64_t group = 0; group < problem.ratio_groups; ++group)
            for (int64_t p = 0; p < g.p; ++p)
                for (int64_t q = 0; q < g.q; ++q) {
                    int64_t count = 0;
                    for (int64_t c = group * per_group; c < (group + 1) * per_group; ++c)
                        for (int64_t r = 0; r < g.r; ++r)
                            for (int64_t s = 0; s < g.s; ++s)
                                count += problem.valid(
                                    n, c, p * g.stride_h - g.pad_h + r * g.dil_h,
                                    q * g.stride_w - g.pad_w + s * g.dil_w);
                    ratio.push_back(count ? double(per_group * g.r * g.s) / double(count) : 0);
                }
    return ratio;
}

inline Truth truth_of(const Problem& problem) {
    const Geometry& g = problem.g;
    const int64_t cg = g.c / g.groups;
    Truth truth{
        Result(g.n * g.k * g.p * g.q), Result(g.n * g.c * g.h * g.w), Result(g.k * cg * g.r * g.s), Result(g.k), {}};
    truth.ratio = true_ratio(problem);
    const auto ratio_at = [&](int64_t n, int64_t k, int64_t p, int64_t q) {
        const int64_t group = problem.ratio_groups > 1 ? k / (g.k / g.groups) : 0;
        return truth.ratio[(((problem.ratio_n > 1 ? n : 0) * problem.ratio_groups + group) * g.p + p) * g.q + q];
    };
    for_each_product(
        problem,
        [&](int64_t n, int64_t k, int64_t c, int64_t p, int64_t q, int64_t r, int64_t s, int64_t y, int64_t x) {
            const int64_t at_y = ((n * g.k + k) * g.p + p) * g.q + q, at_x = ((n * g.c + c) * g.h + y) * g.w + x;
            const int64_t at_w = ((k * cg + c % cg) * g.r + r) * g.s + s;
            const double ratio = ratio_at(n, k, p, q), scaled = ratio * problem.grad[at_y];
            truth.y.add(at_y, ratio * problem.weight[at_w] * problem.x[at_x]);
            truth.dx.add(at_x, scaled * problem.weight[at_w]);
            truth.dw.add(at_w, scaled * problem.x[at_x]);
        });
    for (int64_t i = 0; i < g.n * g.k * g.p * g.q; ++i) {
        const int64_t q = i % g.q, p = i / g.q % g.p, k = i / (g.q * g.p) % g.k, n = i / (g.q * g.p * g.k);
        if (!(ratio_at(n, k, p, q) > 0)) continue;
        if (!problem.bias.empty()) truth.y.add(i, problem.bias[k]);
        truth.db.add(k, problem.grad[i]);
    }
    return truth;
}

}  // namespace pconv::test
