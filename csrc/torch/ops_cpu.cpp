// The operators' schemas, and their CPU kernels: our passes around torch's own convolution (oneDNN), which is called
// through the dispatcher, for the stable ABI has no other way. Autograd is off by the time we are called: Python's
// derivative (pconv_cuda/ops.py) calls the two operators below and never looks inside them.
#include "checks.h"
#include "schemas.h"

#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <array>
#include <tuple>

namespace pconv {
namespace {

using torch::stable::detail::from;
using torch::stable::detail::to;
Tensor convolution(
    const Tensor& x, const Tensor& weight, const MaybeTensor& bias, const Ints& stride, const Ints& padding,
    const Ints& dilation, int64_t groups) {
    std::array<StableIValue, 9> stack{from(x),        from(weight), from(bias),       from(stride), from(padding),
                                      from(dilation), from(false),  from(Ints{0, 0}), from(groups)};
    PCONV_TORCH_CALL(torch_call_dispatcher("aten::convolution", "", stack.data(), TORCH_TARGET_VERSION));
    return to<Tensor>(stack[0]);
}

// (grad of input, grad of weight); undefined where it was not asked for.
std::tuple<Tensor, Tensor> convolution_backward(
    const Tensor& grad, const Tensor& x, const Tensor& weight, const Ints& stride, const Ints& padding,
    const Ints& dilation, int64_t groups, bool need_input, bool need_weight) {
    const bool wanted[3] = {need_input, need_weight, false};
    std::array<StableIValue, 11> stack{
        from(grad),
        from(x),
        from(weight),
        from(std::nullopt),
        from(stride),
        from(padding),
        from(dilation),
        from(false),
        from(Ints{0, 0}),
        from(groups),
        from(torch::headeronly::HeaderOnlyArrayRef<bool>(wanted, 3))};
    PCONV_TORCH_CALL(torch_call_dispatcher("aten::convolution_backward", "", stack.data(), TORCH_TARGET_VERSION));
    Tensor dx = to<Tensor>(stack[0]), dw = to<Tensor>(stack[1]), db = to<Tensor>(stack[2]);
    return {dx, dw};
}

// Masks as bytes, without a copy where they are bytes already.
MaskBytes mask_bytes(const Geometry& g, const Tensor& input, const MaybeTensor& mask, const Ints& mask_channels) {
    MaskBytes result;
    if (!mask) return result;
    const Tensor& given = *mask;
    result.first = mask_blocks(g, input, given, mask_channels);
    const DType dtype = dtype_of(given, "mask");
    const auto sizes = given.sizes(), strides = given.strides();
    if (wants_binary_check()) {
        const int64_t odd = cpu::count_not_binary(given.const_data_ptr(), dtype, sizes.data(), strides.data());
        STD_TORCH_CHECK(odd == 0, "mask: expected zeros and ones (PCONV_CHECK=1), got ", odd, " other values");
    }
    result.owner = given;
    if (dtype != DType::u8 || !given.is_contiguous()) {
        result.owner = empty_of(given, Ints(sizes.begin(), sizes.end()), ScalarType::Byte);
        cpu::mask_to_bytes(
            given.const_data_ptr(), dtype, sizes.data(), strides.data(),
            static_cast<uint8_t*>(result.owner->mutable_data_ptr()));
    }
    const auto* bytes = static_cast<const uint8_t*>(result.owner->const_data_ptr());
    result.mask = Mask{bytes, given.size(0), given.size(1), result.first.data(), g.h * g.w};
    result.holes = cpu::has_zero(bytes, given.numel());
    return result;
}

Tensor masked_copy(const Geometry& g, const Mask& mask, const Tensor& x) {
    Tensor out = torch::stable::empty_like(x);
    cpu::masked_copy(g, mask, x.const_data_ptr(), out.mutable_data_ptr());
    return out;
}

// A channels_last weight would turn a contiguous convolution into a channels_last one, and its result with it.
Tensor fitting(const Geometry& g, const Tensor& weight) {
    return g.layout == Layout::nchw ? laid_out(weight, Layout::nchw) : weight;
}

std::tuple<Tensor, Tensor, Tensor> forward(
    Tensor input, MaybeTensor mask, Ints mask_channels, Tensor weight, MaybeTensor bias, Ints stride, Ints padding,
    Ints dilation, int64_t groups, int64_t, double slope) {
    const Geometry g = geometry_of(input, weight, stride, padding, dilation, groups);
    check_bias(g, input, bias);
    const MaskBytes bytes = mask_bytes(g, input, mask, mask_channels);
    const Ints compact = ratio_size(g, bytes, mask_channels);
    Tensor alive = empty_of(input, compact, ScalarType::Bool);
    Tensor ratios = empty_of(input, compact, g.dtype == DType::f64 ? ScalarType::Double : ScalarType::Float);
    const Ratio ratio{ratios.mutable_data_ptr(), compact[0], compact[1]};
    const bool all_full = cpu::window_ratio(g, bytes.mask, ratio, static_cast<uint8_t*>(alive.mutable_data_ptr()));

    if (g.n == 0)  // torch's convolution would return a view, which nobody may then write to in place
        return {empty_in(g.layout, input, {g.n, g.k, g.p, g.q}), alive, ratios};
    const MaybeTensor dense_bias = bias ? MaybeTensor(torch::stable::contiguous(*bias)) : std::nullopt;
    const void* bias_values = dense_bias ? dense_bias->const_data_ptr() : nullptr;
    Tensor x = laid_out(input, g.layout);
    if (cpu::suits_few_channels(g, bytes.mask)) {
        Tensor y = empty_in(g.layout, input, {g.n, g.k, g.p, g.q});
        cpu::few_channels(
            g, bytes.mask, ratio, static_cast<const float*>(x.const_data_ptr()),
            static_cast<const float*>(weight.const_data_ptr()), weight.strides().data(),
            static_cast<const float*>(bias_values), static_cast<float*>(y.mutable_data_ptr()));
        return {y, alive, ratios};
    }
    // Two passes are left out where they would change nothing: the select without holes, the epilogue without ratios.
    if (bytes.holes) x = masked_copy(g, bytes.mask, x);
    Tensor y = convolution(x, fitting(g, weight), all_full ? bias : std::nullopt, stride, padding, dilation, groups);
    y = laid_out(y, g.layout);
    if (!all_full) cpu::renormalise(g, ratio, bias_values, y.mutable_data_ptr());
    return {y, alive, ratios};
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
