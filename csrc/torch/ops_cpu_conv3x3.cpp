// conv3x3: an ordinary 3x3 convolution with its ReLU, and with a gate in front that is the ReLU of its gradient.
// Frozen networks (the loss' VGG16) are made of it: pconv_cuda/ops/winograd.py closes it under differentiation.
#include "checks.h"
#include "schemas.h"

#include <torch/csrc/stable/library.h>

namespace pconv {
namespace {

Tensor conv3x3(Tensor input, MaybeTensor gate, Tensor weight, MaybeTensor bias, bool relu, bool adjoint) {
    PCONV_EXPECT(input.dim() == 4, "input: expected (N, C, H, W), got ", shape_of(input));
    PCONV_EXPECT(
        weight.dim() == 4 && weight.size(2) == 3 && weight.size(3) == 3, "weight: expected (K, C, 3, 3), got ",
        shape_of(weight));
    const int64_t c = weight.size(adjoint ? 0 : 1), k = weight.size(adjoint ? 1 : 0);
    PCONV_EXPECT(input.size(1) == c, "input: expected ", c, " channels, got ", shape_of(input));
    for (const Tensor* tensor : {&input, &weight})
        PCONV_EXPECT(tensor->scalar_type() == ScalarType::Float, "input, weight: expected float32");
    if (bias)
        PCONV_EXPECT(
            bias->dim() == 1 && bias->size(0) == k && bias->scalar_type() == ScalarType::Float,
            "bias: expected float32 of shape (", k, "), got ", shape_of(*bias));
    if (gate)
        PCONV_EXPECT(
            shape_of(*gate) == shape_of(input) && gate->scalar_type() == ScalarType::Float,
            "gate: expected float32 of the input's shape ", shape_of(input), ", got ", shape_of(*gate));
    PCONV_EXPECT(cpu::has_winograd(), "conv3x3: this CPU has neither AVX-512 nor AVX2");

    const cpu::Conv3x3 conv{input.size(0), c, k, input.size(2), input.size(3), adjoint};
    Tensor y = empty_in(Layout::nhwc, input, {conv.n, k, conv.h, conv.w});
    if (y.numel() == 0) return y;
    const Tensor x = laid_out(input, Layout::nhwc);
    const MaybeTensor dense_gate = gate ? MaybeTensor(laid_out(*gate, Layout::nhwc)) : std::nullopt;
    const MaybeTensor dense_bias = bias ? MaybeTensor(torch::stable::contiguous(*bias)) : std::nullopt;
    const auto values = [](const MaybeTensor& t) {
        return t ? static_cast<const float*>(t->const_data_ptr()) : nullptr;
    };
    cpu::winograd_4x4(
        conv, relu, values(x), values(dense_gate), values(weight), weight.strides().data(), values(dense_bias),
        static_cast<float*>(y.mutable_data_ptr()));
    return y;
}

}  // namespace
}  // namespace pconv

STABLE_TORCH_LIBRARY_FRAGMENT(pconv_cuda, m) { m.def("conv3x3" PCONV_CONV3X3_SCHEMA); }
STABLE_TORCH_LIBRARY_IMPL(pconv_cuda, CPU, m) { m.impl("conv3x3", TORCH_BOX(&pconv::conv3x3)); }
