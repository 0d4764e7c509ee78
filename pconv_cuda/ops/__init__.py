"""The operators ``torch.ops.pconv_cuda.*``; importing this package registers them.

A graph that holds operators of ours (an exported program, say) runs in a process that has imported it.
"""

from pconv_cuda.ops.convolution import (
    memory_format,
    output_size,
    partial_conv2d,
    partial_conv2d_backward,
    result_format,
    upcat_phases,
)
from pconv_cuda.ops.fill import smooth_fill
from pconv_cuda.ops.winograd import conv3x3

__all__ = [
    "conv3x3",
    "memory_format",
    "output_size",
    "partial_conv2d",
    "partial_conv2d_backward",
    "result_format",
    "smooth_fill",
    "upcat_phases",
]
