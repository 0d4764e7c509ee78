// torch's own convolution, called through the dispatcher, and what has to be known of it.
#pragma once

#include "sources.h"

#include <array>
#include <tuple>

namespace pconv {

// With the strides of a contiguous tensor. contiguous() leaves strides of dimensions of size 1 as they are, from which
// torch then concludes that a 1x1 weight, and with it the whole convolution, is channels_last.
inline Tensor strictly_contiguous(const Tensor& tensor) {
    int64_t expected = 1;
    bool as_it_should_be = true;
    for (int64_t axis = tensor.dim() - 1; axis >= 0; --axis) {
        as_it_should_be &= tensor.stride(axis) == expected;
        expected *= tensor.size(axis);
    }
    if (as_it_should_be) return tensor;
    const auto sizes = tensor.sizes();
    Tensor copy = empty_of(tensor, Ints(sizes.begin(), sizes.end()), tensor.scalar_type());
    torch::stable::copy_(copy, tensor);
    return copy;
}

// One channel lies alike in both layouts. torch then takes the layout from strides that mean nothing, for each tensor
// apart; where the input or the output has one row or column it has given wrong sums, or values from outside the
// tensors.
inline bool has_ambiguous_strides(const Tensor& x, const Tensor& weight, const ConvolutionArguments& arguments) {
    if (!x.is_cpu() || x.size(1) != 1) return false;
    bool single = false;
    for (int64_t axis = 0; axis < 2; ++axis) {
        const int64_t size = x.size(2 + axis), reach = arguments.dilation[axis] * (weight.size(2 + axis) - 1) + 1;
        single |= size == 1 || size + 2 * arguments.padding[axis] - reach < arguments.stride[axis];
    }
    return single;
}

inline Tensor converted(const Tensor& tensor, ScalarType dtype) {
    if (tensor.scalar_type() == dtype) return tensor;
    const auto sizes = tensor.sizes();
    Tensor result = empty_in(layout_of(tensor), empty_of(tensor, {0}, dtype), Ints(sizes.begin(), sizes.end()));
    torch::stable::copy_(result, tensor);
    return result;
}

// Where windows miss the image or strides step over it, oneDNN's 16-bit convolutions crash (forward, dilated) or leave
// values of the weight's gradient unwritten. In fp32 they do not.
inline bool fails_in_half(const Tensor& x, const Tensor& weight, const ConvolutionArguments& arguments) {
    if (!x.is_cpu()) return false;
    if (x.scalar_type() != ScalarType::BFloat16 && x.scalar_type() != ScalarType::Half) return false;
    bool fails = false;
    for (int64_t axis = 0; axis < 2; ++axis)
        fails |= arguments.stride[axis] > x.size(2 + axis) ||
                 arguments.padding[axis] > arguments.dilation[axis] * (weight.size(2 + axis) - 1);
    return fails;
}

inline Tensor convolution(
    const Tensor& x, const Tensor& weight, const MaybeTensor& bias, const ConvolutionArguments& arguments) {
    using torch::stable::detail::from;
    if (fails_in_half(x, weight, arguments)) {
        const auto wide = [](const Tensor& tensor) { return converted(tensor, ScalarType::Float); };
        MaybeTensor wide_bias;
        if (bias) {
            wide_bias = empty_of(*bias, {bias->size(0)}, ScalarType::Float);
            torch::stable::copy_(*wide_bias, *bias);
        }
        return converted(convolution(wide(x), wide(weight), wide_bias, arguments), x.scalar_type());
    }
    const bool copied = has_ambiguous_strides(x, weight, arguments);
    const auto given = [copied](const Tensor& tensor) { return copied ? strictly_contiguous(tensor) : tensor; };
    const auto& [stride, padding, dilation, groups] = arguments;
    std::array<StableIValue, 9> stack{from(given(x)), from(given(weight)), from(bias),
                                      from(stride),   from(padding),       from(dilation),
                                      from(false),    from(Ints{0, 0}),    from(groups)};
    PCONV_TORCH_CALL(torch_call_dispatcher("aten::convolution", "", stack.data(), TORCH_TARGET_VERSION));
    return torch::stable::detail::to<Tensor>(stack[0]);
}

// oneDNN's gradient of a strided 1x1 weight writes past its workspace (uxlfoundation/oneDNN#6035) where the tensors are
// channels_last and the channels in a group no multiple of its block, which is 8 or 16.
inline bool overruns_workspace(const Tensor& weight, const Ints& stride) {
    return weight.is_cpu() && weight.size(2) == 1 && weight.size(3) == 1 && (stride[0] > 1 || stride[1] > 1) &&
           weight.size(1) % 16 != 0;
}

// (grad of input, grad of weight), in any layout; undefined where it was not asked for.
inline std::tuple<Tensor, Tensor> convolution_backward(
    const Tensor& grad, const Tensor& x, const Tensor& weight, const ConvolutionArguments& arguments, bool need_input,
    bool need_weight) {
    using torch::stable::detail::from, torch::stable::detail::to;
    if (fails_in_half(x, weight, arguments)) {
        const auto wide = [](const Tensor& tensor) { return converted(tensor, ScalarType::Float); };
        auto [dx, dw] = convolution_backward(wide(grad), wide(x), wide(weight), arguments, need_input, need_weight);
        if (need_input) dx = converted(dx, x.scalar_type());
        if (need_weight) dw = converted(dw, x.scalar_type());
        return {dx, dw};
    }
    const auto& [stride, padding, dilation, groups] = arguments;
    const bool wanted[3] = {need_input, need_weight, false};
    // torch's own loops, which run for one small picture, refuse the strides of some weights with a dimension of
    // size 1.
    const bool single = weight.is_cpu() && (weight.size(0) == 1 || weight.size(2) == 1 || weight.size(3) == 1);
    const bool copied =
        has_ambiguous_strides(x, weight, arguments) || (need_weight && overruns_workspace(weight, stride));
    const auto given = [copied](const Tensor& tensor) { return copied ? strictly_contiguous(tensor) : tensor; };
    std::array<StableIValue, 11> stack{
        from(given(grad)),
        from(given(x)),
        from(single ? strictly_contiguous(weight) : given(weight)),
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

// With the strides of a new tensor in the weight's layout. torch takes (6, 1, 2, 6), of two channels and a window of
// 3x1, as channels_last, and has read other values than those.
inline Tensor with_usual_strides(const Tensor& weight) {
    const bool nhwc = layout_of(weight) == Layout::nhwc;
    const int64_t order[4] = {nhwc ? 1 : 3, nhwc ? 3 : 2, nhwc ? 2 : 1, 0};  // of the axes, the innermost first
    int64_t expected = 1;
    bool usual = true;
    for (const int64_t axis : order) {
        usual &= weight.stride(axis) == expected;
        expected *= weight.size(axis);
    }
    if (usual) return weight;
    const auto sizes = weight.sizes();
    Tensor copy = empty_in(layout_of(weight), weight, Ints(sizes.begin(), sizes.end()));
    torch::stable::copy_(copy, weight);
    return copy;
}

// A channels_last weight would turn a contiguous convolution into a channels_last one, and its result with it.
inline Tensor fitting(const Geometry& g, const Tensor& weight) {
    if (g.layout == Layout::nchw) return laid_out(weight, Layout::nchw);
    return weight.is_cpu() ? with_usual_strides(weight) : weight;
}

}  // namespace pconv
