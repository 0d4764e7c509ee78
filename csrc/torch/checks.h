// From tensors to plain data: layouts, dtypes, masks, with errors that name the argument.
#pragma once

#include "torch_api.h"

#include "../launchers.h"

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <optional>
#include <string>
#include <vector>

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
    STD_TORCH_CHECK(false, name, ": expected float64, float32, bfloat16 or float16 (masks: bool and uint8 too)");
    return DType::f32;
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
    STD_TORCH_CHECK(input.dim() == 4, "input: expected (N, C, H, W), got ", shape_of(input));
    STD_TORCH_CHECK(weight.dim() == 4, "weight: expected (K, C / groups, R, S), got ", shape_of(weight));
    STD_TORCH_CHECK(
        input.size(1) > 0 && input.size(2) > 0 && input.size(3) > 0,
        "input: expected (N, C, H, W) of at least one pixel and channel, got ", shape_of(input));
    STD_TORCH_CHECK(
        weight.size(0) > 0 && weight.size(2) > 0 && weight.size(3) > 0, "weight: expected no empty dimension, got ",
        shape_of(weight));
    STD_TORCH_CHECK(weight.is_cpu(), "weight: expected a tensor on the input's device, the CPU");
    STD_TORCH_CHECK(
        groups > 0 && input.size(1) == weight.size(1) * groups && weight.size(0) % groups == 0,
        "weight: expected (K, C / groups, R, S) with groups ", groups, " to fit input ", shape_of(input), ", got ",
        shape_of(weight));
    STD_TORCH_CHECK(
        stride.size() == 2 && padding.size() == 2 && dilation.size() == 2 && stride[0] > 0 && stride[1] > 0 &&
            padding[0] >= 0 && padding[1] >= 0 && dilation[0] > 0 && dilation[1] > 0,
        "stride, padding, dilation: expected two integers each, of at least 1, 0 and 1");
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
    STD_TORCH_CHECK(
        g.p > 0 && g.q > 0, "weight: a window of ", g.r, "x", g.s, " with dilation (", g.dil_h, ", ", g.dil_w,
        ") does not fit into input ", shape_of(input), " with padding (", g.pad_h, ", ", g.pad_w, ")");
    // Counts are 32-bit integers.
    STD_TORCH_CHECK(
        weight.size(1) * g.r * g.s < (int64_t(1) << 31), "weight: a window of 2^31 or more values is not supported");
    g.layout = layout_of(input);
    g.dtype = dtype_of(input, "input");
    STD_TORCH_CHECK(g.dtype != DType::u8, "input: expected float64, float32, bfloat16 or float16, got bytes");
    STD_TORCH_CHECK(
        weight.scalar_type() == input.scalar_type(), "weight: expected the input's dtype (both floating, one dtype)");
    return g;
}

// A mask argument as bytes, and what has to stay alive while they are used.
struct MaskBytes {
    std::optional<Tensor> owner;
    std::vector<int64_t> first;
    Mask mask{nullptr, 1, 1, nullptr, 0};
    bool holes = false;
};

}  // namespace pconv
