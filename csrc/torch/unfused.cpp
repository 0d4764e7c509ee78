// Devices older than sm_80 have no kernel: the unfused reference runs, in Python, by way of the dispatcher.
#include "ops_cuda.h"

#include <array>

namespace pconv::cuda {
namespace {

using torch::stable::detail::from;
using torch::stable::detail::to;

template <size_t size>
void call(const char* name, std::array<StableIValue, size>& stack) {
    PCONV_TORCH_CALL(torch_call_dispatcher(name, "", stack.data(), TORCH_TARGET_VERSION));
}

template <size_t size>
std::tuple<Tensor, Tensor, Tensor> dispatch(const char* name, std::array<StableIValue, size>& stack) {
    call(name, stack);
    Tensor first = to<Tensor>(stack[0]), second = to<Tensor>(stack[1]), third = to<Tensor>(stack[2]);
    return {first, second, third};
}

}  // namespace

std::tuple<Tensor, Tensor, Tensor> unfused_forward(
    const Tensor& input, const MaybeTensor& mask, const Ints& mask_channels, const Tensor& weight,
    const MaybeTensor& bias, const Ints& stride, const Ints& padding, const Ints& dilation, int64_t groups,
    double negative_slope) {
    std::array<StableIValue, 11> stack{from(input),  from(mask),        from(mask_channels), from(weight),
                                       from(bias),   from(stride),      from(padding),       from(dilation),
                                       from(groups), from(int64_t(-1)), from(negative_slope)};
    return dispatch("pconv_cuda::unfused_partial_conv2d", stack);
}

std::tuple<Tensor, Tensor, Tensor> unfused_backward(
    const Tensor& grad, const Tensor& input, const MaybeTensor& mask, const Ints& mask_channels, const Tensor& weight,
    const Tensor& ratio, const Ints& stride, const Ints& padding, const Ints& dilation, int64_t groups, bool need_input,
    bool need_weight, bool need_bias) {
    std::array<StableIValue, 14> stack{from(grad),      from(input),      from(mask),       from(mask_channels),
                                       from(weight),    from(ratio),      from(stride),     from(padding),
                                       from(dilation),  from(groups),     from(need_input), from(need_weight),
                                       from(need_bias), from(int64_t(-1))};
    return dispatch("pconv_cuda::unfused_partial_conv2d_backward", stack);
}

std::tuple<Tensor, Tensor, Tensor> unfused_upcat(
    const Tensor& low, const MaybeTensor& low_mask, const Tensor& skip, const MaybeTensor& skip_mask,
    const Tensor& weight, const MaybeTensor& bias, double negative_slope) {
    std::array<StableIValue, 9> stack{from(low),          from(low_mask),    from(skip),
                                      from(skip_mask),    from(weight),      from(bias),
                                      from(std::nullopt), from(int64_t(-1)), from(negative_slope)};
    return dispatch("pconv_cuda::unfused_partial_conv2d_upcat", stack);
}

std::tuple<Tensor, Tensor, Tensor, Tensor> unfused_upcat_backward(
    const Tensor& grad, const Tensor& low, const MaybeTensor& low_mask, const Tensor& skip,
    const MaybeTensor& skip_mask, const Tensor& weight, const Tensor& ratio, bool need_low, bool need_skip,
    bool need_weight, bool need_bias) {
    std::array<StableIValue, 12> stack{from(grad),      from(low),         from(low_mask),  from(skip),
                                       from(skip_mask), from(weight),      from(ratio),     from(need_low),
                                       from(need_skip), from(need_weight), from(need_bias), from(int64_t(-1))};
    call("pconv_cuda::unfused_partial_conv2d_upcat_backward", stack);
    Tensor dlow = to<Tensor>(stack[0]), dskip = to<Tensor>(stack[1]), dw = to<Tensor>(stack[2]),
           db = to<Tensor>(stack[3]);
    return {dlow, dskip, dw, db};
}

Tensor unfused_phases(const Tensor& weight, int64_t low_channels) {
    std::array<StableIValue, 2> stack{from(weight), from(low_channels)};
    call("pconv_cuda::unfused_upcat_phases", stack);
    return to<Tensor>(stack[0]);
}

Tensor unfused_smooth_fill(
    const Tensor& input, const Tensor& valid, double tension, double tolerance, int64_t max_iterations) {
    std::array<StableIValue, 5> stack{from(input), from(valid), from(tension), from(tolerance), from(max_iterations)};
    call("pconv_cuda::unfused_smooth_fill", stack);
    return to<Tensor>(stack[0]);
}

}  // namespace pconv::cuda
