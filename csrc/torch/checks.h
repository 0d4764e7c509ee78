// From tensors to plain data: layouts, dtypes, masks, with errors that name the argument.
#pragma once

#include "../torch_abi.h"
#include "expect.h"

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

using torch::headeronly::MemoryFormat;
using torch::headeronly::ScalarType;
using torch::stable::Tensor;

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

// The layout that results keep; pconv_cuda/ops.py has the same rule for shapes alone.
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

// The functional form has checked all this with better words (pconv_cuda/_arguments.py); what is checked again here
// keeps the raw operators from reading outside their tensors.
inline Geometry geometry_of(
    const Tensor& input, const Tensor& weight, const std::vector<int64_t>& stride, const std::vector<int64_t>& padding,
    const std::vector<int64_t>& dilation, int64_t groups) {
    PCONV_EXPECT(input.dim() == 4, "input: expected (N, C, H, W), got ", shape_of(input));
    PCONV_EXPECT(weight.dim() == 4, "weight: expected (K, C / groups, R, S), got ", shape_of(weight));
    PCONV_EXPECT(
        input.size(1) > 0 && input.size(2) > 0 && input.size(3) > 0,
        "input: expected (N, C, H, W) of at least one pixel and channel, got ", shape_of(input));
    PCONV_EXPECT(
        weight.size(0) > 0 && weight.size(2) > 0 && weight.size(3) > 0, "weight: expected no empty dimension, got ",
        shape_of(weight));
    PCONV_EXPECT(weight.device() == input.device(), "weight: expected a tensor on the input's device");
    PCONV_EXPECT(
        groups > 0 && input.size(1) == weight.size(1) * groups && weight.size(0) % groups == 0,
        "weight: expected (K, C / groups, R, S) with groups ", groups, " to fit input ", shape_of(input), ", got ",
        shape_of(weight));
    PCONV_EXPECT(
        stride.size() == 2 && padding.size() == 2 && dilation.size() == 2 && stride[0] > 0 && stride[1] > 0 &&
            padding[0] >= 0 && padding[1] >= 0 && dilation[0] > 0 && dilation[1] > 0,
        "stride, padding, dilation: expected two integers each, of at least 1, 0 and 1");
    constexpr int64_t limit = int64_t(1) << 31;  // padded sizes and windows then fit into 64 bits
    PCONV_EXPECT(
        stride[0] < limit && stride[1] < limit && padding[0] < limit && padding[1] < limit && dilation[0] < limit &&
            dilation[1] < limit && weight.size(2) < limit && weight.size(3) < limit,
        "stride, padding, dilation: expected less than 2^31");
    // From here on sizes are plain numbers: the kernels know no tensors.
    Geometry g{};
    g.n = input.size(0), g.c = input.size(1), g.h = input.size(2), g.w = input.size(3);
    g.k = weight.size(0), g.r = weight.size(2), g.s = weight.size(3);
    g.stride_h = stride[0], g.stride_w = stride[1];
    g.pad_h = padding[0], g.pad_w = padding[1];
    g.dil_h = dilation[0], g.dil_w = dilation[1];
    g.groups = groups;
    g.p = output_size(g.h, g.r, g.stride_h, g.pad_h, g.dil_h);
    g.q = output_size(g.w, g.s, g.stride_w, g.pad_w, g.dil_w);
    PCONV_EXPECT(
        g.p > 0 && g.q > 0, "weight: a window of ", g.r, "x", g.s, " with dilation (", g.dil_h, ", ", g.dil_w,
        ") does not fit into input ", shape_of(input), " with padding (", g.pad_h, ", ", g.pad_w, ")");
    // Counts are 32-bit integers.
    PCONV_EXPECT(
        weight.size(1) * g.r * g.s < (int64_t(1) << 31), "weight: a window of 2^31 or more values is not supported");
    g.layout = layout_of(input);
    g.dtype = dtype_of(input, "input");
    PCONV_EXPECT(g.dtype != DType::u8, "input: expected float64, float32, bfloat16 or float16, got bytes");
    PCONV_EXPECT(
        weight.scalar_type() == input.scalar_type(), "weight: expected the input's dtype (both floating, one dtype)");
    return g;
}

using Ints = std::vector<int64_t>;
using MaybeTensor = std::optional<Tensor>;

// A mask argument as bytes, and what has to stay alive while they are used.
struct MaskBytes {
    std::optional<Tensor> owner;
    Mask mask;
    int64_t images = 1;
    bool holes = false;
};

// Where the second of the mask's two channels begins among the input's.
inline int64_t second_block(const Geometry& g, const Tensor& input, const Tensor& mask, const Ints& mask_channels) {
    PCONV_EXPECT(mask.device() == input.device(), "mask: expected a tensor on the input's device");
    PCONV_EXPECT(
        mask.dim() == 4 && (mask.size(0) == 1 || mask.size(0) == g.n) && mask.size(2) == g.h && mask.size(3) == g.w,
        "mask: expected (", g.n, "|1, channels, ", g.h, ", ", g.w, "), got ", shape_of(mask));
    const int64_t blocks = mask.size(1);
    if (mask_channels.empty()) {  // one for everything, or one for each channel
        PCONV_EXPECT(
            blocks > 0 && (blocks == 1 || blocks == g.c), "mask: expected 1 or ", g.c, " channels, got ", blocks);
        return 1;
    }
    PCONV_EXPECT(
        mask_channels.size() == 2 && blocks == 2 && g.groups == 1,
        "mask_channels: expected two numbers, for a mask of two channels, and groups 1");
    const int64_t first = mask_channels[0], second = mask_channels[1];
    PCONV_EXPECT(
        first > 0 && second > 0 && first + second == g.c, "mask_channels: expected positive numbers, ", g.c,
        " in all, got ", first, " and ", second);
    return first;
}

inline bool wants_binary_check() {
    const char* check = std::getenv("PCONV_CHECK");
    return check && std::strcmp(check, "1") == 0;
}

inline void check_bias(const Geometry& g, const Tensor& input, const MaybeTensor& bias) {
    PCONV_EXPECT(
        !bias || (bias->dim() == 1 && bias->size(0) == g.k), "bias: expected (", g.k, ",), got ", shape_of(*bias));
    PCONV_EXPECT(
        !bias || (bias->scalar_type() == input.scalar_type() && bias->device() == input.device()),
        "bias: expected the input's dtype and device");
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

// One ratio for all output channels, but for groups whose channels have masks of their own. Mask and ratio keep the
// mask's batch, so that a mask of batch 1 stays small; users get an expanded view.
inline Ints ratio_size(const Geometry& g, const MaskBytes& mask, const Ints& mask_channels) {
    const bool grouped = mask.owner && mask_channels.empty() && g.groups > 1 && mask.mask.blocks > 1;
    return {mask.images, grouped ? g.groups : 1, g.p, g.q};
}

inline Tensor empty_of(const Tensor& like, const Ints& size, ScalarType dtype) {
    return torch::stable::new_empty(like, size, dtype);
}

// In the layout that results keep.
inline Tensor empty_in(Layout layout, const Tensor& like, const Ints& size) {
    return torch::stable::empty(
        size, like.scalar_type(), std::nullopt, like.device(), std::nullopt,
        layout == Layout::nhwc ? MemoryFormat::ChannelsLast : MemoryFormat::Contiguous);
}

}  // namespace pconv
