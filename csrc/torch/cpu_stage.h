// The decoder stage on a CPU: torch's own convolution of the small picture by the four phases at once, and of the skip,
// with our passes around them. Neither the doubled nor the joined tensor is made, but where the picture is so small
// that the phases' own cost would be more than they save.
#pragma once

#include "cpu_support.h"

namespace pconv {

const ConvolutionArguments stage_window{{1, 1}, {1, 1}, {1, 1}, 1};

// Multiplications an output channel and an input channel: 16 for each of (H / 2 + 1) (W / 2 + 1) places against 36 for
// each small pixel. The phases' 16 values have to be made and laid out for the library in every call, measured as the
// time of about 1000 multiplications.
inline bool phases_pay(const Geometry& g) {
    const int64_t h = g.h / 2, w = g.w / 2;
    return g.n * (36 * h * w - 16 * (h + 1) * (w + 1)) > 1000;
}

inline Geometry low_geometry(Geometry g, int64_t low_channels) {
    g.c = low_channels, g.h /= 2, g.w /= 2;
    return g;
}

inline Geometry skip_geometry(Geometry g, int64_t low_channels) {
    g.c -= low_channels;
    return g;
}

// Both masks of a stage at full resolution; nothing for other layers.
struct StageMasks {
    MaybeTensor bytes;
    Mask both;  // [ratio_n, 2, H, W]

