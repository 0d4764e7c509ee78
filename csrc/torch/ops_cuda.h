// What the Python module of the CUDA operators sets, and the way out for devices that are too old.
#pragma once

#include "checks.h"

#include <tuple>

namespace pconv::cuda {

// 1 where torch's setting allows fp32 convolutions to use tf32. Asked while an operator runs, so that no compiler of
// graphs can freeze the answer.
using Tf32Reader = int (*)();
void set_tf32_reader(Tf32Reader reader);

// 1: sm_90 takes its wgmma kernels, 0: it does not, -1: as PCONV_WGMMA says. For every later call of the process.
void set_wgmma(int choice);

// The operators of pconv_cuda/_extension.py in torch's own operators, called through the dispatcher.
std::tuple<Tensor, Tensor, Tensor> unfused_forward(
    const Tensor& input, const MaybeTensor& mask, const Ints& mask_channels, const Tensor& weight,
    const MaybeTensor& bias, const Ints& stride, const Ints& padding, const Ints& dilation, int64_t groups,
    double negative_slope);
std::tuple<Tensor, Tensor, Tensor> unfused_backward(
    const Tensor& grad, const Tensor& input, const MaybeTensor& mask, const Ints& mask_channels, const Tensor& weight,
    const Tensor& ratio, const Ints& stride, const Ints& padding, const Ints& dilation, int64_t groups, bool need_input,
    bool need_weight, bool need_bias);

std::tuple<Tensor, Tensor, Tensor> unfused_upcat(
    const Tensor& low, const MaybeTensor& low_mask, const Tensor& skip, const MaybeTensor& skip_mask,
    const Tensor& weight, const MaybeTensor& bias, double negative_slope);
std::tuple<Tensor, Tensor, Tensor, Tensor> unfused_upcat_backward(
    const Tensor& grad, const Tensor& low, const MaybeTensor& low_mask, const Tensor& skip,
    const MaybeTensor& skip_mask, const Tensor& weight, const Tensor& ratio, bool need_low, bool need_skip,
    bool need_weight, bool need_bias);
Tensor unfused_phases(const Tensor& weight, int64_t low_channels);
Tensor unfused_smooth_fill(
    const Tensor& input, const Tensor& valid, double tension, double tolerance, int64_t max_iterations);

}  // namespace pconv::cuda
