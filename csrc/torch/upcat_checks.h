// What the decoder's stage accepts, for the CPU's and the CUDA operators.
#pragma once

#include "checks.h"

#include <algorithm>

namespace pconv {

// The layout of the results: low's, the bulk of the input. One pixel's strides may say anything: there skip's.
// pconv_cuda/ops_upcat.py has the same rule.
inline Layout upcat_layout(const Tensor& low, const Tensor& skip) {
    return layout_of(low.size(2) * low.size(3) == 1 ? skip : low);
}

// The 3x3 convolution of [low, doubled | skip].
inline Geometry upcat_geometry(const Tensor& low, const Tensor& skip, const Tensor& weight) {
    PCONV_EXPECT(
        low.dim() == 4 && low.size(1) > 0 && low.size(2) > 0 && low.size(3) > 0,
        "low: expected (N, Cu, H / 2, W / 2) of at least one pixel and channel, got ", shape_of(low));
    PCONV_EXPECT(
        skip.dim() == 4 && skip.size(0) == low.size(0) && skip.size(1) > 0 && skip.size(2) == 2 * low.size(2) &&
            skip.size(3) == 2 * low.size(3),
        "skip: expected (", low.size(0), ", Cs, ", 2 * low.size(2), ", ", 2 * low.size(3), ") to fit low ",
        shape_of(low), ", got ", shape_of(skip));
    PCONV_EXPECT(
        weight.dim() == 4 && weight.size(0) > 0 && weight.size(1) == low.size(1) + skip.size(1) &&
            weight.size(2) == 3 && weight.size(3) == 3,
        "weight: expected (K, ", low.size(1) + skip.size(1), ", 3, 3) to fit low ", shape_of(low), " and skip ",
        shape_of(skip), ", got ", shape_of(weight));
    PCONV_EXPECT(
        skip.scalar_type() == low.scalar_type() && weight.scalar_type() == low.scalar_type(),
        "skip, weight: expected low's dtype");
    PCONV_EXPECT(
        skip.device() == low.device() && weight.device() == low.device(), "skip, weight: expected low's device");
    Geometry g{};
    g.n = skip.size(0), g.c = weight.size(1), g.h = g.p = skip.size(2), g.w = g.q = skip.size(3);
    g.k = weight.size(0), g.r = g.s = 3;
    g.stride_h = g.stride_w = g.pad_h = g.pad_w = g.dil_h = g.dil_w = g.groups = 1;
    g.layout = upcat_layout(low, skip);
    g.dtype = dtype_of(low, "low");
    PCONV_EXPECT(g.dtype != DType::u8, "low: expected float64, float32, bfloat16 or float16, got bytes");
    PCONV_EXPECT(g.c * 9 < (int64_t(1) << 31), "weight: a window of 2^31 or more values is not supported");
    return g;
}

inline void check_upcat_mask(const char* name, const Tensor& mask, const Tensor& source) {
    PCONV_EXPECT(mask.device() == source.device(), name, ": expected a tensor on the input's device");
    PCONV_EXPECT(
        mask.dim() == 4 && (mask.size(0) == 1 || mask.size(0) == source.size(0)) && mask.size(1) == 1 &&
            mask.size(2) == source.size(2) && mask.size(3) == source.size(3),
        name, ": expected (", source.size(0), "|1, 1, ", source.size(2), ", ", source.size(3), "), got ",
        shape_of(mask));
}

// Made by upcat_phases; kept by whoever passes it.
inline void check_phases(const Tensor& phases, const Geometry& g, int64_t low_channels) {
    PCONV_EXPECT(
        phases.dim() == 4 && phases.size(0) == 4 * g.k && phases.size(1) == low_channels && phases.size(2) == 2 &&
            phases.size(3) == 2 && dtype_of(phases, "phases") == g.dtype,
        "phases: expected (", 4 * g.k, ", ", low_channels, ", 2, 2) of low's dtype, got ", shape_of(phases));
}

inline void check_phase_arguments(const Tensor& weight, int64_t low_channels) {
    PCONV_EXPECT(
        weight.dim() == 4 && weight.size(0) > 0 && weight.size(2) == 3 && weight.size(3) == 3,
        "weight: expected (K, C, 3, 3), got ", shape_of(weight));
    PCONV_EXPECT(
        low_channels > 0 && low_channels <= weight.size(1), "low_channels: expected 1 to ", weight.size(1), ", got ",
        low_channels);
    PCONV_EXPECT(dtype_of(weight, "weight") != DType::u8, "weight: expected a floating dtype, got bytes");
}

}  // namespace pconv
