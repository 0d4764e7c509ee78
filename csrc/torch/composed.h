// A layer of one source by the library's convolution, with our passes around it: all layers on a CPU, and on a GPU
// those that the fused kernels do not take.
#pragma once

#include "library.h"

namespace pconv {

// Passes: CpuPasses or CudaPasses. all_full: every ratio is known to be 1.
template <class Passes>
Tensor composed_forward(
    const Passes& passes, const Geometry& g, const Tensor& x, const MaskBytes& mask, const Tensor& weight,
    const MaybeTensor& bias, const Ratio& ratio, bool all_full, const ConvolutionArguments& arguments,
    double negative_slope) {
    // Two passes are left out where they would change nothing: the select without holes, the epilogue without ratios.
    const Tensor masked = mask.holes ? passes.masked_copy(g, mask.mask, x) : x;
    const bool plain = all_full && negative_slope == 1;
    Tensor y = convolution(masked, fitting(g, weight), plain ? bias : std::nullopt, arguments);
    y = laid_out(y, g.layout);
    if (!plain) passes.renormalise(g, ratio, bias ? bias->const_data_ptr() : nullptr, negative_slope, y);
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

}  // namespace pconv
