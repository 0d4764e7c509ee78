"""What torch has to know about ``partial_conv_nd`` and its backward: shapes, derivatives, autocast, the fallback.

Partial convolutions of two or three axes, ordinary and transposed: the library's convolution with our passes around it
(csrc/torch/window_passes.h). With the mask held fixed the operation is bilinear in input and weight: the derivative of
each operator is made of the two, as in :mod:`pconv_cuda.ops.convolution`.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from pconv_cuda import reference_nd
from pconv_cuda.checks import as_valid
from pconv_cuda.ops import extension, fallback
from pconv_cuda.ops.autocast import cast, without_autocast
from pconv_cuda.ops.layout import memory_format
from pconv_cuda.ops.transforms import call_in_backward, register_derivative, register_function
from pconv_cuda.reference_nd import Window

extension.load()

_library = torch.library.Library("pconv_cuda", "FRAGMENT")
partial_conv_nd = torch.ops.pconv_cuda.partial_conv_nd.default
partial_conv_nd_backward = torch.ops.pconv_cuda.partial_conv_nd_backward.default


# Shapes --------------------------------------------------------------------------------------------------


def _like(tensor: Tensor, needed: bool) -> Tensor:
    """A gradient as the kernels return it; empty where it was not asked for."""
    if not needed:
        return tensor.new_empty((0,))
    layout = memory_format(tensor)
    return torch.empty(tensor.shape, dtype=tensor.dtype, device=tensor.device, memory_format=layout)


@torch.library.register_fake("pconv_cuda::partial_conv_nd")
def _forward_fake(
    input: Tensor, mask: Tensor | None, weight: Tensor, bias: Tensor | None, *rest: Any
) -> tuple[Tensor, Tensor, Tensor]:
    for name, tensor in {"mask": mask, "weight": weight, "bias": bias}.items():
        # Beside a real input this kernel would hand out memory that nobody has filled.
        if tensor is not None and tensor.device != input.device:
            raise ValueError(f"{name}: expected the input's device {input.device}, got {tensor.device}")
    window = Window(*rest)
    shape = reference_nd.output_shape(input, weight, window)
    layout = memory_format(input)
    output = torch.empty(shape, dtype=input.dtype, device=input.device, memory_format=layout)
    groups = window.groups if mask is not None and window.groups > 1 and mask.shape[1] > 1 else 1
    compact = (1 if mask is None or mask.shape[0] == 1 else shape[0], groups, *shape[2:])
    precise = torch.float64 if input.dtype == torch.float64 else torch.float32
    new_mask = torch.empty(compact, dtype=torch.bool, device=input.device)
    return output, new_mask, torch.empty(compact, dtype=precise, device=input.device)


@torch.library.register_fake("pconv_cuda::partial_conv_nd_backward")
def _backward_fake(
    grad: Tensor, input: Tensor, mask: Tensor | None, weight: Tensor, ratio: Tensor, *rest: Any
) -> tuple[Tensor, Tensor, Tensor]:
    need_input, need_weight, need_bias = rest[-3:]
    bias = grad.new_empty((grad.shape[1] if need_bias else 0,))
    return _like(input, need_input), _like(weight, need_weight), bias


# Derivatives ---------------------------------------------------------------------------------------------


def _forward_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    input, mask, weight, _, *ctx.window = inputs
    _, new_mask, ratio = output
    ctx.mark_non_differentiable(new_mask, ratio)
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(input, mask, weight, ratio)


def _forward_backward(ctx: Any, grad: Tensor | None, *_: Any) -> tuple[Any, ...]:
    if grad is None:
        return (None,) * 10
    need_input, _, need_weight, need_bias = ctx.needs_input_grad[:4]
    needed = (need_input, need_weight, need_bias)
    gradients = call_in_backward(partial_conv_nd_backward, grad, *ctx.saved_tensors, *ctx.window, *needed)
    dx, dw, db = (each if wanted else None for each, wanted in zip(gradients, needed, strict=True))
    return (dx, None, dw, db, *(None,) * 6)


def _backward_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    grad, input, mask, weight, ratio, *rest = inputs
    ctx.window, ctx.needed = rest[:6], rest[6:]
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(grad, input, mask, weight, ratio)


def _backward_backward(ctx: Any, *gradients: Tensor | None) -> tuple[Any, ...]:
    grad, input, mask, weight, ratio = ctx.saved_tensors
    need_grad, need_input, _, need_weight = ctx.needs_input_grad[:4]
    # Outputs that were not asked for are empty, and so are the gradients that compiled code hands in for them.
    ddx, ddw, ddb = (dd if needed else None for dd, needed in zip(gradients, ctx.needed, strict=True))

    def backward(input: Tensor, weight: Tensor, *needed: bool) -> tuple[Tensor, ...]:
        return partial_conv_nd_backward(grad, input, mask, weight, ratio, *ctx.window, *needed, False)

    terms = []
    if need_grad and ddx is not None:
        terms.append(partial_conv_nd(ddx, mask, weight, None, *ctx.window)[0])
    if need_grad and ddw is not None:
        terms.append(partial_conv_nd(input, mask, ddw, None, *ctx.window)[0])
    if need_grad and ddb is not None:
        new_mask = (ratio > 0).repeat_interleave(grad.shape[1] // ratio.shape[1], dim=1)
        spread = ddb.view(1, -1, *(1,) * (grad.dim() - 2))
        terms.append(torch.where(new_mask, spread, 0.0).expand_as(grad))
    for_grad = sum(terms[1:], terms[0]) if terms else None
    for_input = backward(input, ddw, True, False)[0] if need_input and ddw is not None else None
    for_weight = backward(ddx, weight, False, True)[1] if need_weight and ddx is not None else None
    return (for_grad, for_input, None, for_weight, *(None,) * 10)


register_function(partial_conv_nd, _forward_context, _forward_backward)


# Autocast ------------------------------------------------------------------------------------------------


def _autocast(device: str) -> Any:
    lower = partial(cast, device=device)

    def kernel(input: Tensor, mask: Tensor | None, weight: Tensor, bias: Tensor | None, *rest: Any) -> Any:
        with without_autocast(device):
            return partial_conv_nd(lower(input), mask, lower(weight), lower(bias), *rest)

    return kernel


_library.impl("partial_conv_nd", _autocast("cpu"), "AutocastCPU")
_library.impl("partial_conv_nd", _autocast("cuda"), "AutocastCUDA")


# Devices without a kernel --------------------------------------------------------------------------------


def _forward(
    input: Tensor, mask: Tensor | None, weight: Tensor, bias: Tensor | None, *rest: Any
) -> tuple[Tensor, Tensor, Tensor]:
    output, new_mask, ratio = reference_nd.partial_conv(input, mask, weight, bias, Window(*rest))
    return output.contiguous(memory_format=memory_format(input)), new_mask, ratio.contiguous()


def _backward(
    grad: Tensor, input: Tensor, mask: Tensor | None, weight: Tensor, ratio: Tensor, *rest: Any
) -> tuple[Tensor, Tensor, Tensor]:
    *places, need_input, need_weight, need_bias = rest
    window = Window(*places)
    spread = ratio.repeat_interleave(grad.shape[1] // ratio.shape[1], dim=1)
    live = torch.where(spread > 0, grad, 0.0)
    dx, dw, db = (input.new_empty((0,)) for _ in range(3))
    if need_bias:
        db = live.sum(dim=[axis for axis in range(grad.dim()) if axis != 1])
    if not (need_input or need_weight):
        return dx, dw, db
    valid = input.new_ones((1,), dtype=torch.bool) if mask is None else as_valid(mask)
    scaled, masked, filters = (live * spread).to(grad.dtype), torch.where(valid, input, 0.0), weight
    if reference_nd.fails_in_half(masked, filters, window):
        scaled, masked, filters = scaled.float(), masked.float(), filters.float()
    if input.device.type == "cpu":  # see reference.needs_plain_strides
        scaled, masked, filters = (t.clone(memory_format=torch.contiguous_format) for t in (scaled, masked, filters))
    stride, padding, dilation, more, groups, transposed = window
    of_input, of_weight, _ = torch.ops.aten.convolution_backward(
        scaled, masked, filters, None, stride, padding, dilation, transposed, more, groups,
        [need_input, need_weight, False],
    )  # fmt: skip
    if need_input:
        dx = torch.where(valid, of_input, 0.0).to(input.dtype).clone(memory_format=memory_format(input))
    if need_weight:
        dw = of_weight.to(input.dtype).clone(memory_format=memory_format(weight))
    return dx, dw, db


fallback.register(_library, "partial_conv_nd", _forward)
fallback.register(_library, "partial_conv_nd_backward", _backward)
register_derivative(_library, partial_conv_nd, _forward_backward, _forward_context, _forward)
register_derivative(_library, partial_conv_nd_backward, _backward_backward, _backward_context, _backward)
