// What the drivers of the decoder's stage share: cases, dtypes, tensors on the device, comparisons, the command line.
#pragma once

#include "upcat_reference.h"

#include "cuda/host/run.h"

#include <set>
#include <sstream>

namespace pconv::test {

inline constexpr UpcatCase upcat_cases[] = {
    {"smallest", 1, 8, 8, 1, 1, 8, Holes::random, Holes::random, true},
    {"ragged", 2, 24, 40, 3, 5, 21, Holes::random, Holes::random, true},
    {"odd_channels", 2, 5, 3, 4, 3, 7, Holes::random, Holes::random, true},
    {"row", 3, 8, 16, 1, 7, 8, Holes::random, Holes::random, false},
    {"column", 2, 16, 8, 7, 1, 12, Holes::random, Holes::batch1, true},
    // So many pixels that no reduction is shared out.
    {"width_4", 3, 8, 8, 11, 2, 8, Holes::random, Holes::random, true},
    {"chunks", 1, 72, 136, 3, 3, 16, Holes::random, Holes::random, true},
    {"low_without_mask", 2, 16, 8, 4, 5, 16, Holes::no_mask, Holes::random, true},
    {"skip_without_mask", 2, 16, 8, 4, 5, 16, Holes::random, Holes::no_mask, true},
    {"no_masks", 3, 8, 8, 3, 3, 16, Holes::no_mask, Holes::no_mask, true},
    {"masks_of_batch_1", 3, 8, 16, 4, 4, 8, Holes::batch1, Holes::batch1, true},
    {"no_holes", 1, 8, 8, 3, 4, 8, Holes::full, Holes::full, false},
    {"low_is_a_hole", 2, 16, 16, 3, 4, 8, Holes::empty, Holes::random, true},
    {"skip_is_a_hole", 2, 16, 16, 3, 4, 8, Holes::random, Holes::empty, true},
    {"nothing_but_holes", 2, 16, 16, 3, 4, 8, Holes::empty, Holes::empty, true},
    {"empty_batch", 0, 8, 8, 2, 3, 8, Holes::batch1, Holes::batch1, true},
    {"patches", 1, 8, 16, 8, 16, 80, Holes::random, Holes::random, true},
    {"patches_of_256", 2, 16, 8, 16, 16, 24, Holes::random, Holes::random, true},
    {"tiles_of_128", 1, 40, 24, 9, 17, 136, Holes::random, Holes::random, true},
    // More than 64 filters and low channels, which wgmma takes.
    {"many_filters", 1, 72, 24, 3, 5, 72, Holes::random, Holes::random, true},
    // The last stage's own kernel: as many filters as the skip has channels.
    {"last", 2, 24, 3, 5, 7, 3, Holes::random, Holes::random, true},
    {"last_in_tiles", 1, 72, 3, 13, 18, 3, Holes::random, Holes::random, true},
    {"last_grey", 2, 13, 1, 3, 17, 1, Holes::random, Holes::batch1, false},
    {"last_of_four", 2, 136, 4, 2, 5, 4, Holes::batch1, Holes::random, true},
    {"last_smallest", 3, 8, 3, 1, 1, 3, Holes::random, Holes::random, true},
    {"last_low_is_a_hole", 1, 8, 3, 4, 3, 3, Holes::empty, Holes::random, true},
    {"last_skip_is_a_hole", 2, 16, 3, 3, 4, 3, Holes::random, Holes::empty, true},
    {"last_no_masks", 2, 8, 3, 4, 3, 3, Holes::no_mask, Holes::no_mask, true},
    {"last_shared_masks", 2, 8, 3, 4, 3, 3, Holes::batch1, Holes::batch1, true},
};

struct Options {
    std::set<std::string> only, dtypes{"bf16", "f16", "f32", "tf32", "f64"};
    int arch = 80;
    int64_t shared_bytes = 227 << 10;
    bool quick = false;
};

struct Kind {
    const char* name;
    DType dtype;
    bool tf32;
    double rounding, sums;  // as in operators.cpp
};

inline constexpr Kind kinds[] = {
    {"bf16", DType::bf16, false, 1.0 / 256, 4e-6},
    {"f16", DType::f16, false, 1.0 / 2048, 4e-6},
    {"f32", DType::f32, false, 6e-8, 1e-6},
    {"tf32", DType::f32, true, 6e-8, 4e-6},
    {"f64", DType::f64, false, 1.2e-16, 1e-14}};

inline int failures = 0, comparisons = 0;

inline void report(const std::string& what, const char* words) {
    std::printf("MISMATCH %s: %s\n", what.c_str(), words);
    ++failures;
}

inline void compare(
    const std::string& what, const std::vector<double>& ours, const std::vector<double>& truth,
    const std::vector<double>& magnitude, double rounding, double sums) {
    ++comparisons;
    for (size_t i = 0; i < truth.size(); ++i) {
        const double allowed = rounding * std::fabs(truth[i]) + (sums > 0 ? sums * magnitude[i] + 1e-30 : 0);
        if (std::fabs(ours[i] - truth[i]) <= allowed) continue;
        std::printf("MISMATCH %s[%zu]: %.9g, expected %.9g +- %.2g\n", what.c_str(), i, ours[i], truth[i], allowed);
        ++failures;
        return;
    }
}

// NCHW (or KCRS) -> the layout that is tested, and back.
inline std::vector<double> permuted(
    const std::vector<double>& values, Layout layout, int64_t n, int64_t c, int64_t plane, bool back) {
    if (layout == Layout::nchw) return values;
    std::vector<double> result(values.size());
    for (int64_t i = 0; i < n; ++i)
        for (int64_t j = 0; j < c; ++j)
            for (int64_t at = 0; at < plane; ++at) {
                const int64_t nchw = (i * c + j) * plane + at, nhwc = (i * plane + at) * c + j;
                (back ? result[nchw] : result[nhwc]) = values[back ? nhwc : nchw];
            }
    return result;
}

// A problem's tensors on the device.
struct Tensors {
    Geometry g;
    Buffer low, skip, weight, bias, low_mask, skip_mask;

