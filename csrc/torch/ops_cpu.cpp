// The operators' schemas, and their CPU kernels: our passes around torch's own convolution (oneDNN), which is called
// through the dispatcher, for the stable ABI has no other way. Autograd is off by the time we are called: Python's
// derivative (pconv_cuda/ops.py) calls the two operators below and never looks inside them.
#include "cpu_support.h"
#include "schemas.h"

#include <torch/csrc/stable/library.h>

#include <tuple>

namespace pconv {
namespace {

std::tuple<Tensor, Tensor, Tensor> forward(
    Tensor input, MaybeTensor mask, Ints mask_channels, Tensor weight, MaybeTensor bias, Ints stride, Ints padding,
    Ints dilation, int64_t groups, int64_t, double negative_slope) {
    const Geometry g = geometry_of(input, weight, stride, padding, dilation, groups);
    check_bias(g, input, bias);
    const MaskBytes bytes = mask_bytes(g, input, mask, mask_channels);
    const Ints compact = ratio_size(g, bytes, mask_channels);
    Tensor new_mask = empty_of(input, compact, ScalarType::Bool);
    Tensor ratios = empty_of(input, compact, g.dtype == DType::f64 ? ScalarType::Double : ScalarType::Float);
    const Ratio ratio{ratios.mutable_data_ptr(), compact[0], compact[1]};
    const bool all_full = cpu::window_ratio(g, bytes.mask, ratio, static_cast<uint8_t*>(new_mask.mutable_data_ptr()));

    if (g.n == 0)  // torch's convolution would return a view, which nobody may then write to in place
        return {empty_in(g.layout, input, {g.n, g.k, g.p, g.q}), new_mask, ratios};
    const MaybeTensor dense_bias = bias ? MaybeTensor(torch::stable::contiguous(*bias)) : std::nullopt;
    const void* bias_values = dense_bias ? dense_bias->const_data_ptr() : nullptr;
    Tensor x = laid_out(input, g.layout);
    if (cpu::suits_few_channels(g, bytes.mask)) {
        Tensor y = empty_in(g.layout, input, {g.n, g.k, g.p, g.q});
        cpu::few_channels(
            g, bytes.mask, ratio, static_cast<const float*>(x.const_data_ptr()),
            static_cast<const float*>(weight.const_data_ptr()), weight.strides().data(),
            static_cast<const float*>(bias_values), float(negative_slope), static_cast<float*>(y.mutable_data_ptr()));
        return {y, new_mask, ratios};
    }
    // Two passes are left out where they would change nothing: the select without holes, the epilogue without ratios.
    if (bytes.holes) x = masked_copy(g, bytes.mask, x);
    const bool plain = all_full && negative_slope == 1;
    Tensor y = convolution(x, fitting(g, weight), plain ? bias : std::nullopt, stride, padding, dilation, groups);
    y = laid_out(y, g.layout);
    if (!plain) cpu::renormalise(g, ratio, bias_values, negative_slope, y.mutable_data_ptr());
    return {y, new_mask, ratios};
}

std::tuple<Tensor, Tensor, Tensor> backward(
    Tensor grad, Tensor input, MaybeTensor mask, Ints mask_channels, Tensor weight, Tensor ratios, Ints stride,
    Ints padding, Ints dilation, int64_t groups, bool need_input, bool need_weight, bool need_bias, int64_t) {
    const Geometry g = geometry_of(input, weight, stride, padding, dilation, groups);
    check_gradient(g, grad, input, ratios);
    const MaskBytes bytes = mask_bytes(g, input, mask, mask_channels);
    const Tensor dense_ratios = torch::stable::contiguous(ratios);
    // The kernels read ratios through the pointer alone; it is not const because the forward writes through it.
    const Ratio ratio{const_cast<void*>(dense_ratios.const_data_ptr()), ratios.size(0), ratios.size(1)};

    const Tensor upstream = laid_out(grad, g.layout);
    // Outputs that nobody asked for are empty; each its own, for an operator's outputs must not be one tensor.
    Tensor dx = empty_of(input, {0}, input.scalar_type());
    Tensor dw = empty_of(input, {0}, input.scalar_type()), scaled;
    Tensor db = empty_of(input, {need_bias ? g.k : 0}, input.scalar_type());
    // g' = ratio * g is a tensor of its own, for g is not ours to change; db comes out of the same pass.
    const bool need_convolution = need_input || need_weight;
    if (need_convolution) scaled = torch::stable::empty_like(upstream);
    cpu::scale_gradient(
        g, ratio, upstream.const_data_ptr(), need_convolution ? scaled.mutable_data_ptr() : nullptr,
        need_bias ? db.mutable_data_ptr() : nullptr);
    if (!need_convolution) return {dx, dw, db};

    // The forward's masked copy was not kept: making it again costs a pass, keeping it would cost the memory of the
    // input once more. dx does not need it: whatever the convolution finds under a hole is cleared afterwards.
    Tensor x = laid_out(input, g.layout);
    if (bytes.holes && need_weight) x = masked_copy(g, bytes.mask, x);
    const auto [grad_input, grad_weight] =
        convolution_backward(scaled, x, fitting(g, weight), stride, padding, dilation, groups, need_input, need_weight);
    if (need_input) {
        dx = laid_out(grad_input, g.layout);
        if (bytes.holes) cpu::masked_copy(g, bytes.mask, dx.const_data_ptr(), dx.mutable_data_ptr());
    }
    if (need_weight) dw = laid_out(grad_weight, layout_of(weight));
    return {dx, dw, db};
}

}  // namespace
}  // namespace pconv

STABLE_TORCH_LIBRARY(pconv_cuda, m) {
    m.def("partial_conv2d" PCONV_FORWARD_SCHEMA);
    m.def("partial_conv2d_backward" PCONV_BACKWARD_SCHEMA);
    m.def("partial_conv2d_upcat" PCONV_UPCAT_SCHEMA);
    m.def("partial_conv2d_upcat_backward" PCONV_UPCAT_BACKWARD_SCHEMA);
    m.def("upcat_phases" PCONV_UPCAT_PHASES_SCHEMA);
}

STABLE_TORCH_LIBRARY_IMPL(pconv_cuda, CPU, m) {
    m.impl("partial_conv2d", TORCH_BOX(&pconv::forward));
    m.impl("partial_conv2d_backward", TORCH_BOX(&pconv::backward));
}
