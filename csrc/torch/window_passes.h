// Partial convolutions of two or three axes, ordinary and transposed, by the library's convolution with our passes
// around it; for CPU and CUDA, which bring the passes.
#pragma once

#include "composed.h"
#include "window_library.h"

#include <tuple>
#include <vector>

namespace pconv {

template <class Passes>
std::tuple<Tensor, Tensor, Tensor> window_forward(
    const Passes& passes, const Tensor& input, const MaybeTensor& mask, const Tensor& weight, const MaybeTensor& bias,
    const WindowArguments& a) {
    const WindowCall call = window_call(input, weight, a);
    const Geometry& g = call.g;
    check_bias(g, input, bias);
    const MaskBytes bytes = mask ? mask_bytes(passes, call, input, *mask) : MaskBytes{};
    Ints compact = call.output;
    compact[0] = bytes.images == 1 ? 1 : g.n, compact[1] = g.groups > 1 && bytes.mask.blocks > 1 ? g.groups : 1;
    Tensor new_mask = empty_of(input, compact, ScalarType::Bool), ratios = empty_of(input, compact, ratio_type(g));
    const Ratio ratio{ratios.mutable_data_ptr(), compact[0], compact[1]};
    const bool all_full =
        passes.window_ratio(call, bytes.mask, ratio, static_cast<uint8_t*>(new_mask.mutable_data_ptr()));
    if (g.n == 0) return {empty_in(g.layout, input, call.output), new_mask, ratios};
    const MaybeTensor dense_bias = bias ? MaybeTensor(torch::stable::contiguous(*bias)) : std::nullopt;
    const Tensor x = laid_out_any(input, g.layout);
    const void* const bias_values = dense_bias ? dense_bias->const_data_ptr() : nullptr;
    if constexpr (Passes::in_parts)
        if (const int64_t parts = parts_of_batch(g, weight.numel(), products_of_image(call)); parts > 1 && !all_full) {
            const Tensor y = empty_in(g.layout, input, call.output);
            forward_in_parts(passes, g, parts, x, bytes, ratio, bias_values, 1.0, y, [&](const Tensor& part) {
                return library_convolution(call, a, part, weight, std::nullopt);
            });
            return {y, new_mask, ratios};
        }
    const Tensor masked = bytes.holes ? passes.masked_copy(g, bytes.mask, x) : x;
    // Without holes and borders there is nothing left to renormalise.
    Tensor y = library_convolution(call, a, masked, weight, all_full ? dense_bias : std::nullopt);
    if (!all_full) passes.renormalise(g, ratio, bias_values, 1.0, y);
    return {y, new_mask, ratios};
}

template <class Passes>
std::tuple<Tensor, Tensor, Tensor> window_backward(
    const Passes& passes, const Tensor& grad, const Tensor& input, const MaybeTensor& mask, const Tensor& weight,
    const Tensor& ratios, const WindowArguments& a, bool need_input, bool need_weight, bool need_bias) {
    const WindowCall call = window_call(input, weight, a);
    const Geometry& g = call.g;
    bool fits = grad.dim() == input.dim() && ratios.dim() == input.dim();
    for (int64_t axis = 0; fits && axis < grad.dim(); ++axis)
        fits = grad.size(axis) == call.output[axis] && (axis < 2 || ratios.size(axis) == call.output[axis]);
    PCONV_EXPECT(
        fits && grad.scalar_type() == input.scalar_type() && grad.device() == input.device(),
        "grad: expected the output's shape, dtype and device, got ", shape_of(grad), " for input ", shape_of(input));
    PCONV_EXPECT(
        (ratios.size(0) == 1 || ratios.size(0) == g.n) && (ratios.size(1) == 1 || ratios.size(1) == g.groups) &&
            ratios.scalar_type() == ratio_type(g) && ratios.device() == input.device(),
        "ratio: expected what the forward operator returned, got ", shape_of(ratios));
    const MaskBytes bytes = mask ? mask_bytes(passes, call, input, *mask) : MaskBytes{};
    const Tensor dense_ratios = torch::stable::contiguous(ratios), upstream = laid_out_any(grad, g.layout);
    const Ratio ratio{const_cast<void*>(dense_ratios.const_data_ptr()), ratios.size(0), ratios.size(1)};
    Tensor dx = no_gradient(input), dw = no_gradient(input);
    const bool need_convolution = need_input || need_weight;
    const Tensor x = need_convolution ? laid_out_any(input, g.layout) : input;
    const auto sizes = input.sizes(), of_weight = weight.sizes();
    const auto convolve = [&](const Tensor& scaled, const Tensor& masked) -> std::tuple<Tensor, Tensor> {
        auto [by_input, by_weight] = library_backward(call, a, scaled, masked, weight, need_input, need_weight);
        by_input = need_input ? laid_out_any(by_input, g.layout) : no_gradient(input);
        by_weight = need_weight ? laid_out_any(by_weight, layout_of_any(weight)) : no_gradient(input);
        return {by_input, by_weight};
    };
    if constexpr (Passes::in_parts)
        if (const int64_t parts = parts_of_batch(g, weight.numel(), products_of_image(call));
            parts > 1 && need_convolution) {
            std::vector<double> sums(need_bias ? g.k : 0);
            if (need_input) dx = empty_in(g.layout, input, Ints(sizes.begin(), sizes.end()));
            dw = backward_in_parts(
                passes, g, parts, upstream, x, bytes, ratio, need_input ? MaybeTensor(dx) : std::nullopt, need_weight,
                need_bias ? sums.data() : nullptr, convolve);
            return {dx, dw, passes.bias_gradient(g, input, sums)};
        }
    const auto [scaled, db] = passes.gradients(call, ratio, upstream, need_convolution, need_bias);
    if (!need_convolution) return {dx, dw, db};
    if (g.n == 0) {
        if (need_input) dx = empty_in(g.layout, input, Ints(sizes.begin(), sizes.end()));
        if (need_weight) {
            dw = empty_in(layout_of_any(weight), weight, Ints(of_weight.begin(), of_weight.end()));
            torch::stable::zero_(dw);
        }
        return {dx, dw, db};
    }
    std::tie(dx, dw) = convolve(scaled, bytes.holes && need_weight ? passes.masked_copy(g, bytes.mask, x) : x);
    if (need_input && bytes.holes) passes.clear_holes(g, bytes.mask, dx);
    return {dx, dw, db};
}

}  // namespace pconv
