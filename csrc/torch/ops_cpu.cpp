// The operators' schemas, and their CPU kernels: our passes around torch's own convolution (oneDNN), which is called
// through the dispatcher, for the stable ABI has no other way. Autograd is off by the time we are called: Python's
// derivative (pconv_cuda/ops.py) calls the two operators below and never looks inside them.
#include "checks.h"

#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <cstring>
#include <tuple>

namespace pconv {
namespace {

using torch::stable::detail::from;
using torch::stable::detail::to;
using Ints = std::vector<int64_t>;
using MaybeTensor = std::optional<Tensor>;

Tensor convolution(
    const Tensor& x, const Tensor& weight, const MaybeTensor& bias, const Ints& stride, const Ints& padding,
    const Ints& dilation, int64_t groups) {
    std::array<StableIValue, 9> stack{from(x),        from(weight), from(bias),       from(stride), from(padding),
                                      from(dilation), from(false),  from(Ints{0, 0}), from(groups)};
    STABLE_TORCH_ERROR_CODE_CHECK(torch_call_dispatcher("aten::convolution", "", stack.data(), TORCH_TARGET_VERSION));
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
    STABLE_TORCH_ERROR_CODE_CHECK(
        torch_call_dispatcher("aten::convolution_backward", "", stack.data(), TORCH_TARGET_VERSION));
    Tensor dx = to<Tensor>(stack[0]), dw = to<Tensor>(stack[1]), db = to<Tensor>(stack[2]);
    return {dx, dw};
}

Tensor empty_like_shape(const Tensor& like, const Ints& size, ScalarType dtype) {
    return torch::stable::new_empty(like, size, dtype);
}

// Masks as bytes, without a copy where they are bytes already.
MaskBytes mask_bytes(const Geometry& g, const MaybeTensor& mask, const Ints& mask_channels) {
    MaskBytes result;
    if (!mask) return result;
    const Tensor& given = *mask;
    STD_TORCH_CHECK(given.is_cpu(), "mask: expected a tensor on the input's device, the CPU");
    STD_TORCH_CHECK(
        given.dim() == 4 && (given.size(0) == 1 || given.size(0) == g.n) && given.size(2) == g.h &&
            given.size(3) == g.w,
        "mask: expected (", g.n, "|1, channels, ", g.h, ", ", g.w, "), got ", shape_of(given));
    const int64_t blocks = given.size(1);
    if (mask_channels.empty()) {  // all blocks alike: one for everything, or one for each channel
        STD_TORCH_CHECK(
            blocks > 0 && (blocks == 1 || blocks == g.c), "mask: expected 1 or ", g.c, " channels, got ", blocks);
        for (int64_t b = 0; b <= blocks; ++b) result.first.push_back(b * (g.c / blocks));
    } else {
        STD_TORCH_CHECK(
            int64_t(mask_channels.size()) == blocks && g.groups == 1,
            "mask_channels: expected one number for each of the mask's ", blocks, " channels, and groups 1");
        result.first.push_back(0);
        for (const int64_t channels : mask_channels) {
            STD_TORCH_CHECK(channels > 0, "mask_channels: expected positive numbers, got ", channels);
            result.first.push_back(result.first.back() + channels);
        }
        STD_TORCH_CHECK(
            result.first.back() == g.c, "mask_channels: expected a sum of ", g.c, ", got ", result.first.back());
    }
    const DType dtype = dtype_of(given, "mask");
    const auto sizes = given.sizes(), strides = given.strides();
    const char* check = std::getenv("PCONV_CHECK");
    if (check && std::strcmp(check, "1") == 0) {
        const int64_t odd = cpu::count_not_binary(given.const_data_ptr(), dtype, sizes.data(), strides.data());
        STD_TORCH_CHECK(odd == 0, "mask: expected zeros and ones (PCONV_CHECK=1), got ", odd, " other values");
    }
    result.owner = given;
    if (dtype != DType::u8 || !given.is_contiguous()) {
        result.owner = empty_like_shape(given, Ints(sizes.begin(), sizes.end()), ScalarType::Byte);
        cpu::mask_to_bytes(
            given.const_data_ptr(), dtype, sizes.data(), strides.data(),
            static_cast<uint8_t*>(result.owner->mutable_data_ptr()));
    }
    const auto* bytes = static_cast<const uint8_t*>(result.owner->const_data_ptr());
    result.mask = Mask{bytes, given.size(0), blocks, result.first.data(), g.h * g.w};
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

// What a convolution of an empty batch gives, in the input's layout.
Tensor empty_output(const Tensor& input, const Geometry& g) {
    const Ints size{g.n, g.k, g.p, g.q};
    return torch::stable::empty(
        size, input.scalar_type(), std::nullopt, input.device(), std::nullopt,
        g.layout == Layout::nhwc ? MemoryFormat::ChannelsLast : MemoryFormat::Contiguous);
}

std::tuple<Tensor, Tensor, Tensor> forward(
    Tensor input, MaybeTensor mask, Ints mask_channels, Tensor weight, MaybeTensor bias, Ints stride, Ints padding,
    Ints dilation, int64_t groups) {
    const Geometry g = geometry_of(input, weight, stride, padding, dilation, groups);
    STD_TORCH_CHECK(
        !bias || (bias->dim() == 1 && bias->size(0) == g.k), "bias: expected (", g.k, ",), got ", shape_of(*bias));
    STD_TORCH_CHECK(!bias || bias->scalar_type() == input.scalar_type(), "bias: expected the input's dtype");
    const MaskBytes bytes = mask_bytes(g, mask, mask_channels);
    // One ratio for all output channels, but for groups whose channels have masks of their own. Mask and ratio keep the
    // mask's batch, so that a mask of batch 1 stays small; users get an expanded view.
    const bool grouped = mask && mask_channels.empty() && g.groups > 1 && bytes.mask.blocks > 1;
    const Ints compact{bytes.mask.n, grouped ? g.groups : 1, g.p, g.q};
    Tensor alive = empty_like_shape(input, compact, ScalarType::Bool);
    Tensor ratios = empty_like_shape(input, compact, g.dtype == DType::f64 ? ScalarType::Double : ScalarType::Float);
    const Ratio ratio{ratios.mutable_data_ptr(), compact[0], compact[1]};
    const bool all_full = cpu::window_ratio(g, bytes.mask, ratio, static_cast<uint8_t*>(alive.mutable_data_ptr()));

    if (g.n == 0)  // torch's convolution would return a view, which nobody may then write to in place
        return {empty_output(input, g), alive, ratios};
    const MaybeTensor dense_bias = bias ? MaybeTensor(torch::stable::contiguous(*bias)) : std::nullopt;
    const void* bias_values = dense_bias ? dense_bias->const_data_ptr() : nullptr;
    Tensor x = laid_out(input, g.layout);
    if (cpu::suits_few_channels(g, bytes.mask)) {
        Tensor y = empty_output(input, g);
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
    Ints padding, Ints dilation, int64_t groups, bool need_input, bool need_weight, bool need_bias) {
    const Geometry g = geometry_of(input, weight, stride, padding, dilation, groups);
    STD_TORCH_CHECK(
        grad.dim() == 4 && grad.size(0) == g.n && grad.size(1) == g.k && grad.size(2) == g.p && grad.size(3) == g.q &&
            grad.scalar_type() == input.scalar_type(),
        "grad: expected (", g.n, ", ", g.k, ", ", g.p, ", ", g.q, ") of the input's dtype, got ", shape_of(grad));
    STD_TORCH_CHECK(
        ratios.dim() == 4 && (ratios.size(0) == 1 || ratios.size(0) == g.n) &&
            (ratios.size(1) == 1 || ratios.size(1) == groups) && ratios.size(2) == g.p && ratios.size(3) == g.q &&
            ratios.scalar_type() == (g.dtype == DType::f64 ? ScalarType::Double : ScalarType::Float),
        "ratio: expected what the forward operator returned, got ", shape_of(ratios));
    const MaskBytes bytes = mask_bytes(g, mask, mask_channels);
    const Tensor dense_ratios = torch::stable::contiguous(ratios);
    // The kernels read ratios through the pointer alone; it is not const because the forward writes through it.
    const Ratio ratio{const_cast<void*>(dense_ratios.const_data_ptr()), ratios.size(0), ratios.size(1)};

    const Tensor upstream = laid_out(grad, g.layout);
    // Outputs that nobody asked for are empty; each its own, for an operator's outputs must not be one tensor.
    Tensor dx = empty_like_shape(input, {0}, input.scalar_type());
    Tensor dw = empty_like_shape(input, {0}, input.scalar_type()), scaled;
    Tensor db = empty_like_shape(input, {need_bias ? g.k : 0}, input.scalar_type());
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

// mask_channels: how many input channels each of the mask's channels stands for; empty: all of them, or one each.
// new_mask and ratio are (N|1, 1|groups, P, Q).
STABLE_TORCH_LIBRARY(pconv_cuda, m) {
    m.def(
        "partial_conv2d(Tensor input, Tensor? mask, int[] mask_channels, Tensor weight, Tensor? bias, int[2] stride, "
        "int[2] padding, int[2] dilation, int groups) -> (Tensor output, Tensor new_mask, Tensor ratio)");
    m.def(
        "partial_conv2d_backward(Tensor grad, Tensor input, Tensor? mask, int[] mask_channels, Tensor weight, Tensor "
        "ratio, "
        "int[2] stride, int[2] padding, int[2] dilation, int groups, bool need_input, bool need_weight, bool "
        "need_bias) "
        "-> (Tensor grad_input, Tensor grad_weight, Tensor grad_bias)");
}

STABLE_TORCH_LIBRARY_IMPL(pconv_cuda, CPU, m) {
    m.impl("partial_conv2d", TORCH_BOX(&pconv::forward));
    m.impl("partial_conv2d_backward", TORCH_BOX(&pconv::backward));
}
