// The decoder's stage on a CPU: torch's own convolution of the small picture by the four phases at once, and of the
// skip, with our passes around them. Neither the doubled nor the joined tensor is made, but where the picture is so
// small that the phases' own cost would be more than they save.
#include "cpu_support.h"
#include "schemas.h"
#include "upcat_checks.h"

#include <torch/csrc/stable/library.h>

namespace pconv {
namespace {

const Ints kOne{1, 1};

// Multiplications an output channel and an input channel: 16 for each of (H / 2 + 1) (W / 2 + 1) places against 36 for
// each small pixel. The phases' 16 values have to be made and laid out for the library in every call, measured as the
// time of about 1000 multiplications.
bool phases_pay(const Geometry& g) {
    const int64_t h = g.h / 2, w = g.w / 2;
    return g.n * (36 * h * w - 16 * (h + 1) * (w + 1)) > 1000;
}

// Everything about one call that both passes need.
struct Stage {
    Geometry g, low_geometry, skip_geometry;
    int64_t low_channels, ratio_n;
    MaskBytes low_mask, skip_mask;
    Tensor valid;  // [ratio_n, 2, H, W], both masks at full resolution
    Tensor low, skip, weight;

    Stage(
        const Tensor& given_low, const MaybeTensor& given_low_mask, const Tensor& given_skip,
        const MaybeTensor& given_skip_mask, const Tensor& given_weight)
        : g(upcat_geometry(given_low, given_skip, given_weight)),
          low_geometry(g),
          skip_geometry(g),
          low_channels(given_low.size(1)),
          low(laid_out(given_low, g.layout)),
          skip(laid_out(given_skip, g.layout)),
          weight(given_weight) {
        low_geometry.c = low_channels, low_geometry.h = g.h / 2, low_geometry.w = g.w / 2;
        skip_geometry.c = g.c - low_channels;
        read_mask("low_mask", given_low_mask, low, low_mask);
        read_mask("skip_mask", given_skip_mask, skip, skip_mask);
        ratio_n = std::max(low_mask.images, skip_mask.images);
        valid = empty_of(low, {ratio_n, 2, g.h, g.w}, ScalarType::Byte);
        auto* bytes = static_cast<uint8_t*>(valid.mutable_data_ptr());
        cpu::upcat_masks(g, low_mask.mask, skip_mask.mask, ratio_n, bytes);
    }

    static void read_mask(const char* name, const MaybeTensor& given, const Tensor& source, MaskBytes& result) {
        if (!given) return;
        check_upcat_mask(name, *given, source);
        pconv::read_mask(result, *given, name);
    }

    Mask both() const {
        return mask_of(static_cast<const uint8_t*>(valid.const_data_ptr()), ratio_n, g.h * g.w, 2, low_channels);
    }

    Tensor masked_low() const { return low_mask.holes ? masked_copy(low_geometry, low_mask.mask, low) : low; }
    Tensor masked_skip() const { return skip_mask.holes ? masked_copy(skip_geometry, skip_mask.mask, skip) : skip; }

    // A view; torch's convolution lays it out as it needs it.
    Tensor skip_weight() const {
        Tensor whole = weight;
        return fitting(g, torch::stable::narrow(whole, 1, low_channels, g.c - low_channels));
    }

