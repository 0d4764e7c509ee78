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
    void copy_valid(const Geometry& g, const Mask& mask, const Tensor& x, Tensor& out) const {
        const bool planes = g.layout == Layout::nchw && mask.blocks == 1;
        (planes ? cpu::masked_copy_planes : cpu::masked_copy)(g, mask, x.const_data_ptr(), out.mutable_data_ptr());
    }
    Tensor masked_copy(const Geometry& g, const Mask& mask, const Tensor& x) const {
        Tensor out = scratch_beside(x);
        copy_valid(g, mask, x, out);
        return out;
    }
    void clear_holes(const Geometry& g, const Mask& mask, Tensor& x) const { copy_valid(g, mask, x, x); }
    void scale_gradient(const Geometry& g, const Ratio& ratio, const Tensor& grad, Tensor& scaled, double* sums) const {
        (g.layout == Layout::nchw ? cpu::scale_gradient_planes : cpu::scale_gradient)(
            g, ratio, grad.const_data_ptr(), scaled.mutable_data_ptr(), sums);
    }
    // (ratio * gradient where it is wanted, the gradient by the bias), from the same pass.
    std::tuple<Tensor, Tensor> gradients(
        const WindowCall& call, const Ratio& ratio, const Tensor& grad, bool wanted, bool need_bias) const {
        Tensor scaled;
        std::vector<double> sums(need_bias ? call.g.k : 0);
        double* const bias_sums = need_bias ? sums.data() : nullptr;
        if (wanted) {
            scaled = scratch_beside(grad);
            scale_gradient(call.g, ratio, grad, scaled, bias_sums);
        } else {
            cpu::scale_gradient(call.g, ratio, grad.const_data_ptr(), nullptr, bias_sums);
        }
        return {scaled, bias_gradient(call.g, grad, sums)};
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
