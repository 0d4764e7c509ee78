"""What torch needs beside the operators' kernels: shapes (fake), derivatives, autocast, and the fallback.

Schemas and kernels are C++ (csrc/torch: schemas.h, ops_cpu.cpp, ops_cuda.cpp). With the masks held fixed the operation
is bilinear in (input, skip) and weight, so forward and backward are closed under differentiation: the derivative of
each is made of the two, which gives gradients of every order.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from pconv_cuda.ops import extension, fallback, tf32
from pconv_cuda.ops.autocast import cast, without_autocast
from pconv_cuda.ops.layout import memory_format, output_size, result_format
from pconv_cuda.ops.transforms import call_in_backward, register_derivative, register_function

extension.load()

_library = torch.library.Library("pconv_cuda", "FRAGMENT")
partial_conv2d = torch.ops.pconv_cuda.partial_conv2d.default
partial_conv2d_backward = torch.ops.pconv_cuda.partial_conv2d_backward.default
upcat_phases = torch.ops.pconv_cuda.upcat_phases.default


# Shapes --------------------------------------------------------------------------------------------------


@torch.library.register_fake("pconv_cuda::partial_conv2d")
def _forward_fake(
    input: Tensor,
    mask: Tensor | None,
    skip: Tensor | None,
    skip_mask: Tensor | None,
    weight: Tensor,
    bias: Tensor | None,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
    upsample: bool = False,
    prepared: Tensor | None = None,
    allow_tf32: int = -1,
    negative_slope: float = 1.0,
) -> tuple[Tensor, Tensor, Tensor]:
    given = {"mask": mask, "skip": skip, "skip_mask": skip_mask, "weight": weight, "bias": bias, "prepared": prepared}
    for name, tensor in given.items():
        # With a real input this kernel would return uninitialised memory.
        if tensor is not None and tensor.device != input.device:
            raise ValueError(f"{name}: expected the input's device {input.device}, got {tensor.device}")
    full = input if skip is None else skip
    height, width = (
        output_size(full.shape[2 + i], weight.shape[2 + i], stride[i], padding[i], dilation[i]) for i in range(2)
    )
    shape = (input.shape[0], weight.shape[0], height, width)
    layout = result_format(input, skip)
    output = torch.empty(shape, dtype=input.dtype, device=input.device, memory_format=layout)
    grouped = mask is not None and groups > 1 and mask.shape[1] > 1
    single = all(each is None or each.shape[0] == 1 for each in (mask, skip_mask))
    compact = (1 if single else input.shape[0], groups if grouped else 1, height, width)
    precise = torch.float64 if input.dtype == torch.float64 else torch.float32
    new_mask = torch.empty(compact, dtype=torch.bool, device=input.device)
    return output, new_mask, torch.empty(compact, dtype=precise, device=input.device)


@torch.library.register_fake("pconv_cuda::partial_conv2d_backward")
def _backward_fake(
    grad: Tensor,
    input: Tensor,
    mask: Tensor | None,
    skip: Tensor | None,
    skip_mask: Tensor | None,
    weight: Tensor,
    ratio: Tensor,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
    upsample: bool,
    need_input: bool,
    need_skip: bool,
    need_weight: bool,
    need_bias: bool,
    allow_tf32: int = -1,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    def like(tensor: Tensor | None, needed: bool) -> Tensor:
        if tensor is None or not needed:
            return grad.new_empty((0,))
        layout = memory_format(tensor)
        return torch.empty(tensor.shape, dtype=tensor.dtype, device=tensor.device, memory_format=layout)

    bias = grad.new_empty((weight.shape[0] if need_bias else 0,))
    return like(input, need_input), like(skip, need_skip), like(weight, need_weight), bias


@torch.library.register_fake("pconv_cuda::upcat_phases")
def _phases_fake(weight: Tensor, low_channels: int) -> Tensor:
    shape = (4 * weight.shape[0], low_channels, 2, 2)
    return torch.empty(shape, dtype=weight.dtype, device=weight.device, memory_format=torch.channels_last)


# Derivatives ---------------------------------------------------------------------------------------------
#
# A stage's prepared weight is not saved: recomputing it costs less than keeping it (sixteen values for each nine of the
# weight's).


def _forward_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    input, mask, skip, skip_mask, weight, _, *ctx.window, prepared, allow_tf32, negative_slope = inputs
    if negative_slope != 1.0 or prepared is not None:
        raise RuntimeError(
            f"input: expected one that needs no gradient, since a fused network (negative_slope={negative_slope}, or "
            "a prepared weight) has no derivative; call it under torch.no_grad(), or use the network that is not fused"
        )
    ctx.allow_tf32 = tf32.choice_of(input, allow_tf32)
    _, new_mask, ratio = output
    ctx.mark_non_differentiable(new_mask, ratio)
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(input, mask, skip, skip_mask, weight, ratio)


def _forward_backward(ctx: Any, grad: Tensor | None, *_: Any) -> tuple[Any, ...]:
    if grad is None:
        return (None,) * 14
    need_input, _, need_skip, _, need_weight, need_bias = ctx.needs_input_grad[:6]
    needed = (need_input, need_skip, need_weight, need_bias)
    arguments = (grad, *ctx.saved_tensors, *ctx.window, *needed, ctx.allow_tf32)
    gradients = call_in_backward(partial_conv2d_backward, *arguments)
    dx, dskip, dw, db = (each if wanted else None for each, wanted in zip(gradients, needed, strict=True))
    return (dx, None, dskip, None, dw, db, *(None,) * 8)


def _backward_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    grad, input, mask, skip, skip_mask, weight, ratio, *rest, allow_tf32 = inputs
    ctx.window, ctx.needed = rest[:5], rest[5:]
    ctx.allow_tf32 = tf32.choice_of(input, allow_tf32)
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(grad, input, mask, skip, skip_mask, weight, ratio)


def _backward_backward(ctx: Any, *gradients: Tensor | None) -> tuple[Any, ...]:
    grad, input, mask, skip, skip_mask, weight, ratio = ctx.saved_tensors
    need_grad, need_input, _, need_skip, _, need_weight = ctx.needs_input_grad[:6]
    # Unrequested outputs are empty, and so are the gradients that compiled code passes for them.
    ddx, ddskip, ddw, ddb = (dd if needed else None for dd, needed in zip(gradients, ctx.needed, strict=True))
    if skip is None:
        ddskip = None
    if ddx is not None or ddskip is not None:  # one source alone: the other's is zeros
        ddx = torch.zeros_like(input) if ddx is None else ddx
        ddskip = torch.zeros_like(skip) if ddskip is None and skip is not None else ddskip

    def forward(input: Tensor, skip: Tensor | None, weight: Tensor) -> Tensor:
        rest = (*ctx.window, None, ctx.allow_tf32)
        return partial_conv2d(input, mask, skip, skip_mask, weight, None, *rest)[0]

    def backward(input: Tensor, skip: Tensor | None, weight: Tensor, *needed: bool) -> tuple[Tensor, ...]:
        rest = (*ctx.window, *needed, False, ctx.allow_tf32)
        return partial_conv2d_backward(grad, input, mask, skip, skip_mask, weight, ratio, *rest)

    for_grad: Tensor | None = None
    if need_grad:
        terms = []
        if ddx is not None:
            terms.append(forward(ddx, ddskip, weight))
        if ddw is not None:
            terms.append(forward(input, skip, ddw))
        if ddb is not None:
            new_mask = (ratio > 0).repeat_interleave(weight.shape[0] // ratio.shape[1], dim=1)
            terms.append(torch.where(new_mask, ddb.view(1, -1, 1, 1), 0.0).expand_as(grad))
        if terms:
            for_grad = sum(terms[1:], terms[0])
    for_input = for_skip = for_weight = None
    if (need_input or need_skip) and ddw is not None:
        dx, dskip, _, _ = backward(input, skip, ddw, need_input, need_skip, False)
        for_input, for_skip = dx if need_input else None, dskip if need_skip else None
    if need_weight and ddx is not None:
        for_weight = backward(ddx, ddskip, weight, False, False, True)[2]
    return (for_grad, for_input, None, for_skip, None, for_weight, *(None,) * 11)


register_derivative(_library, partial_conv2d, _forward_backward, _forward_context, fallback.forward)
register_derivative(_library, partial_conv2d_backward, _backward_backward, _backward_context, fallback.backward)
register_function(partial_conv2d, _forward_context, _forward_backward)


# Autocast ------------------------------------------------------------------------------------------------


def _autocast(device: str) -> Any:
    lower = partial(cast, device=device)

    def kernel(
        input: Tensor,
        mask: Tensor | None,
        skip: Tensor | None,
        skip_mask: Tensor | None,
        weight: Tensor,
        bias: Tensor | None,
        *rest: Any,
    ) -> tuple[Tensor, Tensor, Tensor]:
        # Masks keep their dtype: only whether they are 0 counts, and counts are integers.
        rest = (*rest[:5], lower(rest[5]), *rest[6:]) if len(rest) > 5 else rest
        with without_autocast(device):
            return partial_conv2d(lower(input), mask, lower(skip), skip_mask, lower(weight), lower(bias), *rest)

    return kernel


_library.impl("partial_conv2d", _autocast("cpu"), "AutocastCPU")
_library.impl("partial_conv2d", _autocast("cuda"), "AutocastCUDA")


# Devices without a kernel --------------------------------------------------------------------------------

for _name, _kernel in (
    ("partial_conv2d", fallback.forward),
    ("partial_conv2d_backward", fallback.backward),
    ("upcat_phases", fallback.phases),
):
    fallback.register(_library, _name, _kernel)
