"""The operators ``torch.ops.pconv_cuda.*``; importing this package registers them.

A program that holds operators of ours, one of ``torch.export`` say, needs this import before it is loaded.
"""

from pconv_cuda.ops.convolution import partial_conv2d, partial_conv2d_backward, upcat_phases
from pconv_cuda.ops.convolution_nd import partial_conv_nd, partial_conv_nd_backward
from pconv_cuda.ops.fill import smooth_fill
from pconv_cuda.ops.winograd import conv3x3

__all__ = [
    "conv3x3",
    "partial_conv2d",
    "partial_conv2d_backward",
    "partial_conv_nd",
    "partial_conv_nd_backward",
    "smooth_fill",
    "upcat_phases",
]
