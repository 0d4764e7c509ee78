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


def _context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    raise RuntimeError(
        "input: expected a tensor that needs no gradient, for smooth_fill has no derivative; call it with "
        "input.detach() or under torch.no_grad()"
    )


def _backward(ctx: Any, grad: Tensor) -> tuple[None, ...]:
    return (None,) * 5  # never reached: _context raises


torch.library.register_autograd("pconv_cuda::smooth_fill", _backward, setup_context=_context)


def _unfused(input: Tensor, valid: Tensor, tension: float, tolerance: float, max_iterations: int) -> Tensor:
    fallback.note(input.device)
    filled = smooth.smooth_fill(input, valid, tension, tolerance, max_iterations)
    return filled.contiguous(memory_format=memory_format(input))


fallback.register(_library, "smooth_fill", _unfused)
