// fp32 channels_last layers and decoder stages by Winograd's products (cpu/winograd_2x2.h): masked as patches are
// gathered, renormalised before a tile is written. PCONV_WINOGRAD: 0 leaves them to the library's convolution, 1 takes
// them wherever that is possible.
#pragma once

#include "cpu_support.h"

#include <cstdlib>
#include <string>

namespace pconv {

// What is finite stays finite; a valid pixel that is not spoils its tile rather than the windows that see it.
inline bool suits_winograd(const Geometry& g, const Sources& s) {
    const char* const wanted = std::getenv("PCONV_WINOGRAD");
    if (wanted && std::string(wanted) == "0") return false;
    if (!s.skip && s.mask.mask.blocks != 1) return false;
    const bool forced = wanted && std::string(wanted) == "1";
    return cpu::takes_winograd_2x2(g, s.low_channels) && (forced || cpu::pays_winograd_2x2(g, s.low_channels));
}

inline const float* floats(const Tensor& tensor) { return static_cast<const float*>(tensor.const_data_ptr()); }

// A stage's two sources, or a layer's one.
inline cpu::WinogradSources winograd_sources(const Sources& s) {
    const auto source = [](const Tensor& x, const MaskBytes& mask) {
        cpu::WinogradSource result{floats(x)};
        if (mask.holes) result.mask = mask.mask;
        return result;
    };
    if (!s.skip) return {source(s.x, s.mask)};
    return {source(*s.skip, s.skip_mask), source(s.x, s.mask), s.low_channels};
}

inline Tensor winograd_forward(
    const Geometry& g, const Sources& s, const Tensor& weight, const MaybeTensor& bias, const Ratio& ratio,
    double negative_slope) {
    Tensor y = empty_in(g.layout, s.x, {g.n, g.k, g.p, g.q});
    cpu::winograd_2x2(
        g, winograd_sources(s), ratio, floats(weight), weight.strides().data(), bias ? floats(*bias) : nullptr,
        float(negative_slope), static_cast<float*>(y.mutable_data_ptr()));
    return y;
}

// (of x, of skip, of weight); scaled: ratio * gradient.
inline std::tuple<Tensor, Tensor, Tensor> winograd_backward(
    const Geometry& g, const Sources& s, const Tensor& weight, const Tensor& scaled, bool need_x, bool need_skip,
    bool need_weight) {
    Tensor dx = no_gradient(s.x), dskip = no_gradient(s.x), dw = no_gradient(s.x);
    cpu::WinogradSources sources = winograd_sources(s);
    const auto wanted = [&](const Tensor& source, Tensor& out) {
        out = empty_in(g.layout, source, {g.n, source.size(1), source.size(2), source.size(3)});
        return static_cast<float*>(out.mutable_data_ptr());
    };
    if (need_x) (s.skip ? sources.low : sources.full).dx = wanted(s.x, dx);
    if (need_skip) sources.full.dx = wanted(*s.skip, dskip);
    if (need_x || need_skip)
        cpu::winograd_2x2_input_gradient(g, sources, floats(weight), weight.strides().data(), floats(scaled));
    if (need_weight) {
        dw = empty_in(layout_of(weight), weight, {g.k, g.c, g.r, g.s});
        cpu::winograd_2x2_weight_gradient(
            g, sources, floats(scaled), static_cast<float*>(dw.mutable_data_ptr()), dw.strides().data());
    }
    return {dx, dskip, dw};
}

}  // namespace pconv
