// Devices older than sm_80 have no kernel: the unfused reference runs, in Python, by way of the dispatcher.
#include "ops_cuda.h"

#include <array>

namespace pconv::cuda {
namespace {

using torch::stable::detail::from;
using torch::stable::detail::to;

template <size_t size>
std::tuple<Tensor, Tensor, Tensor> dispatch(const char* name, std::array<StableIValue, size>& stack) {
    PCONV_TORCH_CALL(torch_call_dispatcher(name, "", stack.data(), TORCH_TARGET_VERSION));
    Tensor first = to<Tensor>(stack[0]), second = to<Tensor>(stack[1]), third = to<Tensor>(stack[2]);
    return {first, second, third};
}

}  // namespace

std::tuple<Tensor, Tensor, Tensor> unfused_forward(
    const Tensor& input, const MaybeTensor& mask, const Ints& mask_channels, const Tensor& weight,
    const MaybeTensor& bias, const Ints& stride, const Ints& padding, const Ints& dilation, int64_t groups,
    double slope) {
    std::array<StableIValue, 11> stack{from(input),  from(mask),        from(mask_channels), from(weight),
                                       from(bias),   from(stride),      from(padding),       from(dilation),
                                       from(groups), from(int64_t(-1)), from(slope)};
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

}  // namespace pconv::cuda