    Tensor joined() const {
        Tensor out = empty_in(g.layout, low, {g.n, g.c, g.h, g.w});
        cpu::upcat_join(
            g, low_channels, low.const_data_ptr(), skip.const_data_ptr(), both().bytes, ratio_n,
            out.mutable_data_ptr());
        return out;
    }
};

Tensor phases_of(Tensor weight, int64_t low_channels) {
    check_phase_arguments(weight, low_channels);
    Tensor phases = empty_in(Layout::nhwc, weight, {4 * weight.size(0), low_channels, 2, 2});
    cpu::upcat_phases(
        dtype_of(weight, "weight"), weight.size(0), low_channels, weight.const_data_ptr(), weight.strides().data(),
        phases.mutable_data_ptr());
    return phases;
}

std::tuple<Tensor, Tensor, Tensor> forward(
    Tensor low, MaybeTensor low_mask, Tensor skip, MaybeTensor skip_mask, Tensor weight, MaybeTensor bias,
    MaybeTensor phases, int64_t, double negative_slope) {
    const Stage stage(low, low_mask, skip, skip_mask, weight);
    const Geometry& g = stage.g;
    check_bias(g, low, bias);
    if (phases) check_phases(*phases, g, stage.low_channels);
    Tensor new_mask = empty_of(low, {stage.ratio_n, 1, g.h, g.w}, ScalarType::Bool);
    Tensor ratios =
        empty_of(low, {stage.ratio_n, 1, g.h, g.w}, g.dtype == DType::f64 ? ScalarType::Double : ScalarType::Float);
    const Ratio ratio{ratios.mutable_data_ptr(), stage.ratio_n, 1};
    cpu::window_ratio(g, stage.both(), ratio, static_cast<uint8_t*>(new_mask.mutable_data_ptr()));
    if (g.n == 0) return {empty_in(g.layout, low, {g.n, g.k, g.h, g.w}), new_mask, ratios};

    const MaybeTensor dense_bias = bias ? MaybeTensor(torch::stable::contiguous(*bias)) : std::nullopt;
    const void* bias_values = dense_bias ? dense_bias->const_data_ptr() : nullptr;
    if (!phases_pay(g)) {
        Tensor y = convolution(stage.joined(), fitting(g, weight), std::nullopt, kOne, kOne, kOne, 1);
        y = laid_out(y, g.layout);
        cpu::renormalise(g, ratio, bias_values, negative_slope, y.mutable_data_ptr());
        return {y, new_mask, ratios};
    }
    const Tensor filters = phases ? *phases : phases_of(weight, stage.low_channels);
    Tensor up = convolution(stage.masked_low(), fitting(g, filters), std::nullopt, kOne, kOne, kOne, 1);
    Tensor y = convolution(stage.masked_skip(), stage.skip_weight(), std::nullopt, kOne, kOne, kOne, 1);
    up = laid_out(up, g.layout), y = laid_out(y, g.layout);
    cpu::upcat_finish(g, ratio, up.const_data_ptr(), bias_values, negative_slope, y.mutable_data_ptr());
    return {y, new_mask, ratios};
}

// dw's two halves from the convolutions' own gradients.
Tensor joined_weight_gradient(const Stage& stage, const Tensor& phases_grad, const Tensor& skip_grad) {
    const Geometry& g = stage.g;
    Tensor dw = empty_in(layout_of(stage.weight), stage.weight, {g.k, g.c, 3, 3});
    cpu::upcat_fold(
        g.dtype, g.k, stage.low_channels, phases_grad.const_data_ptr(), phases_grad.strides().data(),
        dw.mutable_data_ptr(), dw.strides().data());
    Tensor half = torch::stable::narrow(dw, 1, stage.low_channels, g.c - stage.low_channels);
    torch::stable::copy_(half, skip_grad);
    return dw;
}

std::tuple<Tensor, Tensor, Tensor, Tensor> backward(
    Tensor grad, Tensor low, MaybeTensor low_mask, Tensor skip, MaybeTensor skip_mask, Tensor weight, Tensor ratios,
    bool need_low, bool need_skip, bool need_weight, bool need_bias, int64_t) {
    const Stage stage(low, low_mask, skip, skip_mask, weight);
    const Geometry& g = stage.g;
    check_gradient(g, grad, low, ratios);
    const Tensor dense_ratios = torch::stable::contiguous(ratios);
    const Ratio ratio{const_cast<void*>(dense_ratios.const_data_ptr()), ratios.size(0), 1};
    const Tensor upstream = laid_out(grad, g.layout);
    // Outputs that nobody asked for are empty; each its own, for an operator's outputs must not be one tensor.
    Tensor dlow = empty_of(low, {0}, low.scalar_type()), dskip = empty_of(low, {0}, low.scalar_type());
    Tensor dw = empty_of(low, {0}, low.scalar_type()), scaled;
    Tensor db = empty_of(low, {need_bias ? g.k : 0}, low.scalar_type());
    const bool need_inputs = need_low || need_skip, need_convolution = need_inputs || need_weight;
    if (need_convolution) scaled = torch::stable::empty_like(upstream);
    cpu::scale_gradient(
        g, ratio, upstream.const_data_ptr(), need_convolution ? scaled.mutable_data_ptr() : nullptr,
        need_bias ? db.mutable_data_ptr() : nullptr);
    if (!need_convolution) return {dlow, dskip, dw, db};

    if (need_low) dlow = empty_in(g.layout, low, {g.n, stage.low_channels, g.h / 2, g.w / 2});
    if (need_skip) dskip = empty_in(g.layout, low, {g.n, g.c - stage.low_channels, g.h, g.w});
    if (!phases_pay(g)) {
        const auto [dx, dweight] = convolution_backward(
            scaled, stage.joined(), fitting(g, weight), kOne, kOne, kOne, 1, need_inputs, need_weight);
        if (need_inputs)
            cpu::upcat_part(
                g, stage.low_channels, laid_out(dx, g.layout).const_data_ptr(),
                need_low ? dlow.mutable_data_ptr() : nullptr, need_skip ? dskip.mutable_data_ptr() : nullptr);
        if (need_weight) dw = laid_out(dweight, layout_of(weight));
    } else {
        Tensor phases_grad, skip_grad;
        if (need_low || need_weight) {
            Tensor up = empty_in(g.layout, low, {g.n, 4 * g.k, g.h / 2 + 1, g.w / 2 + 1});
            cpu::upcat_spread(g, scaled.const_data_ptr(), up.mutable_data_ptr());
            const Tensor filters = phases_of(weight, stage.low_channels);
            const auto [dx, dphases] = convolution_backward(
                up, need_weight ? stage.masked_low() : stage.low, fitting(g, filters), kOne, kOne, kOne, 1, need_low,
                need_weight);
            if (need_low) dlow = laid_out(dx, g.layout);
            phases_grad = dphases;
        }
        if (need_skip || need_weight) {
            const auto [dx, dweight] = convolution_backward(
                scaled, need_weight ? stage.masked_skip() : stage.skip, stage.skip_weight(), kOne, kOne, kOne, 1,
                need_skip, need_weight);
            if (need_skip) dskip = laid_out(dx, g.layout);
            skip_grad = dweight;
        }
        if (need_weight) dw = joined_weight_gradient(stage, phases_grad, skip_grad);
    }
    // Whatever the convolutions found under a hole is cleared.
    if (need_low && stage.low_mask.holes)
        cpu::masked_copy(stage.low_geometry, stage.low_mask.mask, dlow.const_data_ptr(), dlow.mutable_data_ptr());
    if (need_skip && stage.skip_mask.holes)
        cpu::masked_copy(stage.skip_geometry, stage.skip_mask.mask, dskip.const_data_ptr(), dskip.mutable_data_ptr());
    // Each gradient in its own input's layout.
    if (need_low) dlow = laid_out(dlow, layout_of(low));
    if (need_skip) dskip = laid_out(dskip, layout_of(skip));
    return {dlow, dskip, dw, db};
}

}  // namespace
}  // namespace pconv

STABLE_TORCH_LIBRARY_IMPL(pconv_cuda, CPU, m) {
    m.impl("partial_conv2d_upcat", TORCH_BOX(&pconv::forward));
    m.impl("partial_conv2d_upcat_backward", TORCH_BOX(&pconv::backward));
    m.impl("upcat_phases", TORCH_BOX(&pconv::phases_of));
}
