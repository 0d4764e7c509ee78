// The operators' signatures, shared with the emulated registration in the tests.
//
// mask_channels: how many input channels each of the mask's channels stands for; empty: all of them, or one each.
// new_mask and ratio are (N|1, 1|groups, P, Q).
// fp32: whether CUDA kernels may round fp32 to tf32: 1 yes, 0 no, -1 what torch's setting says when the operator runs.
// Backward is told what the forward did.
#pragma once

#define PCONV_FORWARD_SCHEMA                                                                         \
    "(Tensor input, Tensor? mask, int[] mask_channels, Tensor weight, Tensor? bias, int[2] stride, " \
    "int[2] padding, int[2] dilation, int groups, int fp32=-1) -> (Tensor output, Tensor new_mask, Tensor ratio)"

#define PCONV_BACKWARD_SCHEMA                                                                         \
    "(Tensor grad, Tensor input, Tensor? mask, int[] mask_channels, Tensor weight, Tensor ratio, "    \
    "int[2] stride, int[2] padding, int[2] dilation, int groups, bool need_input, bool need_weight, " \
    "bool need_bias, int fp32=-1) -> (Tensor grad_input, Tensor grad_weight, Tensor grad_bias)"