    StageMasks(const Geometry& g, const Sources& sources) {
        if (!sources.skip) return;
        const int64_t images = sources.ratio_size(g)[0];
        bytes = empty_of(sources.x, {images, 2, g.h, g.w}, ScalarType::Byte);
        auto* const values = static_cast<uint8_t*>(bytes->mutable_data_ptr());
        cpu::upcat_masks(g, sources.mask.mask, sources.skip_mask.mask, images, values);
        both = mask_of(values, images, g.h * g.w, 2, sources.low_channels);
    }
};

inline Tensor masked_low(const Geometry& g, const Sources& s) {
    return s.mask.holes ? CpuPasses{}.masked_copy(low_geometry(g, s.low_channels), s.mask.mask, s.x) : s.x;
}
inline Tensor masked_skip(const Geometry& g, const Sources& s) {
    return s.skip_mask.holes ? CpuPasses{}.masked_copy(skip_geometry(g, s.low_channels), s.skip_mask.mask, *s.skip)
                             : *s.skip;
}

// A view; torch's convolution lays it out as it needs it.
inline Tensor skip_weight(const Geometry& g, const Sources& s, Tensor weight) {
    return fitting(g, torch::stable::narrow(weight, 1, s.low_channels, g.c - s.low_channels));
}

inline Tensor doubled_and_joined(const Geometry& g, const Sources& s, const StageMasks& masks) {
    Tensor out = empty_in(g.layout, s.x, {g.n, g.c, g.h, g.w});
    cpu::upcat_join(
        g, s.low_channels, s.x.const_data_ptr(), s.skip->const_data_ptr(), masks.both.bytes, masks.bytes->size(0),
        out.mutable_data_ptr());
    return out;
}

inline Tensor phases_of(Tensor weight, int64_t low_channels) {
    check_phase_arguments(weight, low_channels);
    Tensor phases = empty_in(Layout::nhwc, weight, {4 * weight.size(0), low_channels, 2, 2});
    cpu::upcat_phases(
        dtype_of(weight, "weight"), weight.size(0), low_channels, weight.const_data_ptr(), weight.strides().data(),
        phases.mutable_data_ptr());
    return phases;
}

inline Tensor stage_forward(
    const Geometry& g, const Sources& s, const StageMasks& masks, const Tensor& weight, const MaybeTensor& bias,
    const MaybeTensor& prepared, const Ratio& ratio, double negative_slope) {
    const void* const bias_values = bias ? bias->const_data_ptr() : nullptr;
    if (!phases_pay(g)) {
        Tensor y = convolution(doubled_and_joined(g, s, masks), fitting(g, weight), std::nullopt, stage_window);
        y = laid_out(y, g.layout);
        cpu::renormalise(g, ratio, bias_values, negative_slope, y.const_data_ptr(), y.mutable_data_ptr());
        return y;
    }
    const Tensor filters = prepared ? *prepared : phases_of(weight, s.low_channels);
    Tensor up = convolution(masked_low(g, s), fitting(g, filters), std::nullopt, stage_window);
    Tensor y = convolution(masked_skip(g, s), skip_weight(g, s, weight), std::nullopt, stage_window);
    up = laid_out(up, g.layout), y = laid_out(y, g.layout);
    cpu::upcat_finish(g, ratio, up.const_data_ptr(), bias_values, negative_slope, y.mutable_data_ptr());
    return y;
}

// dw's two halves from the convolutions' own gradients.
inline Tensor joined_weight_gradient(
    const Geometry& g, int64_t low_channels, const Tensor& weight, const Tensor& phases_grad, const Tensor& skip_grad) {
    Tensor dw = empty_in(layout_of(weight), weight, {g.k, g.c, 3, 3});
    cpu::upcat_fold(
        g.dtype, g.k, low_channels, phases_grad.const_data_ptr(), phases_grad.strides().data(), dw.mutable_data_ptr(),
        dw.strides().data());
    Tensor half = torch::stable::narrow(dw, 1, low_channels, g.c - low_channels);
    torch::stable::copy_(half, skip_grad);
    return dw;
}

// (of low, of skip, of weight), the former two in the geometry's layout; scaled: ratio * gradient.
inline std::tuple<Tensor, Tensor, Tensor> stage_backward(
    const Geometry& g, const Sources& s, const Tensor& weight, const Tensor& scaled, bool need_low, bool need_skip,
    bool need_weight) {
    Tensor dlow = no_gradient(s.x), dskip = no_gradient(s.x), dw = no_gradient(s.x);
    const Geometry low = low_geometry(g, s.low_channels), skip = skip_geometry(g, s.low_channels);
    if (need_low) dlow = empty_in(g.layout, s.x, {g.n, low.c, low.h, low.w});
    if (need_skip) dskip = empty_in(g.layout, s.x, {g.n, skip.c, g.h, g.w});
    if (!phases_pay(g)) {
        const Tensor x = doubled_and_joined(g, s, StageMasks(g, s));
        const auto [dx, dweight] =
            convolution_backward(scaled, x, fitting(g, weight), stage_window, need_low || need_skip, need_weight);
        if (need_low || need_skip)
            cpu::upcat_part(
                g, s.low_channels, laid_out(dx, g.layout).const_data_ptr(),
                need_low ? dlow.mutable_data_ptr() : nullptr, need_skip ? dskip.mutable_data_ptr() : nullptr);
        if (need_weight) dw = laid_out(dweight, layout_of(weight));
    } else {
        Tensor phases_grad, skip_grad;
        if (need_low || need_weight) {
            Tensor up = empty_in(g.layout, s.x, {g.n, 4 * g.k, g.h / 2 + 1, g.w / 2 + 1});
            cpu::upcat_spread(g, scaled.const_data_ptr(), up.mutable_data_ptr());
            const Tensor filters = phases_of(weight, s.low_channels);
            const auto [dx, dphases] = convolution_backward(
                up, need_weight ? masked_low(g, s) : s.x, fitting(g, filters), stage_window, need_low, need_weight);
            if (need_low) dlow = laid_out(dx, g.layout);
            phases_grad = dphases;
        }
        if (need_skip || need_weight) {
            const auto [dx, dweight] = convolution_backward(
                scaled, need_weight ? masked_skip(g, s) : *s.skip, skip_weight(g, s, weight), stage_window, need_skip,
                need_weight);
            if (need_skip) dskip = laid_out(dx, g.layout);
            skip_grad = dweight;
        }
        if (need_weight) dw = joined_weight_gradient(g, s.low_channels, weight, phases_grad, skip_grad);
    }
    // Whatever the convolutions found under a hole is cleared.
    if (need_low && s.mask.holes) cpu::masked_copy(low, s.mask.mask, dlow.const_data_ptr(), dlow.mutable_data_ptr());
    if (need_skip && s.skip_mask.holes)
        cpu::masked_copy(skip, s.skip_mask.mask, dskip.const_data_ptr(), dskip.mutable_data_ptr());
    return {dlow, dskip, dw};
}

}  // namespace pconv