    Tensors(const UpcatProblem& p, DType dtype, Layout layout)
        : g(p.g),
          low(dtype, permuted(p.low, layout, g.n, p.low_channels, g.h / 2 * (g.w / 2), false)),
          skip(dtype, permuted(p.skip, layout, g.n, g.c - p.low_channels, g.h * g.w, false)),
          weight(dtype, permuted(p.weight, layout, g.k, g.c, 9, false)),
          bias(dtype, p.bias),
          low_mask(DType::u8, p.low_mask),
          skip_mask(DType::u8, p.skip_mask) {
        g.dtype = dtype, g.layout = layout;
    }

    cuda::Strides weight_strides() const {
        return g.layout == Layout::nchw ? cuda::Strides{{g.c * 9, 9, 3, 1}} : cuda::Strides{{g.c * 9, 1, 3 * g.c, g.c}};
    }

    // What both passes are told.
    void fill(cuda::Layer& result, const UpcatProblem& p, bool tf32) const {
        const auto view = [&](const Buffer& mask, int64_t n, int64_t plane) {
            return mask_of(n ? static_cast<const uint8_t*>(mask.data()) : nullptr, n, plane);
        };
        result.geometry = g;
        result.low_channels = p.low_channels;
        result.mask = view(low_mask, p.low_mask_n, g.h / 2 * (g.w / 2));
        result.skip_mask = view(skip_mask, p.skip_mask_n, g.h * g.w);
        result.tf32 = tf32;
        result.x = low.data(), result.skip = skip.data(), result.weight = weight.data();
        result.weight_strides = weight_strides();
        result.ratio_n = p.ratio_n, result.ratio_groups = 1;
    }

    cuda::Forward call(const UpcatProblem& p, bool tf32) const {
        cuda::Forward result{};
        fill(result, p, tf32);
        result.bias = bias.data();
        result.negative_slope = 1;
        return result;
    }
};

inline std::set<std::string> list_of(const std::string& text) {
    std::set<std::string> result;
    std::istringstream in(text);
    for (std::string part; std::getline(in, part, ',');) result.insert(part);
    return result;
}

inline Options parse(int argc, char** argv) {
    Options options;
    for (int i = 1; i < argc; ++i) {
        const std::string word = argv[i];
        const bool has_value = i + 1 < argc;
        if (word == "--only" && has_value)
            options.only = list_of(argv[++i]);
        else if (word == "--dtypes" && has_value)
            options.dtypes = list_of(argv[++i]);
        else if (word == "--arch" && has_value)
            options.arch = std::atoi(argv[++i]);
        else if (word == "--shared" && has_value)
            options.shared_bytes = std::atoll(argv[++i]);
        else if (word == "--quick")
            options.quick = true;
        else
            std::printf("FAILED: what is %s?\n", word.c_str()), std::exit(1);
    }
    return options;
}

}  // namespace pconv::test
