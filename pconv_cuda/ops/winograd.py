"""A 3x3 convolution with its ReLU, fast where the weights are frozen: what the loss' VGG16 is made of on a CPU.

The kernel (csrc/cpu/winograd_4x4.cpp) needs a quarter of a direct convolution's multiplications. With the weights
frozen the operation is linear in its input but for the ReLU, and the gradient of a ReLU is a gate in front of the
adjoint convolution: so the operator's derivative is the operator itself, to any order.
"""

from __future__ import annotations

import os
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from pconv_cuda.ops import extension

__all__ = ["conv3x3", "serves"]

_HERE = bool(extension.load().build_info()["conv3x3"]) and os.environ.get("PCONV_FALLBACK") != "1"
_LEAST_CHANNELS = 64  # with fewer the transforms cost more than they save, accuracy first

conv3x3 = torch.ops.pconv_cuda.conv3x3.default


def serves(input: Tensor, weight: Tensor, bias: Tensor | None) -> bool:
    """Whether :func:`conv3x3` takes this convolution, and takes it faster than the library does.

    It is for fp32 on a CPU with AVX2 or AVX-512, frozen weights, and gradients by torch's own autograd.
    """
    frozen = not (weight.requires_grad or (bias is not None and bias.requires_grad))
    return (
        _HERE
        and frozen
        and input.device.type == weight.device.type == "cpu"
        and input.dtype == weight.dtype == torch.float32
        and min(weight.shape[:2]) >= _LEAST_CHANNELS
        and not torch.is_autocast_enabled("cpu")
        and not torch._C._are_functorch_transforms_active()
        and forward_ad._current_level < 0
        and not torch.compiler.is_exporting()  # an exported program should need no operators of ours
    )


@torch.library.register_fake("pconv_cuda::conv3x3")
def _fake(
    input: Tensor, gate: Tensor | None, weight: Tensor, bias: Tensor | None, relu: bool = False, adjoint: bool = False
) -> Tensor:
    n, _, h, w = input.shape
    channels = weight.shape[1 if adjoint else 0]
    return torch.empty((n, channels, h, w), dtype=input.dtype, device=input.device, memory_format=torch.channels_last)


def _context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    _, gate, weight, bias, ctx.relu, ctx.adjoint = inputs
    if weight.requires_grad or (bias is not None and bias.requires_grad):
        raise RuntimeError("conv3x3: expected frozen weights; it has no derivative by weight and bias")
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(gate, weight, output if ctx.relu else None)


def _backward(ctx: Any, grad: Tensor | None) -> tuple[Any, ...]:
    if grad is None or not ctx.needs_input_grad[0]:
        return (None,) * 6
    gate, weight, output = ctx.saved_tensors
    # Gates are where a ReLU was open: they have no derivative of their own.
    dx = conv3x3(grad, None if output is None else output.detach(), weight, None, False, not ctx.adjoint)
    return (dx if gate is None else torch.where(gate > 0, dx, 0.0), *(None,) * 5)


torch.library.register_autograd("pconv_cuda::conv3x3", _backward, setup_context=_context)
