// From tensors to plain data: layouts, dtypes, masks, with errors that name the argument.
#pragma once

#include "../torch_abi.h"
#include "expect.h"
#include "memory.h"

#include "../cpu/kernels.h"

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/util/shim_utils.h>

#include <cstdlib>
#include <cstring>
#include <optional>
#include <string>
#include <vector>

// Newer torch passes the failed call's own words on; 2.11 has the plain check alone.
#ifdef STABLE_TORCH_ERROR_CODE_CHECK
#define PCONV_TORCH_CALL(call) STABLE_TORCH_ERROR_CODE_CHECK(call)
#else
#define PCONV_TORCH_CALL(call) TORCH_ERROR_CODE_CHECK(call)
#endif

namespace pconv {

inline std::string shape_of(const Tensor& tensor) {
    std::string text = "(";
    for (int64_t i = 0; i < tensor.dim(); ++i) text += (i ? ", " : "") + std::to_string(tensor.size(i));
    return text + ")";
}

inline DType dtype_of(const Tensor& tensor, const char* name) {
    switch (tensor.scalar_type()) {
        case ScalarType::Double: return DType::f64;
        case ScalarType::Float: return DType::f32;
        case ScalarType::BFloat16: return DType::bf16;
        case ScalarType::Half: return DType::f16;
        case ScalarType::Bool:
        case ScalarType::Byte: return DType::u8;
        default: break;
    }
    fail(name, ": expected float64, float32, bfloat16 or float16 (masks: bool and uint8 too)");
}

// The layout that results keep; pconv_cuda/ops/layout.py has the same rule for shapes alone.
inline Layout layout_of(const Tensor& t) {
    const int64_t c = t.size(1), h = t.size(2), w = t.size(3);
    const bool dense_pixels =
        t.stride(1) == 1 && t.stride(3) >= c && t.stride(2) >= t.stride(3) * w && t.stride(0) >= t.stride(2) * h;
    return dense_pixels && t.stride(0) != t.stride(1) && t.size(0) * h * w > 0 ? Layout::nhwc : Layout::nchw;
}

// No copy where the tensor lies so already.
inline Tensor laid_out(const Tensor& tensor, Layout layout) {
    return torch::stable::contiguous(
        tensor, layout == Layout::nhwc ? MemoryFormat::ChannelsLast : MemoryFormat::Contiguous);
}

using MaybeTensor = std::optional<Tensor>;

// pconv_cuda/checks.py checks the functional form's arguments, with better messages. These checks keep calls of the raw
// operators (torch.ops) from reading outside their tensors.
struct ConvolutionArguments {
    Ints stride, padding, dilation;
    int64_t groups;
};

inline void check_sources(const Tensor& input, const MaybeTensor& skip, const Tensor& weight, bool upsample) {
    PCONV_EXPECT(input.dim() == 4, "input: expected (N, C, H, W), got ", shape_of(input));
    PCONV_EXPECT(
        input.size(1) > 0 && input.size(2) > 0 && input.size(3) > 0,
        "input: expected (N, C, H, W) of at least one pixel and channel, got ", shape_of(input));
    PCONV_EXPECT(dtype_of(input, "input") != DType::u8, "input: expected a floating dtype, got bytes");
    PCONV_EXPECT(weight.dim() == 4, "weight: expected (K, C / groups, R, S), got ", shape_of(weight));
    PCONV_EXPECT(
        weight.size(0) > 0 && weight.size(2) > 0 && weight.size(3) > 0, "weight: expected no empty dimension, got ",
        shape_of(weight));
    PCONV_EXPECT(
        weight.scalar_type() == input.scalar_type() && weight.device() == input.device(),
        "weight: expected the input's dtype and device");
    PCONV_EXPECT(skip || !upsample, "skip: expected a tensor, as upsample is set");
    if (!skip) return;
    const int64_t scale = upsample ? 2 : 1, h = scale * input.size(2), w = scale * input.size(3);
    PCONV_EXPECT(
        skip->dim() == 4 && skip->size(0) == input.size(0) && skip->size(1) > 0 && skip->size(2) == h &&
            skip->size(3) == w,
        "skip: expected (", input.size(0), ", Cs, ", h, ", ", w, ") to fit input ", shape_of(input), ", got ",
        shape_of(*skip));
    PCONV_EXPECT(
        skip->scalar_type() == input.scalar_type() && skip->device() == input.device(),
        "skip: expected the input's dtype and device");
}

// Of the convolution, at its full resolution.
inline Geometry geometry_of(
    const Tensor& input, const MaybeTensor& skip, const Tensor& weight, const ConvolutionArguments& arguments,
    bool upsample) {
    check_sources(input, skip, weight, upsample);
    const auto& [stride, padding, dilation, groups] = arguments;
    const Tensor& full = skip ? *skip : input;  // as high and wide as what is convolved
    Geometry g{};
    g.n = input.size(0), g.c = input.size(1) + (skip ? skip->size(1) : 0), g.h = full.size(2), g.w = full.size(3);
    g.k = weight.size(0), g.r = weight.size(2), g.s = weight.size(3);
    g.groups = groups;
    PCONV_EXPECT(
        groups > 0 && g.c == weight.size(1) * groups && g.k % groups == 0,
        "weight: expected (K, C / groups, R, S) with groups ", groups, " for ", g.c, " input channels, got ",
        shape_of(weight));
    PCONV_EXPECT(!skip || groups == 1, "groups: expected 1 with a skip, got ", groups);
    PCONV_EXPECT(
        stride.size() == 2 && padding.size() == 2 && dilation.size() == 2 && stride[0] > 0 && stride[1] > 0 &&
            padding[0] >= 0 && padding[1] >= 0 && dilation[0] > 0 && dilation[1] > 0,
        "stride, padding, dilation: expected two integers each, of at least 1, 0 and 1");
    const Ints ones{1, 1};
    PCONV_EXPECT(
        !upsample || (stride == ones && padding == ones && dilation == ones && g.r == 3 && g.s == 3),
        "upsample: expected a weight (K, C, 3, 3) with stride, padding and dilation 1, got ", shape_of(weight));
    constexpr int64_t limit = int64_t(1) << 31;  // padded sizes and windows then fit into 64 bits
    PCONV_EXPECT(
        stride[0] < limit && stride[1] < limit && padding[0] < limit && padding[1] < limit && dilation[0] < limit &&
            dilation[1] < limit && weight.size(2) < limit && weight.size(3) < limit,
        "stride, padding, dilation: expected less than 2^31");
    // From here on sizes are plain numbers.
    g.stride_h = stride[0], g.stride_w = stride[1];
    g.pad_h = padding[0], g.pad_w = padding[1];
    g.dil_h = dilation[0], g.dil_w = dilation[1];
    g.p = output_size(g.h, g.r, g.stride_h, g.pad_h, g.dil_h);
    g.q = output_size(g.w, g.s, g.stride_w, g.pad_w, g.dil_w);
    PCONV_EXPECT(
        g.p > 0 && g.q > 0, "weight: a window of ", g.r, "x", g.s, " with dilation (", g.dil_h, ", ", g.dil_w,
        ") does not fit into input ", shape_of(input), " with padding (", g.pad_h, ", ", g.pad_w, ")");
    // Counts are 32-bit integers, and so are channels.
    PCONV_EXPECT(
        weight.size(1) * g.r * g.s < limit && g.c < limit, "weight: 2^31 or more values in a window are not supported");
    // The input's layout, the bulk of the data; but one pixel's strides may say anything.
    g.layout = layout_of(skip && input.size(2) * input.size(3) == 1 ? *skip : input);
    g.dtype = dtype_of(input, "input");
    return g;
}

inline bool wants_binary_check() {
    const char* check = std::getenv("PCONV_CHECK");
    return check && std::strcmp(check, "1") == 0;
}

inline void check_mask(const char* name, const Tensor& mask, const Tensor& source, bool per_channel) {
    const int64_t n = source.size(0), c = per_channel ? source.size(1) : 1, h = source.size(2), w = source.size(3);
    PCONV_EXPECT(mask.device() == source.device(), name, ": expected a tensor on the input's device");
    PCONV_EXPECT(
        mask.dim() == 4 && (mask.size(0) == 1 || mask.size(0) == n) && (mask.size(1) == 1 || mask.size(1) == c) &&
            mask.size(2) == h && mask.size(3) == w,
        name, ": expected (", n, "|1, ", c > 1 ? "1|" + std::to_string(c) : std::string("1"), ", ", h, ", ", w,
        "), got ", shape_of(mask));
}

inline void check_bias(const Geometry& g, const Tensor& input, const MaybeTensor& bias) {
    PCONV_EXPECT(
        !bias || (bias->dim() == 1 && bias->size(0) == g.k), "bias: expected (", g.k, ",), got ", shape_of(*bias));
    PCONV_EXPECT(
        !bias || (bias->scalar_type() == input.scalar_type() && bias->device() == input.device()),
        "bias: expected the input's dtype and device");
}

// Made by upcat_phases; the caller keeps it.
inline void check_prepared(const Geometry& g, const Tensor& input, const MaybeTensor& prepared, bool upsample) {
    if (!prepared) return;
    PCONV_EXPECT(upsample, "prepared: expected none without upsample");
    PCONV_EXPECT(
        prepared->dim() == 4 && prepared->size(0) == 4 * g.k && prepared->size(1) == input.size(1) &&
            prepared->size(2) == 2 && prepared->size(3) == 2 && prepared->scalar_type() == input.scalar_type() &&
            prepared->device() == input.device(),
        "prepared: expected (", 4 * g.k, ", ", input.size(1), ", 2, 2) of the input's dtype and device, got ",
        shape_of(*prepared));
}

inline void check_phase_arguments(const Tensor& weight, int64_t low_channels) {
    PCONV_EXPECT(
        weight.dim() == 4 && weight.size(0) > 0 && weight.size(2) == 3 && weight.size(3) == 3,
        "weight: expected (K, C, 3, 3), got ", shape_of(weight));
    PCONV_EXPECT(
        low_channels > 0 && low_channels <= weight.size(1), "low_channels: expected 1 to ", weight.size(1), ", got ",
        low_channels);
    PCONV_EXPECT(dtype_of(weight, "weight") != DType::u8, "weight: expected a floating dtype, got bytes");
}

inline void check_gradient(const Geometry& g, const Tensor& grad, const Tensor& input, const Tensor& ratios) {
    PCONV_EXPECT(
        grad.dim() == 4 && grad.size(0) == g.n && grad.size(1) == g.k && grad.size(2) == g.p && grad.size(3) == g.q &&
            grad.scalar_type() == input.scalar_type() && grad.device() == input.device(),
        "grad: expected (", g.n, ", ", g.k, ", ", g.p, ", ", g.q, ") of the input's dtype and device, got ",
        shape_of(grad));
    PCONV_EXPECT(
        ratios.dim() == 4 && (ratios.size(0) == 1 || ratios.size(0) == g.n) &&
            (ratios.size(1) == 1 || ratios.size(1) == g.groups) && ratios.size(2) == g.p && ratios.size(3) == g.q &&
            ratios.scalar_type() == (g.dtype == DType::f64 ? ScalarType::Double : ScalarType::Float) &&
            ratios.device() == input.device(),
        "ratio: expected what the forward operator returned, got ", shape_of(ratios));
}

}  // namespace pconv
