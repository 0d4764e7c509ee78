// torch's own convolutions of two or three axes, ordinary and transposed, called through the dispatcher.
#pragma once

#include "library.h"
#include "window_call.h"

#include <array>
#include <tuple>

namespace pconv {

// See fails_in_half in library.h. A transposed convolution is the gradient of one from its output to its input.
inline bool fails_in_half(const Geometry& g, const WindowCall& call, bool on_cpu) {
    if (!on_cpu || (g.dtype != DType::bf16 && g.dtype != DType::f16)) return false;
    bool fails = false;
    // Of a volume that is smaller than the window along an axis the weight's gradient is left unwritten too.
    const bool volume = call.output.size() == 5;
    for (const Axis& axis : call.windows.axis) {
        const int64_t size = call.windows.transposed ? axis.out : axis.in, reach = axis.dilation * (axis.window - 1);
        fails |= axis.stride > size || axis.pad > reach || (volume && size <= reach);
    }
    return fails;
}

// What a CPU's library may be given: see strictly_contiguous and has_ambiguous_strides in library.h.
inline Tensor given_to_library(const WindowCall& call, const Tensor& tensor) {
    if (!tensor.is_cpu()) return tensor;
    bool ambiguous = call.g.layout == Layout::nchw;
    // The stride of a single image says something in part of a batch, which keeps the batch's; 16 bits have no parts.
    const int64_t first = bytes_of(call.g.dtype) == 2 ? 0 : 1;
    for (int64_t axis = first; axis < tensor.dim(); ++axis) ambiguous |= tensor.size(axis) == 1;
    return ambiguous ? strictly_contiguous(tensor) : tensor;
}

inline Tensor as_float(const Tensor& tensor) {
    const auto sizes = tensor.sizes();
    Tensor out = empty_of(tensor, Ints(sizes.begin(), sizes.end()), ScalarType::Float);
    torch::stable::copy_(out, tensor);
    return out;
}

inline Tensor as_type(const Tensor& tensor, ScalarType dtype) {
    const auto sizes = tensor.sizes();
    Tensor out = empty_in(layout_of_any(tensor), empty_of(tensor, {0}, dtype), Ints(sizes.begin(), sizes.end()));
    torch::stable::copy_(out, tensor);
    return out;
}

inline Tensor library_convolution(
    const WindowCall& call, const WindowArguments& a, const Tensor& x, const Tensor& weight, const MaybeTensor& bias) {
    using torch::stable::detail::from;
    const bool wide = fails_in_half(call.g, call, x.is_cpu());
    const auto given = [&](const Tensor& tensor) { return given_to_library(call, wide ? as_float(tensor) : tensor); };
    const MaybeTensor given_bias = bias && wide ? MaybeTensor(as_float(*bias)) : bias;
    std::array<StableIValue, 9> stack{from(given(x)),     from(given(weight)),    from(given_bias),
                                      from(a.stride),     from(a.padding),        from(a.dilation),
                                      from(a.transposed), from(a.output_padding), from(a.groups)};
    PCONV_TORCH_CALL(torch_call_dispatcher("aten::convolution", "", stack.data(), TORCH_TARGET_VERSION));
    const Tensor y = torch::stable::detail::to<Tensor>(stack[0]);
    return laid_out_any(wide ? as_type(y, x.scalar_type()) : y, call.g.layout);
}

// oneDNN#6035: see overruns_workspace in library.h.
inline bool overruns_workspace(const WindowCall& call, const WindowArguments& a, const Tensor& weight) {
    bool pointwise = true, strided = false;
    for (const Axis& axis : call.windows.axis) pointwise &= axis.window == 1, strided |= axis.stride > 1;
    return weight.is_cpu() && pointwise && strided && (weight.size(1) % 16 != 0 || weight.size(0) / a.groups % 16 != 0);
}

// (grad of input, grad of weight); undefined where it was not asked for.
inline std::tuple<Tensor, Tensor> library_backward(
    const WindowCall& call, const WindowArguments& a, const Tensor& grad, const Tensor& x, const Tensor& weight,
    bool need_input, bool need_weight) {
    using torch::stable::detail::from, torch::stable::detail::to;
    const bool wide = fails_in_half(call.g, call, x.is_cpu());
    const bool copied = need_weight && overruns_workspace(call, a, weight);
    const auto given = [&](const Tensor& tensor) {
        const Tensor right = wide ? as_float(tensor) : tensor;
        return copied ? strictly_contiguous(right) : given_to_library(call, right);
    };
    const bool wanted[3] = {need_input, need_weight, false};
    std::array<StableIValue, 11> stack{
        from(given(grad)),
        from(given(x)),
        from(given(weight)),
        from(std::nullopt),
        from(a.stride),
        from(a.padding),
        from(a.dilation),
        from(a.transposed),
        from(a.output_padding),
        from(a.groups),
        from(torch::headeronly::HeaderOnlyArrayRef<bool>(wanted, 3))};
    PCONV_TORCH_CALL(torch_call_dispatcher("aten::convolution_backward", "", stack.data(), TORCH_TARGET_VERSION));
    Tensor dx = to<Tensor>(stack[0]), dw = to<Tensor>(stack[1]), db = to<Tensor>(stack[2]);
    if (wide && need_input) dx = as_type(dx, x.scalar_type());
    if (wide && need_weight) dw = as_type(dw, x.scalar_type());
    return {dx, dw};
}

inline int64_t products_of_image(const WindowCall& call) {
    const Geometry& g = call.g;
    const int64_t taps = g.r * g.s * call.windows.channels;
    return call.windows.transposed ? g.h * g.w * g.k * taps : g.p * g.q * g.k * taps;
}

}  // namespace pconv
