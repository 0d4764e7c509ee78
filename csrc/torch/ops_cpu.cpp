// The operators' schemas, and their CPU kernels: our passes around torch's own convolution (oneDNN), which is called
// through the dispatcher, for the stable ABI has no other way. Autograd is off by the time we are called: Python's
// derivative (pconv_cuda/ops/convolution.py) calls the two operators below and never looks inside them.
#include "cpu_stage.h"
#include "cpu_winograd.h"
#include "schemas.h"

#include <torch/csrc/stable/library.h>

namespace pconv {
namespace {

// One source. all_full: every ratio is 1.
Tensor layer_forward(
    const Geometry& g, const Sources& sources, const Tensor& weight, const MaybeTensor& bias, const Ratio& ratio,
    bool all_full, const ConvolutionArguments& arguments, double negative_slope) {
    const Mask& mask = sources.mask.mask;
    const Tensor& x = sources.x;
    if (!cpu::suits_few_channels(g, mask))
        return composed_forward(
            CpuPasses{}, g, x, sources.mask, weight, bias, ratio, all_full, arguments, negative_slope);
    Tensor y = empty_in(g.layout, x, {g.n, g.k, g.p, g.q});
    cpu::few_channels(
        g, mask, ratio, static_cast<const float*>(x.const_data_ptr()),
        static_cast<const float*>(weight.const_data_ptr()), weight.strides().data(),
        static_cast<const float*>(bias ? bias->const_data_ptr() : nullptr), float(negative_slope),
        static_cast<float*>(y.mutable_data_ptr()));
    return y;
}

std::tuple<Tensor, Tensor, Tensor> forward(
    Tensor input, MaybeTensor mask, MaybeTensor skip, MaybeTensor skip_mask, Tensor weight, MaybeTensor bias,
    Ints stride, Ints padding, Ints dilation, int64_t groups, bool upsample, MaybeTensor prepared, int64_t,
    double negative_slope) {
    const ConvolutionArguments arguments{stride, padding, dilation, groups};
    const Geometry g = geometry_of(input, skip, weight, arguments, upsample);
    check_bias(g, input, bias);
    check_prepared(g, input, prepared, upsample);
    const Sources sources = read_sources(g, input, mask, skip, skip_mask, upsample, read_mask);
    const StageMasks stage(g, sources);
    const Ints compact = sources.ratio_size(g);
    Tensor new_mask = empty_of(input, compact, ScalarType::Bool), ratios = empty_of(input, compact, ratio_type(g));
    const Ratio ratio{ratios.mutable_data_ptr(), compact[0], compact[1]};
    const bool all_full = cpu::window_ratio(
        g, upsample ? stage.both : sources.mask.mask, ratio, static_cast<uint8_t*>(new_mask.mutable_data_ptr()));
    if (g.n == 0)  // torch's convolution would return a view, which may not be written to in place
        return {empty_in(g.layout, input, {g.n, g.k, g.p, g.q}), new_mask, ratios};
    const MaybeTensor dense_bias = bias ? MaybeTensor(torch::stable::contiguous(*bias)) : std::nullopt;
    const bool by_winograd = suits_winograd(g, sources);
    const Tensor y = by_winograd ? winograd_forward(g, sources, weight, dense_bias, ratio, negative_slope)
                     : upsample
                         ? stage_forward(g, sources, stage, weight, dense_bias, prepared, ratio, negative_slope)
                         : layer_forward(g, sources, weight, dense_bias, ratio, all_full, arguments, negative_slope);
    return {y, new_mask, ratios};
}

std::tuple<Tensor, Tensor, Tensor, Tensor> backward(
    Tensor grad, Tensor input, MaybeTensor mask, MaybeTensor skip, MaybeTensor skip_mask, Tensor weight, Tensor ratios,
    Ints stride, Ints padding, Ints dilation, int64_t groups, bool upsample, bool need_input, bool need_skip,
    bool need_weight, bool need_bias, int64_t) {
    const ConvolutionArguments arguments{stride, padding, dilation, groups};
    const Geometry g = geometry_of(input, skip, weight, arguments, upsample);
    check_gradient(g, grad, input, ratios);
    const Sources sources = read_sources(g, input, mask, skip, skip_mask, upsample, read_mask);
    const Tensor dense_ratios = torch::stable::contiguous(ratios), upstream = laid_out(grad, g.layout);
    // The kernels read ratios through the pointer alone; it is not const because the forward writes through it.
    const Ratio ratio{const_cast<void*>(dense_ratios.const_data_ptr()), ratios.size(0), ratios.size(1)};
    Tensor dx = no_gradient(input), dskip = no_gradient(input), dw = no_gradient(input), scaled;
    std::vector<double> sums(need_bias ? g.k : 0);
    double* const bias_sums = need_bias ? sums.data() : nullptr;
    need_skip &= skip.has_value();
    const bool need_inputs = need_input || need_skip, need_convolution = need_inputs || need_weight;
    const bool by_winograd = suits_winograd(g, sources);
    const int64_t parts = parts_of_batch(g, weight.numel(), products_of_image(g));
    if (need_convolution && !skip && !upsample && !by_winograd && parts > 1) {
        std::tie(dx, dw) = composed_backward_in_parts(
            CpuPasses{}, g, parts, sources.x, sources.mask, weight, upstream, ratio, bias_sums, arguments, need_input,
            need_weight);
        return {dx, dskip, dw, CpuPasses{}.bias_gradient(g, input, sums)};
    }
    // ratio * gradient is a tensor of its own, since the gradient must not be changed; db comes out of the same pass.
    if (need_convolution) scaled = scratch_beside(upstream);
    cpu::scale_gradient(
        g, ratio, upstream.const_data_ptr(), need_convolution ? scaled.mutable_data_ptr() : nullptr, bias_sums);
    const Tensor db = CpuPasses{}.bias_gradient(g, input, sums);
    if (!need_convolution) return {dx, dskip, dw, db};
    if (upsample) {
        const auto gradients = by_winograd ? winograd_backward : stage_backward;
        std::tie(dx, dskip, dw) = gradients(g, sources, weight, scaled, need_input, need_skip, need_weight);
        // Each gradient in its own input's layout.
        if (need_input) dx = laid_out(dx, layout_of(input));
        if (need_skip) dskip = laid_out(dskip, layout_of(*skip));
        return {dx, dskip, dw, db};
    }
    if (by_winograd)
        std::tie(dx, std::ignore, dw) = winograd_backward(g, sources, weight, scaled, need_inputs, false, need_weight);
    else
        std::tie(dx, dw) = composed_backward(
            CpuPasses{}, g, sources.x, sources.mask, weight, scaled, arguments, need_inputs, need_weight);
    if (skip) {
        const Tensor whole = dx;
        dx = need_input ? channels_of(whole, input, 0) : no_gradient(input);
        if (need_skip) dskip = channels_of(whole, *skip, input.size(1));
    }
    return {dx, dskip, dw, db};
}

}  // namespace
}  // namespace pconv

STABLE_TORCH_LIBRARY(pconv_cuda, m) {
    m.def("partial_conv2d" PCONV_FORWARD_SCHEMA);
    m.def("partial_conv2d_backward" PCONV_BACKWARD_SCHEMA);
    m.def("upcat_phases" PCONV_UPCAT_PHASES_SCHEMA);
}

STABLE_TORCH_LIBRARY_IMPL(pconv_cuda, CPU, m) {
    m.impl("partial_conv2d", TORCH_BOX(&pconv::forward));
    m.impl("partial_conv2d_backward", TORCH_BOX(&pconv::backward));
    m.impl("upcat_phases", TORCH_BOX(&pconv::phases_of));
}
