// Partial convolutions of two or three axes, ordinary and transposed, on a GPU: nothing synchronises.
#include "cuda_support.h"
#include "schemas.h"
#include "window_passes.h"

#include <torch/csrc/stable/library.h>

namespace pconv::cuda {
namespace {

struct CudaWindowPasses : CudaPasses {
    void check_binary(
        const Geometry& g, const Tensor& mask, DType dtype, const int64_t sizes[4], const int64_t strides[4]) const {
        cuda::check_binary(g, mask, "mask", dtype, sizes, strides, guard);
    }
    void to_bytes(
        const Geometry& g, const Tensor& mask, DType dtype, const int64_t sizes[4], const int64_t strides[4],
        uint8_t* bytes) const {
        check(mask_to_bytes(mask.const_data_ptr(), dtype, sizes, strides, bytes, guard.stream), g);
    }
    bool has_holes(const uint8_t*, int64_t) const { return true; }  // for all that is known without waiting
    bool window_ratio(const WindowCall& call, const Mask& mask, const Ratio& ratio, uint8_t* new_mask) const {
        check(windows_ratio({call.windows, mask, ratio.values, new_mask, ratio.n, ratio.groups}, guard.stream), call.g);
        return false;  // likewise
    }
    // (ratio * gradient, channels_last, where it is wanted; the gradient by the bias), from the same pass.
    std::tuple<Tensor, Tensor> gradients(
        const WindowCall& call, const Ratio& ratio, const Tensor& grad, bool wanted, bool need_bias) const {
        const Geometry& g = call.g;
        const Tensor db = empty_of(grad, {need_bias ? g.k : 0}, grad.scalar_type());
        const int64_t padded = round_up(g.k, 16 / bytes_of(g.dtype));
        Ints size = call.output;
        size[0] = wanted ? g.n : 0, size[1] = padded;
        Tensor scaled = empty_in(Layout::nhwc, grad, size);
        Tensor sums = empty_of(grad, {scale_gradient_workspace(g)}, ScalarType::Byte);
        const Strides strides = g.layout == Layout::nhwc ? Strides{{g.p * g.q * g.k, 1, g.q * g.k, g.k}}
                                                         : Strides{{g.k * g.p * g.q, g.p * g.q, g.q, 1}};
        check(
            cuda::scale_gradient(
                g, grad.const_data_ptr(), strides, ratio.values, ratio.n, ratio.groups, padded,
                wanted ? data_or_null(scaled) : nullptr, need_bias ? db.mutable_data_ptr() : nullptr,
                data_or_null(sums), guard.stream),
            g);
        return {torch::stable::narrow(scaled, 1, 0, g.k), db};
    }
};

std::tuple<Tensor, Tensor, Tensor> forward_of_windows(
    Tensor input, MaybeTensor mask, Tensor weight, MaybeTensor bias, Ints stride, Ints padding, Ints dilation,
    Ints output_padding, int64_t groups, bool transposed) {
    const CudaCallGuard guard(input);
    if (device_of(input).arch < 80)
        return unfused<std::tuple<Tensor, Tensor, Tensor>>(
            "pconv_cuda::unfused_partial_conv_nd", input, mask, weight, bias, stride, padding, dilation, output_padding,
            groups, transposed);
    const WindowArguments arguments{stride, padding, dilation, output_padding, groups, transposed};
    return window_forward(CudaWindowPasses{{guard}}, input, mask, weight, bias, arguments);
}

std::tuple<Tensor, Tensor, Tensor> backward_of_windows(
    Tensor grad, Tensor input, MaybeTensor mask, Tensor weight, Tensor ratios, Ints stride, Ints padding, Ints dilation,
    Ints output_padding, int64_t groups, bool transposed, bool need_input, bool need_weight, bool need_bias) {
    const CudaCallGuard guard(input);
    if (device_of(input).arch < 80)
        return unfused<std::tuple<Tensor, Tensor, Tensor>>(
            "pconv_cuda::unfused_partial_conv_nd_backward", grad, input, mask, weight, ratios, stride, padding,
            dilation, output_padding, groups, transposed, need_input, need_weight, need_bias);
    const WindowArguments arguments{stride, padding, dilation, output_padding, groups, transposed};
    return window_backward(
        CudaWindowPasses{{guard}}, grad, input, mask, weight, ratios, arguments, need_input, need_weight, need_bias);
}

}  // namespace
}  // namespace pconv::cuda

#ifdef PCONV_EMULATE

STABLE_TORCH_LIBRARY_FRAGMENT(pconv_emulated, m) {
    m.def("partial_conv_nd" PCONV_ND_FORWARD_SCHEMA);
    m.def("partial_conv_nd_backward" PCONV_ND_BACKWARD_SCHEMA);
}

STABLE_TORCH_LIBRARY_IMPL(pconv_emulated, CPU, m) {
    m.impl("partial_conv_nd", TORCH_BOX(&pconv::cuda::forward_of_windows));
    m.impl("partial_conv_nd_backward", TORCH_BOX(&pconv::cuda::backward_of_windows));
}

#else

STABLE_TORCH_LIBRARY_IMPL(pconv_cuda, CUDA, m) {
    m.impl("partial_conv_nd", TORCH_BOX(&pconv::cuda::forward_of_windows));
    m.impl("partial_conv_nd_backward", TORCH_BOX(&pconv::cuda::backward_of_windows));
}

#endif
