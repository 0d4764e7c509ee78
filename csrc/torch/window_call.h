// A partial convolution of two or three axes, ordinary or transposed, as plain data: sizes, windows, the mask's bytes.
// All passes but the counts see a tensor as [N, C, rows, columns].
#pragma once

#include "sources.h"

#include "../windows.h"

#include <algorithm>

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

inline Tensor laid_out_any(const Tensor& tensor, Layout layout) {
    return torch::stable::contiguous(tensor, format_of(layout, size_t(tensor.dim())));
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

// A mask's bytes. Of the passes it takes check_binary, to_bytes and has_holes.
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

}  // namespace pconv
