"""What torch has to know about the operators: shapes (fake), derivatives, autocast, and the fallback.

Schemas and kernels are C++ (csrc/torch/ops_cpu.cpp, ops_cuda.cpp). With the mask held fixed the operation is bilinear
in (input, weight), so forward and backward are closed under differentiation: the derivative of each is made of
the two, which gives gradients of every order.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pconv_cuda import _extension, _precision

_extension.load()

_library = torch.library.Library("pconv_cuda", "FRAGMENT")
partial_conv2d = torch.ops.pconv_cuda.partial_conv2d.default
partial_conv2d_backward = torch.ops.pconv_cuda.partial_conv2d_backward.default


# Shapes --------------------------------------------------------------------------------------------------


def memory_format(tensor: Tensor) -> torch.memory_format:
    """channels_last where the strides say so, else contiguous: the layout that results keep.

    The same rule stands in csrc/torch/checks.h. For one channel or one pixel both layouts are the same bytes,
    and the strides still tell which one was meant.
    """
    n, c, h, w = tensor.shape
    sn, sc, sh, sw = tensor.stride()
    dense_pixels = sc == 1 and sw >= c and sh >= sw * w and sn >= sh * h
    # One channel of one pixel has strides (1, 1, 1, 1), which say nothing: contiguous.
    return torch.channels_last if dense_pixels and sn != sc and n * h * w > 0 else torch.contiguous_format


def output_size(size: int, window: int, stride: int, padding: int, dilation: int) -> int:
    """Rows (or columns) of the output."""
    return (size + 2 * padding - dilation * (window - 1) - 1) // stride + 1


@torch.library.register_fake("pconv_cuda::partial_conv2d")
def _forward_fake(
    input: Tensor,
    mask: Tensor | None,
    mask_channels: list[int],
    weight: Tensor,
    bias: Tensor | None,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
    allow_tf32: int = -1,
    negative_slope: float = 1.0,
) -> tuple[Tensor, Tensor, Tensor]:
    for name, tensor in (("mask", mask), ("weight", weight), ("bias", bias)):
        # Beside a real input this kernel would hand out memory that nobody has filled.
        if tensor is not None and tensor.device != input.device:
            raise ValueError(f"{name}: expected the input's device {input.device}, got {tensor.device}")
    height, width = (
        output_size(input.shape[2 + i], weight.shape[2 + i], stride[i], padding[i], dilation[i]) for i in range(2)
    )
    shape = (input.shape[0], weight.shape[0], height, width)
    output = torch.empty(shape, dtype=input.dtype, device=input.device, memory_format=memory_format(input))
    grouped = mask is not None and not mask_channels and groups > 1 and mask.shape[1] > 1
    compact = (1 if mask is None else mask.shape[0], groups if grouped else 1, height, width)
    precise = torch.float64 if input.dtype == torch.float64 else torch.float32
    new_mask = torch.empty(compact, dtype=torch.bool, device=input.device)
    return output, new_mask, torch.empty(compact, dtype=precise, device=input.device)


@torch.library.register_fake("pconv_cuda::partial_conv2d_backward")
def _backward_fake(
    grad: Tensor,
    input: Tensor,
    mask: Tensor | None,
    mask_channels: list[int],
    weight: Tensor,
    ratio: Tensor,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
    need_input: bool,
    need_weight: bool,
    need_bias: bool,
    allow_tf32: int = -1,
) -> tuple[Tensor, Tensor, Tensor]:
    def like(tensor: Tensor, needed: bool) -> Tensor:
        if not needed:
            return tensor.new_empty((0,))
        layout = memory_format(tensor)
        return torch.empty(tensor.shape, dtype=tensor.dtype, device=tensor.device, memory_format=layout)

    bias = grad.new_empty((weight.shape[0] if need_bias else 0,))
    return like(input, need_input), like(weight, need_weight), bias


# Derivatives ---------------------------------------------------------------------------------------------


def _forward_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    input, mask, ctx.mask_channels, weight, _, *ctx.window, allow_tf32, negative_slope = inputs
    if negative_slope != 1.0:
        raise RuntimeError(
            f"negative_slope: an activation inside the operator ({negative_slope}) is for inference and has no "
            "derivative; call it under torch.no_grad() or torch.inference_mode()"
        )
    ctx.allow_tf32 = _precision.choice_of(input, allow_tf32)
    _, new_mask, ratio = output
    ctx.mark_non_differentiable(new_mask, ratio)
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(input, mask, weight, ratio)


def _forward_backward(ctx: Any, grad: Tensor | None, *_: Any) -> tuple[Any, ...]:
    if grad is None:
        return (None,) * 11
    input, mask, weight, ratio = ctx.saved_tensors
    need_input, _, _, need_weight, need_bias = ctx.needs_input_grad[:5]
    dx, dw, db = partial_conv2d_backward(
        grad,
        input,
        mask,
        ctx.mask_channels,
        weight,
        ratio,
        *ctx.window,
        need_input,
        need_weight,
        need_bias,
        ctx.allow_tf32,
    )
    given = dx if need_input else None, None, None, dw if need_weight else None, db if need_bias else None
    return (*given, *(None,) * 6)


def _backward_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    grad, input, mask, ctx.mask_channels, weight, ratio, *window, allow_tf32 = inputs
    ctx.window, ctx.needed = window[:4], window[4:]
    ctx.allow_tf32 = _precision.choice_of(input, allow_tf32)
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(grad, input, mask, weight, ratio)


def _backward_backward(ctx: Any, ddx: Tensor | None, ddw: Tensor | None, ddb: Tensor | None) -> tuple[Any, ...]:
    grad, input, mask, weight, ratio = ctx.saved_tensors
    need_grad, need_input, _, _, need_weight = ctx.needs_input_grad[:5]
    # Outputs that were not asked for are empty, and so are the gradients that compiled code hands in for them.
    ddx, ddw, ddb = (dd if needed else None for dd, needed in zip((ddx, ddw, ddb), ctx.needed, strict=True))
    for_grad: Tensor | None = None
    if need_grad:
        terms = []
        if ddx is not None:
            terms.append(partial_conv2d(ddx, mask, ctx.mask_channels, weight, None, *ctx.window, ctx.allow_tf32)[0])
        if ddw is not None:
            terms.append(partial_conv2d(input, mask, ctx.mask_channels, ddw, None, *ctx.window, ctx.allow_tf32)[0])
        if ddb is not None:
            new_mask = (ratio > 0).repeat_interleave(weight.shape[0] // ratio.shape[1], dim=1)
            terms.append(torch.where(new_mask, ddb.view(1, -1, 1, 1), 0.0).expand_as(grad))
        if terms:
            for_grad = sum(terms[1:], terms[0])
    for_input = for_weight = None
    if need_input and ddw is not None:
        for_input = partial_conv2d_backward(
            grad, input, mask, ctx.mask_channels, ddw, ratio, *ctx.window, True, False, False, ctx.allow_tf32
        )[0]
    if need_weight and ddx is not None:
        for_weight = partial_conv2d_backward(
            grad, ddx, mask, ctx.mask_channels, weight, ratio, *ctx.window, False, True, False, ctx.allow_tf32
        )[1]
    return (for_grad, for_input, None, None, for_weight, *(None,) * 9)


torch.library.register_autograd("pconv_cuda::partial_conv2d", _forward_backward, setup_context=_forward_context)
torch.library.register_autograd(
    "pconv_cuda::partial_conv2d_backward", _backward_backward, setup_context=_backward_context
)


# Autocast ------------------------------------------------------------------------------------------------


def autocast_tensor(tensor: Tensor | None, device: str) -> Tensor | None:
    """As torch's own convolutions: doubles are left alone."""
    if tensor is None or not tensor.dtype.is_floating_point or tensor.dtype == torch.float64:
        return tensor
    return tensor.to(torch.get_autocast_dtype(device))


def _autocast(device: str) -> Any:
    def cast(tensor: Tensor | None) -> Tensor | None:
        return autocast_tensor(tensor, device)

    def kernel(
        input: Tensor, mask: Tensor | None, mask_channels: list[int], weight: Tensor, bias: Tensor | None, *rest: Any
    ) -> tuple[Tensor, Tensor, Tensor]:
        # The mask keeps its dtype: only whether it is 0 counts, and counts are integers.
        with torch._C._ExcludeDispatchKeyGuard(torch._C.DispatchKeySet(key)):
            return partial_conv2d(cast(input), mask, mask_channels, cast(weight), cast(bias), *rest)

    key = getattr(torch._C.DispatchKey, f"Autocast{device.upper()}")
    return kernel


_library.impl("partial_conv2d", _autocast("cpu"), "AutocastCPU")
_library.impl("partial_conv2d", _autocast("cuda"), "AutocastCUDA")


# Devices without a kernel --------------------------------------------------------------------------------

_extension.register_fallback(_library)
