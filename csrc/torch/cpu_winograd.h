// 3x3 layers and decoder stages of fp32 channels_last by Winograd's products (cpu/winograd_2x2.h): masked as patches are
// gathered, renormalised before a tile is written. PCONV_WINOGRAD=0 leaves them to the library's convolution.
#pragma once

#include "cpu_support.h"

#include <cstdlib>

namespace pconv {

// Fewer channels, and the transforms cost more than they save, in digits first; fewer tiles, and the filters' do. What
// is finite stays so, but a valid pixel that is not spoils its whole tile rather than the windows that see it.
inline bool suits_winograd(const Geometry& g, int64_t low_channels, const Mask& mask) {
    constexpr int64_t kLeastChannels = 64, kLeastTiles = 64;
    static const bool wanted = [] {
        const char* const value = std::getenv("PCONV_WINOGRAD");
        return !value || std::string(value) != "0";
    }();
    const bool window = g.r == 3 && g.s == 3 && g.stride_h == 1 && g.stride_w == 1 && g.pad_h == 1 && g.pad_w == 1 &&
                        g.dil_h == 1 && g.dil_w == 1 && g.groups == 1;
    return wanted && window && g.dtype == DType::f32 && g.layout == Layout::nhwc && g.c >= kLeastChannels &&
           g.k >= kLeastChannels && low_channels % 16 == 0 && (low_channels > 0 || mask.blocks == 1) &&
           g.n * ((g.h + 1) / 2) * ((g.w + 1) / 2) >= kLeastTiles && cpu::has_winograd();
}

inline const float* floats(const Tensor& tensor) { return static_cast<const float*>(tensor.const_data_ptr()); }

inline cpu::Source3x3 source_of(const Tensor& x, const MaskBytes& mask) {
    return {floats(x), x.size(1), mask.holes ? mask.mask.bytes : nullptr, mask.mask.batch_step};
}

// A stage's two sources, or a layer's one.
inline cpu::Input3x3 winograd_input(const Sources& s) {
    if (!s.skip) return {source_of(s.x, s.mask)};
    return {source_of(*s.skip, s.skip_mask), source_of(s.x, s.mask)};
}

inline Tensor winograd_forward(
    const Geometry& g, const Sources& s, const Tensor& weight, const MaybeTensor& bias, const Ratio& ratio,
    double negative_slope) {
    Tensor y = empty_in(g.layout, s.x, {g.n, g.k, g.p, g.q});
    cpu::Output3x3 output{static_cast<float*>(y.mutable_data_ptr())};
    output.bias = bias ? floats(*bias) : nullptr;
    output.negative_slope = float(negative_slope);
    output.ratio = static_cast<const float*>(ratio.values);
    output.ratio_step = ratio.n == 1 ? 0 : g.p * g.q;
    cpu::winograd_2x2(
        {g.n, g.c, g.k, g.h, g.w, false}, winograd_input(s), floats(weight), weight.strides().data(), output);
    return y;
}

// (of x, of skip, of weight); scaled: ratio * gradient.
inline std::tuple<Tensor, Tensor, Tensor> winograd_backward(
    const Geometry& g, const Sources& s, const Tensor& weight, const Tensor& scaled, bool need_x, bool need_skip,
    bool need_weight) {
    Tensor dx = no_gradient(s.x), dskip = no_gradient(s.x), dw = no_gradient(s.x);
    if (need_x || need_skip) {
        const auto gradient_of = [&](const Tensor& source, bool needed, Tensor& out) -> float* {
            if (!needed) return nullptr;
            out = empty_in(g.layout, source, {g.n, source.size(1), source.size(2), source.size(3)});
            return static_cast<float*>(out.mutable_data_ptr());
        };
        const cpu::Input3x3 sources = winograd_input(s);
        cpu::Output3x3 output{s.skip ? gradient_of(*s.skip, need_skip, dskip) : gradient_of(s.x, need_x, dx)};
        output.full_valid = sources.full.valid, output.full_valid_step = sources.full.valid_step;
        if (s.skip) {
            output.low = gradient_of(s.x, need_x, dx);
            output.low_channels = s.low_channels;
            output.low_valid = sources.low.valid, output.low_valid_step = sources.low.valid_step;
        }
        cpu::winograd_2x2(
            {g.n, g.k, g.c, g.h, g.w, true}, {{floats(scaled), g.k}}, floats(weight), weight.strides().data(), output);
    }
    if (need_weight) {
        dw = empty_in(layout_of(weight), weight, {g.k, g.c, 3, 3});
        cpu::winograd_2x2_weight_gradient(
            {g.n, g.c, g.k, g.h, g.w, false}, winograd_input(s), floats(scaled),
            static_cast<float*>(dw.mutable_data_ptr()), dw.strides().data());
    }
    return {dx, dskip, dw};
}

}  // namespace pconv
