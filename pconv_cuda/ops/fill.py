"""What torch needs beside the kernels of ``torch.ops.pconv_cuda.smooth_fill``: shapes, no derivative, the fallback.

Autocast leaves the operator alone: an ordinary torch operator without a rule runs in its input's dtype, and here half
types are computed in float32 whatever autocast says.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pconv_cuda import smooth
from pconv_cuda.ops import extension, fallback
from pconv_cuda.ops.layout import memory_format
from pconv_cuda.ops.transforms import has_tangent

extension.load()

_library = torch.library.Library("pconv_cuda", "FRAGMENT")
smooth_fill = torch.ops.pconv_cuda.smooth_fill.default


@torch.library.register_fake("pconv_cuda::smooth_fill")
def _fake(input: Tensor, valid: Tensor, tension: float, tolerance: float, max_iterations: int) -> Tensor:
    if valid.device != input.device:
        # With a real input this kernel would return uninitialised memory.
        raise ValueError(f"valid: expected the input's device {input.device}, got {valid.device}")
    layout = memory_format(input)
    return torch.empty(input.shape, dtype=input.dtype, device=input.device, memory_format=layout)


def _without_derivative(keyset: Any, input: Tensor, *arguments: Any) -> Tensor:
    if (torch.is_grad_enabled() and input.requires_grad) or has_tangent(input):
        raise RuntimeError(
            "input: expected a tensor that needs no gradient and has no tangent, for smooth_fill has no derivative; "
            "call it with input.detach() or under torch.no_grad(), in forward mode with the primal alone "
            "(torch.autograd.forward_ad.unpack_dual)"
        )
    with torch._C._AutoDispatchBelowAutograd():
        return smooth_fill.redispatch(keyset & torch._C._after_autograd_keyset, input, *arguments)


_library.impl("smooth_fill", _without_derivative, "Autograd", with_keyset=True)


def _unfused(input: Tensor, valid: Tensor, tension: float, tolerance: float, max_iterations: int) -> Tensor:
    filled = smooth.smooth_fill(input, valid, tension, tolerance, max_iterations)
    return filled.contiguous(memory_format=memory_format(input))


fallback.register(_library, "smooth_fill", _unfused)
