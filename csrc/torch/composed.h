// A layer of one source by the library's convolution, with our passes around it: all layers on a CPU, and on a GPU
// those that the fused kernels do not take.
#pragma once

#include "batch_parts.h"
#include "library.h"

namespace pconv {

inline int64_t products_of_image(const Geometry& g) { return g.p * g.q * g.k * (g.c / g.groups) * g.r * g.s; }

// Passes: CpuPasses or CudaPasses. all_full: every ratio is known to be 1.
template <class Passes>
Tensor composed_forward(
    const Passes& passes, const Geometry& g, const Tensor& x, const MaskBytes& mask, const Tensor& weight,
    const MaybeTensor& bias, const Ratio& ratio, bool all_full, const ConvolutionArguments& arguments,
    double negative_slope) {
    // Two passes are left out where they would change nothing: the select without holes, the epilogue without ratios.
    const bool plain = all_full && negative_slope == 1;
    const void* const bias_values = bias ? bias->const_data_ptr() : nullptr;
    const Tensor filters = fitting(g, weight);
    if constexpr (Passes::in_parts)
        if (const int64_t parts = parts_of_batch(g, weight.numel(), products_of_image(g)); parts > 1 && !plain) {
            const Tensor y = empty_in(g.layout, x, {g.n, g.k, g.p, g.q});
            forward_in_parts(passes, g, parts, x, mask, ratio, bias_values, negative_slope, y, [&](const Tensor& part) {
                return laid_out(convolution(part, filters, std::nullopt, arguments), g.layout);
            });
            return y;
        }
    const Tensor masked = mask.holes ? passes.masked_copy(g, mask.mask, x) : x;
    Tensor y = convolution(masked, filters, plain ? bias : std::nullopt, arguments);
    y = laid_out(y, g.layout);
    if (!plain) passes.renormalise(g, ratio, bias_values, negative_slope, y);
    return y;
}

// (of x, of weight); scaled: ratio * gradient.
template <class Passes>
std::tuple<Tensor, Tensor> composed_backward(
    const Passes& passes, const Geometry& g, const Tensor& x, const MaskBytes& mask, const Tensor& weight,
    const Tensor& scaled, const ConvolutionArguments& arguments, bool need_input, bool need_weight) {
    // The forward's masked copy was not kept: making it again costs a pass, keeping it would cost the memory of the
    // input once more. dx does not need it: whatever the convolution finds under a hole is cleared afterwards.
    const Tensor masked = mask.holes && need_weight ? passes.masked_copy(g, mask.mask, x) : x;
    const auto [grad_input, grad_weight] =
        convolution_backward(scaled, masked, fitting(g, weight), arguments, need_input, need_weight);
    Tensor dx = no_gradient(x), dw = no_gradient(x);
    if (need_input) {
        dx = laid_out(grad_input, g.layout);
        if (mask.holes) passes.clear_holes(g, mask.mask, dx);
    }
    if (need_weight) dw = laid_out(grad_weight, layout_of(weight));
    return {dx, dw};
}

// The same from the gradient itself, a part of the batch at a time.
template <class Passes>
std::tuple<Tensor, Tensor> composed_backward_in_parts(
    const Passes& passes, const Geometry& g, int64_t parts, const Tensor& x, const MaskBytes& mask,
    const Tensor& weight, const Tensor& upstream, const Ratio& ratio, double* sums,
    const ConvolutionArguments& arguments, bool need_input, bool need_weight) {
    const MaybeTensor dx = need_input ? MaybeTensor(empty_in(g.layout, x, {g.n, g.c, g.h, g.w})) : std::nullopt;
    const Tensor filters = fitting(g, weight);
    const Tensor dw = backward_in_parts(
        passes, g, parts, upstream, x, mask, ratio, dx, need_weight, sums,
        [&](const Tensor& scaled, const Tensor& part) -> std::tuple<Tensor, Tensor> {
            const auto [of_input, of_weight] =
                convolution_backward(scaled, part, filters, arguments, need_input, need_weight);
            return {
                need_input ? laid_out(of_input, g.layout) : of_input,
                need_weight ? laid_out(of_weight, layout_of(weight)) : of_weight};
        });
    return {dx ? *dx : no_gradient(x), dw};
}

}  // namespace pconv
