// Partial convolutions of two or three axes, ordinary and transposed, on a CPU.
#include "cpu_support.h"
#include "schemas.h"
#include "window_passes.h"

#include <torch/csrc/stable/library.h>

namespace pconv {
namespace {

struct CpuWindowPasses : CpuPasses {
    void check_binary(
        const Geometry&, const Tensor& mask, DType dtype, const int64_t sizes[4], const int64_t strides[4]) const {
        const int64_t odd = cpu::count_not_binary(mask.const_data_ptr(), dtype, sizes, strides);
        PCONV_EXPECT(odd == 0, "mask: expected zeros and ones (PCONV_CHECK=1), got ", odd, " other values");
    }
    void to_bytes(
        const Geometry&, const Tensor& mask, DType dtype, const int64_t sizes[4], const int64_t strides[4],
        uint8_t* bytes) const {
        cpu::mask_to_bytes(mask.const_data_ptr(), dtype, sizes, strides, bytes);
    }
    bool has_holes(const uint8_t* bytes, int64_t count) const { return cpu::has_zero(bytes, count); }
    bool window_ratio(const WindowCall& call, const Mask& mask, const Ratio& ratio, uint8_t* new_mask) const {
        return cpu::window_ratio(call.windows, mask, ratio, new_mask);
    }
    // As CpuPasses, by the faster loops where they serve.
    Tensor masked_copy(const Geometry& g, const Mask& mask, const Tensor& x) const {
        Tensor out = torch::stable::empty_like(x);
        copy(g, mask, x, out);
        return out;
    }
    void clear_holes(const Geometry& g, const Mask& mask, Tensor& x) const { copy(g, mask, x, x); }
    void copy(const Geometry& g, const Mask& mask, const Tensor& x, Tensor& out) const {
        const bool planes = g.layout == Layout::nchw && mask.blocks == 1;
        (planes ? cpu::masked_copy_planes : cpu::masked_copy)(g, mask, x.const_data_ptr(), out.mutable_data_ptr());
    }
    // ratio * gradient, and the bias gradient from the same pass.
    Tensor scale_gradient(
        const WindowCall& call, const Ratio& ratio, const Tensor& grad, bool wanted, void* bias_grad) const {
        Tensor scaled;
        if (wanted) scaled = torch::stable::empty_like(grad);
        const bool planes = wanted && call.g.layout == Layout::nchw;
        (planes ? cpu::scale_gradient_planes : cpu::scale_gradient)(
            call.g, ratio, grad.const_data_ptr(), wanted ? scaled.mutable_data_ptr() : nullptr, bias_grad);
        return scaled;
    }
};

std::tuple<Tensor, Tensor, Tensor> forward_of_windows(
    Tensor input, MaybeTensor mask, Tensor weight, MaybeTensor bias, Ints stride, Ints padding, Ints dilation,
    Ints output_padding, int64_t groups, bool transposed) {
    const WindowArguments arguments{stride, padding, dilation, output_padding, groups, transposed};
    return window_forward(CpuWindowPasses{}, input, mask, weight, bias, arguments);
}

std::tuple<Tensor, Tensor, Tensor> backward_of_windows(
    Tensor grad, Tensor input, MaybeTensor mask, Tensor weight, Tensor ratios, Ints stride, Ints padding, Ints dilation,
    Ints output_padding, int64_t groups, bool transposed, bool need_input, bool need_weight, bool need_bias) {
    const WindowArguments arguments{stride, padding, dilation, output_padding, groups, transposed};
    return window_backward(
        CpuWindowPasses{}, grad, input, mask, weight, ratios, arguments, need_input, need_weight, need_bias);
}

}  // namespace
}  // namespace pconv

STABLE_TORCH_LIBRARY_FRAGMENT(pconv_cuda, m) {
    m.def("partial_conv_nd" PCONV_ND_FORWARD_SCHEMA);
    m.def("partial_conv_nd_backward" PCONV_ND_BACKWARD_SCHEMA);
}

STABLE_TORCH_LIBRARY_IMPL(pconv_cuda, CPU, m) {
    m.impl("partial_conv_nd", TORCH_BOX(&pconv::forward_of_windows));
    m.impl("partial_conv_nd_backward", TORCH_BOX(&pconv::backward_of_windows));
}
