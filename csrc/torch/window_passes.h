// Partial convolutions of two or three axes, ordinary and transposed, by the library's convolution with our passes
// around it; for CPU and CUDA, which bring the passes. All passes but the counts see a tensor as [N, C, rows, columns].
#pragma once

#include "composed.h"

#include "../windows.h"

#include <array>
#include <tuple>

namespace pconv {

struct WindowArguments {
    Ints stride, padding, dilation, output_padding;
    int64_t groups;
    bool transposed;
};

// A call: the windows, the same flat, and the output's sizes.
struct WindowCall {
    Windows windows{};
    Geometry g{};
    Ints output;
};

// As layout_of in checks.h, for any number of axes.
inline Layout layout_of_any(const Tensor& t) {
    const int64_t c = t.size(1), last = t.dim() - 1;
    bool dense_pixels = t.stride(1) == 1 && t.stride(last) >= c;
    int64_t pixels = t.size(last);
    for (int64_t axis = last - 1; axis >= 2; --axis) {
        dense_pixels = dense_pixels && t.stride(axis) >= t.stride(axis + 1) * t.size(axis + 1);
        pixels *= t.size(axis);
    }
    dense_pixels = dense_pixels && t.stride(0) >= t.stride(2) * t.size(2);
    return dense_pixels && t.stride(0) != t.stride(1) && t.size(0) * pixels > 0 ? Layout::nhwc : Layout::nchw;
}

inline MemoryFormat format_of(Layout layout, int64_t dimensions) {
    if (layout == Layout::nchw) return MemoryFormat::Contiguous;
    return dimensions == 5 ? MemoryFormat::ChannelsLast3d : MemoryFormat::ChannelsLast;
}

inline Tensor laid_out_any(const Tensor& tensor, Layout layout) {
    return torch::stable::contiguous(tensor, format_of(layout, tensor.dim()));
}

inline Tensor empty_in_any(Layout layout, const Tensor& like, const Ints& size) {
    return torch::stable::empty(
        size, like.scalar_type(), std::nullopt, like.device(), std::nullopt, format_of(layout, int64_t(size.size())));
}

inline bool all_at_least(const Ints& values, size_t count, int64_t least) {
    bool right = values.size() == count;
    for (const int64_t value : values) right = right && value >= least && value < (int64_t(1) << 31);
    return right;
}

inline WindowCall window_call(const Tensor& input, const Tensor& weight, const WindowArguments& a) {
    const int64_t dimensions = input.dim();
    PCONV_EXPECT(
        dimensions == 4 || dimensions == 5, "input: expected two or three spatial axes, got ", shape_of(input));
    PCONV_EXPECT(dtype_of(input, "input") != DType::u8, "input: expected a floating dtype, got bytes");
    PCONV_EXPECT(
        weight.dim() == dimensions && weight.numel() > 0, "weight: expected ", dimensions,
        " dimensions, none of them 0, got ", shape_of(weight));
    PCONV_EXPECT(
        weight.scalar_type() == input.scalar_type() && weight.device() == input.device(),
        "weight: expected the input's dtype and device");
    const size_t axes = size_t(dimensions - 2);
    PCONV_EXPECT(
        all_at_least(a.stride, axes, 1) && all_at_least(a.padding, axes, 0) && all_at_least(a.dilation, axes, 1) &&
            all_at_least(a.output_padding, axes, 0),
        "stride, padding, dilation, output_padding: expected ", dimensions - 2,
        " integers each, of at least 1, 0, 1 and 0");
    const int64_t c = input.size(1), outer = weight.size(0), inner = weight.size(1);
    PCONV_EXPECT(
        a.groups > 0 && outer % a.groups == 0 && c == (a.transposed ? outer : inner * a.groups), "weight: expected (",
        a.transposed ? "C, K / groups" : "K, C / groups", ", ...) with groups ", a.groups, " for ", c,
        " input channels, got ", shape_of(weight));
    WindowCall call;
    Windows& w = call.windows;
    w.transposed = a.transposed, w.channels = c / a.groups, w.dtype = dtype_of(input, "input");
    const int64_t k = a.transposed ? inner * a.groups : outer;
    call.output = {input.size(0), k};
    for (int64_t axis = 0; axis < max_axes; ++axis) w.axis[axis] = {1, 1, 1, 1, 0, 1};
    int64_t taps = w.channels;
    for (size_t i = 0; i < axes; ++i) {
        const int64_t size = input.size(int64_t(i) + 2), window = weight.size(int64_t(i) + 2);
        const int64_t reach = a.dilation[i] * (window - 1) + 1;
        PCONV_EXPECT(size > 0 && size < (int64_t(1) << 31), "input: expected no empty axis, got ", shape_of(input));
        PCONV_EXPECT(
            a.output_padding[i] == 0 || (a.transposed && a.output_padding[i] < std::max(a.stride[i], a.dilation[i])),
            "output_padding: expected less than stride or dilation, and 0 where not transposed, got ",
            a.output_padding[i]);
        const int64_t out = a.transposed ? (size - 1) * a.stride[i] - 2 * a.padding[i] + reach + a.output_padding[i]
                                         : output_size(size, window, a.stride[i], a.padding[i], a.dilation[i]);
        PCONV_EXPECT(
            out > 0, "weight: a window of ", window, " with dilation ", a.dilation[i], " and padding ", a.padding[i],
            " leaves no output of input ", shape_of(input));
        w.axis[max_axes - axes + i] = {size, window, out, a.stride[i], a.padding[i], a.dilation[i]};
        call.output.push_back(out);
        taps *= window;
    }
    PCONV_EXPECT(taps < (int64_t(1) << 31), "weight: 2^31 or more values in a window are not supported");
    Geometry& g = call.g;
    g.n = input.size(0), g.c = c, g.k = k, g.groups = a.groups;
    g.h = w.axis[0].in * w.axis[1].in, g.w = w.axis[2].in;
    g.p = w.axis[0].out * w.axis[1].out, g.q = w.axis[2].out;
    g.r = w.axis[0].window * w.axis[1].window, g.s = w.axis[2].window;
    g.layout = layout_of_any(input), g.dtype = w.dtype;
    return call;
}

// A mask's bytes. Passes: to_bytes(bytes, given, dtype, sizes, strides), has_holes(bytes), refuse_odd(...).
template <class Passes>
MaskBytes mask_bytes(const Passes& passes, const WindowCall& call, const Tensor& input, const Tensor& mask) {
    const Geometry& g = call.g;
    bool fits = mask.dim() == input.dim() && (mask.size(0) == 1 || mask.size(0) == g.n) &&
                (mask.size(1) == 1 || mask.size(1) == g.c);
    for (int64_t axis = 2; fits && axis < mask.dim(); ++axis) fits = mask.size(axis) == input.size(axis);
    PCONV_EXPECT(
        fits && mask.device() == input.device(), "mask: expected (", g.n, "|1, 1|", g.c,
        ", ...) of the input's size and device, got ", shape_of(mask), " for input ", shape_of(input));
    const DType dtype = dtype_of(mask, "mask");
    const int64_t last = mask.dim() - 1;
    // Depth and rows as one axis, which their strides have to allow.
    const bool flat = last == 3 || mask.stride(2) == mask.size(3) * mask.stride(3);
    const Tensor given = flat ? mask : torch::stable::contiguous(mask);
    const int64_t sizes[4] = {mask.size(0), mask.size(1), g.h, g.w};
    const int64_t strides[4] = {given.stride(0), given.stride(1), given.stride(last - 1), given.stride(last)};
    if (wants_binary_check()) passes.check_binary(g, given, dtype, sizes, strides);
    MaskBytes result;
    result.owner = given;
    if (dtype != DType::u8 || !given.is_contiguous()) {
        result.owner = empty_of(given, Ints(sizes, sizes + 4), ScalarType::Byte);
        passes.to_bytes(g, given, dtype, sizes, strides, static_cast<uint8_t*>(result.owner->mutable_data_ptr()));
    }
    result.images = sizes[0];
    const auto* const bytes = static_cast<const uint8_t*>(result.owner->const_data_ptr());
    result.mask = mask_of(bytes, sizes[0], g.h * g.w, sizes[1], 1);
    result.holes = passes.has_holes(bytes, result.owner->numel());
    return result;
}

// ---- the library's convolution
// See fails_in_half in library.h. A transposed convolution is the gradient of one from its output to its input.
inline bool fails_in_half(const Geometry& g, const WindowCall& call, bool on_cpu) {
    if (!on_cpu || (g.dtype != DType::bf16 && g.dtype != DType::f16)) return false;
    bool fails = false;
    for (const Axis& axis : call.windows.axis)
        fails |= axis.stride > (call.windows.transposed ? axis.out : axis.in) ||
                 axis.pad > axis.dilation * (axis.window - 1);
    return fails;
}

// What a CPU's library may be given: see strictly_contiguous and has_ambiguous_strides in library.h.
inline Tensor given_to_library(const WindowCall& call, const Tensor& tensor) {
    if (!tensor.is_cpu()) return tensor;
    bool ambiguous = call.g.layout == Layout::nchw;
    for (int64_t axis = 0; axis < tensor.dim(); ++axis) ambiguous |= tensor.size(axis) == 1;
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
    Tensor out = empty_in_any(layout_of_any(tensor), empty_of(tensor, {0}, dtype), Ints(sizes.begin(), sizes.end()));
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

// ---- the operators

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
    if (g.n == 0) return {empty_in_any(g.layout, input, call.output), new_mask, ratios};
    const MaybeTensor dense_bias = bias ? MaybeTensor(torch::stable::contiguous(*bias)) : std::nullopt;
    const Tensor x = laid_out_any(input, g.layout), masked = bytes.holes ? passes.masked_copy(g, bytes.mask, x) : x;
    // Without holes and borders there is nothing left to renormalise.
    Tensor y = library_convolution(call, a, masked, weight, all_full ? dense_bias : std::nullopt);
    if (!all_full) passes.renormalise(g, ratio, dense_bias ? dense_bias->const_data_ptr() : nullptr, 1.0, y);
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
    Tensor db = empty_of(input, {need_bias ? g.k : 0}, input.scalar_type());
    const bool need_convolution = need_input || need_weight;
    const Tensor scaled =
        passes.scale_gradient(call, ratio, upstream, need_convolution, need_bias ? db.mutable_data_ptr() : nullptr);
    if (!need_convolution) return {dx, dw, db};
    if (g.n == 0) {
        const auto sizes = input.sizes(), of_weight = weight.sizes();
        if (need_input) dx = empty_in_any(g.layout, input, Ints(sizes.begin(), sizes.end()));
        if (need_weight) {
            dw = empty_in_any(layout_of_any(weight), weight, Ints(of_weight.begin(), of_weight.end()));
            torch::stable::zero_(dw);
        }
        return {dx, dw, db};
    }
    const Tensor x = laid_out_any(input, g.layout);
    const Tensor masked = bytes.holes && need_weight ? passes.masked_copy(g, bytes.mask, x) : x;
    const auto [of_input, of_weight] = library_backward(call, a, scaled, masked, weight, need_input, need_weight);
    if (need_input) {
        dx = laid_out_any(of_input, g.layout);
        if (bytes.holes) passes.clear_holes(g, bytes.mask, dx);
    }
    if (need_weight) dw = laid_out_any(of_weight, layout_of_any(weight));
    return {dx, dw, db};
}

}  // namespace pconv
