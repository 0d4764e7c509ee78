// The operators' signatures, shared with the emulated registration in the tests.
//
// The convolution is of `input`, or of [input | skip], each with a mask of its own: mask is (N|1, 1|C, H, W), with a
// skip both masks have one channel. upsample: a decoder stage; input, half as high and wide, is doubled by nearest
// neighbours first; the weight is then 3x3, with stride 1, padding 1, dilation 1 and groups 1. prepared: what
// upcat_phases makes of a stage's weight; without it the operator makes its own.
// new_mask and ratio are (N|1, 1|groups, P, Q).
// allow_tf32: whether CUDA kernels may round fp32 to tf32: 1 yes, 0 no, -1 what torch's setting says when the operator
// runs. Backward is told what the forward did. negative_slope: the activation behind the epilogue, v < 0 ?
// negative_slope * v : v. 1: none; others are for inference, without a derivative.
#pragma once

#define PCONV_FORWARD_SCHEMA                                                                                       \
    "(Tensor input, Tensor? mask, Tensor? skip, Tensor? skip_mask, Tensor weight, Tensor? bias, int[2] stride, "   \
    "int[2] padding, int[2] dilation, int groups, bool upsample=False, Tensor? prepared=None, int allow_tf32=-1, " \
    "float negative_slope=1.0) -> (Tensor output, Tensor new_mask, Tensor ratio)"

#define PCONV_BACKWARD_SCHEMA                                                                                      \
    "(Tensor grad, Tensor input, Tensor? mask, Tensor? skip, Tensor? skip_mask, Tensor weight, Tensor ratio, "     \
    "int[2] stride, int[2] padding, int[2] dilation, int groups, bool upsample, bool need_input, bool need_skip, " \
    "bool need_weight, bool need_bias, int allow_tf32=-1) "                                                        \
    "-> (Tensor grad_input, Tensor grad_skip, Tensor grad_weight, Tensor grad_bias)"

// One source, two or three spatial axes, ordinary or transposed; weight (K, C / groups, ...) or (C, K / groups, ...).
#define PCONV_ND_FORWARD_SCHEMA                                                                                     \
    "(Tensor input, Tensor? mask, Tensor weight, Tensor? bias, int[] stride, int[] padding, int[] dilation, int[] " \
    "output_padding, int groups, bool transposed) -> (Tensor output, Tensor new_mask, Tensor ratio)"

#define PCONV_ND_BACKWARD_SCHEMA                                                                                 \
    "(Tensor grad, Tensor input, Tensor? mask, Tensor weight, Tensor ratio, int[] stride, int[] padding, int[] " \
    "dilation, int[] output_padding, int groups, bool transposed, bool need_input, bool need_weight, bool "      \
    "need_bias) -> (Tensor grad_input, Tensor grad_weight, Tensor grad_bias)"

// (K, C, 3, 3) -> (4 K, low_channels, 2, 2): row (2 a + b) K + k holds filter k for the output pixels (2 p + a, 2 q +
// b).
#define PCONV_UPCAT_PHASES_SCHEMA "(Tensor weight, int low_channels) -> Tensor"

// act(conv(gate > 0 ? input : 0, weight) + bias), stride 1, padding 1, channels_last out. weight (K, C, 3, 3); adjoint:
// the convolution's gradient by its input, from (N, K, H, W) to (N, C, H, W).
#define PCONV_CONV3X3_SCHEMA \
    "(Tensor input, Tensor? gate, Tensor weight, Tensor? bias, bool relu=False, bool adjoint=False) -> Tensor"

// The thin plate under tension in the holes (valid: bool, 0 in holes, (N|1, 1|C, H, W)); no derivative.
#define PCONV_SMOOTH_FILL_SCHEMA \
    "(Tensor input, Tensor valid, float tension, float tolerance, int max_iterations) -> Tensor"
