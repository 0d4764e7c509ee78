"""What torch has to know about the decoder stage's operators: shapes, derivatives, autocast, and the fallback.

As in :mod:`pconv_cuda.ops`: with the masks held fixed the stage is bilinear in (low, skip) and weight, so each
derivative is made of the two operators themselves. The phases of the weight are no part of what is saved: making them
again costs less than keeping them (sixteen values for each nine of the weight's), and nobody can then meet stale ones.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pconv_cuda import _extension, _precision, ops, reference
from pconv_cuda._arguments import check_binary

partial_conv2d_upcat = torch.ops.pconv_cuda.partial_conv2d_upcat.default
partial_conv2d_upcat_backward = torch.ops.pconv_cuda.partial_conv2d_upcat_backward.default
upcat_phases = torch.ops.pconv_cuda.upcat_phases.default

_library = torch.library.Library("pconv_cuda", "FRAGMENT")


# Shapes --------------------------------------------------------------------------------------------------


def _layout(low: Tensor, skip: Tensor) -> torch.memory_format:
    """The output's: low's, the bulk of the input. The same rule stands in csrc/torch/upcat_checks.h."""
    return ops.memory_format(skip if low.shape[2] * low.shape[3] == 1 else low)


@torch.library.register_fake("pconv_cuda::partial_conv2d_upcat")
def _forward_fake(
    low: Tensor,
    low_mask: Tensor | None,
    skip: Tensor,
    skip_mask: Tensor | None,
    weight: Tensor,
    bias: Tensor | None,
    phases: Tensor | None = None,
    allow_tf32: int = -1,
    negative_slope: float = 1.0,
) -> tuple[Tensor, Tensor, Tensor]:
    given = {"low_mask": low_mask, "skip": skip, "skip_mask": skip_mask, "weight": weight, "bias": bias}
    for name, tensor in given.items():
        if tensor is not None and tensor.device != low.device:
            raise ValueError(f"{name}: expected low's device {low.device}, got {tensor.device}")
    n, _, height, width = skip.shape
    shape = (n, weight.shape[0], height, width)
    output = torch.empty(shape, dtype=low.dtype, device=low.device, memory_format=_layout(low, skip))
    single = all(mask is None or mask.shape[0] == 1 for mask in (low_mask, skip_mask))
    compact = (1 if single else n, 1, height, width)
    precise = torch.float64 if low.dtype == torch.float64 else torch.float32
    new_mask = torch.empty(compact, dtype=torch.bool, device=low.device)
    return output, new_mask, torch.empty(compact, dtype=precise, device=low.device)


@torch.library.register_fake("pconv_cuda::partial_conv2d_upcat_backward")
def _backward_fake(
    grad: Tensor,
    low: Tensor,
    low_mask: Tensor | None,
    skip: Tensor,
    skip_mask: Tensor | None,
    weight: Tensor,
    ratio: Tensor,
    need_low: bool,
    need_skip: bool,
    need_weight: bool,
    need_bias: bool,
    allow_tf32: int = -1,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    def like(tensor: Tensor, needed: bool) -> Tensor:
        if not needed:
            return tensor.new_empty((0,))
        layout = ops.memory_format(tensor)
        return torch.empty(tensor.shape, dtype=tensor.dtype, device=tensor.device, memory_format=layout)

    bias = grad.new_empty((weight.shape[0] if need_bias else 0,))
    return like(low, need_low), like(skip, need_skip), like(weight, need_weight), bias


@torch.library.register_fake("pconv_cuda::upcat_phases")
def _phases_fake(weight: Tensor, low_channels: int) -> Tensor:
    shape = (4 * weight.shape[0], low_channels, 2, 2)
    return torch.empty(shape, dtype=weight.dtype, device=weight.device, memory_format=torch.channels_last)


# Derivatives ---------------------------------------------------------------------------------------------


def _forward_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    low, low_mask, skip, skip_mask, weight, _, phases, allow_tf32, negative_slope = inputs
    if negative_slope != 1.0 or phases is not None:
        raise RuntimeError(
            "negative_slope, phases: an activation inside the operator and prepared phases are for inference and have "
            "no derivative; call it under torch.no_grad() or torch.inference_mode()"
        )
    ctx.allow_tf32 = _precision.choice_of(low, allow_tf32)
    _, new_mask, ratio = output
    ctx.mark_non_differentiable(new_mask, ratio)
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(low, low_mask, skip, skip_mask, weight, ratio)


def _forward_backward(ctx: Any, grad: Tensor | None, *_: Any) -> tuple[Any, ...]:
    if grad is None:
        return (None,) * 9
    low, low_mask, skip, skip_mask, weight, ratio = ctx.saved_tensors
    need_low, _, need_skip, _, need_weight, need_bias = needed = ctx.needs_input_grad[:6]
    dlow, dskip, dw, db = partial_conv2d_upcat_backward(
        grad, low, low_mask, skip, skip_mask, weight, ratio, need_low, need_skip, need_weight, need_bias, ctx.allow_tf32
    )
    gradients = (dlow, None, dskip, None, dw, db)
    given = [gradient if wanted else None for gradient, wanted in zip(gradients, needed, strict=True)]
    return (*given, None, None, None)


def _backward_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    grad, low, low_mask, skip, skip_mask, weight, ratio, *needed, allow_tf32 = inputs
    ctx.needed = needed
    ctx.allow_tf32 = _precision.choice_of(low, allow_tf32)
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(grad, low, low_mask, skip, skip_mask, weight, ratio)


def _backward_backward(ctx: Any, *gradients: Tensor | None) -> tuple[Any, ...]:
    grad, low, low_mask, skip, skip_mask, weight, ratio = ctx.saved_tensors
    need_grad, need_low, _, need_skip, _, need_weight = ctx.needs_input_grad[:6]
    # Outputs that were not asked for are empty, and so are the gradients that compiled code hands in for them.
    ddlow, ddskip, ddw, ddb = (dd if needed else None for dd, needed in zip(gradients, ctx.needed, strict=True))
    inputs_given = ddlow is not None or ddskip is not None
    if inputs_given:  # one half alone: the other is zeros
        ddlow = torch.zeros_like(low) if ddlow is None else ddlow
        ddskip = torch.zeros_like(skip) if ddskip is None else ddskip
    for_grad: Tensor | None = None
    if need_grad:
        terms = []
        if inputs_given:
            terms.append(
                partial_conv2d_upcat(ddlow, low_mask, ddskip, skip_mask, weight, None, None, ctx.allow_tf32)[0]
            )
        if ddw is not None:
            terms.append(partial_conv2d_upcat(low, low_mask, skip, skip_mask, ddw, None, None, ctx.allow_tf32)[0])
        if ddb is not None:
            terms.append(torch.where(ratio > 0, ddb.view(1, -1, 1, 1), 0.0).expand_as(grad))
        if terms:
            for_grad = sum(terms[1:], terms[0])
    for_low = for_skip = for_weight = None
    if (need_low or need_skip) and ddw is not None:
        dlow, dskip, _, _ = partial_conv2d_upcat_backward(
            grad, low, low_mask, skip, skip_mask, ddw, ratio, need_low, need_skip, False, False, ctx.allow_tf32
        )
        for_low, for_skip = dlow if need_low else None, dskip if need_skip else None
    if need_weight and inputs_given:
        for_weight = partial_conv2d_upcat_backward(
            grad, ddlow, low_mask, ddskip, skip_mask, weight, ratio, False, False, True, False, ctx.allow_tf32
        )[2]
    return (for_grad, for_low, None, for_skip, None, for_weight, *(None,) * 6)


torch.library.register_autograd("pconv_cuda::partial_conv2d_upcat", _forward_backward, setup_context=_forward_context)
torch.library.register_autograd(
    "pconv_cuda::partial_conv2d_upcat_backward", _backward_backward, setup_context=_backward_context
)


# Autocast ------------------------------------------------------------------------------------------------


def _autocast(device: str) -> Any:
    def kernel(
        low: Tensor,
        low_mask: Tensor | None,
        skip: Tensor,
        skip_mask: Tensor | None,
        weight: Tensor,
        bias: Tensor | None,
        *rest: Any,
    ) -> tuple[Tensor, Tensor, Tensor]:
        with torch._C._ExcludeDispatchKeyGuard(torch._C.DispatchKeySet(key)):
            low, skip, weight = (cast(tensor) for tensor in (low, skip, weight))
            phases = cast(rest[0]) if rest else None
            return partial_conv2d_upcat(low, low_mask, skip, skip_mask, weight, cast(bias), phases, *rest[1:])

    def cast(tensor: Any) -> Any:
        return ops.autocast_tensor(tensor, device)

    key = getattr(torch._C.DispatchKey, f"Autocast{device.upper()}")
    return kernel


_library.impl("partial_conv2d_upcat", _autocast("cpu"), "AutocastCPU")
_library.impl("partial_conv2d_upcat", _autocast("cuda"), "AutocastCUDA")


# Devices without a kernel --------------------------------------------------------------------------------


def _joined(
    low: Tensor, low_mask: Tensor | None, skip: Tensor, skip_mask: Tensor | None
) -> tuple[Tensor, Tensor, list[int]]:
    """The tensors that the operator exists to avoid: input, a mask of two channels, what each of them stands for."""
    for mask in (low_mask, skip_mask):
        if mask is not None:
            check_binary(mask)
    input, blocks = reference.join(low, low_mask, skip, skip_mask)
    return input.contiguous(memory_format=_layout(low, skip)), blocks, [low.shape[1], skip.shape[1]]


_WINDOW: tuple[Any, ...] = ([1, 1], [1, 1], [1, 1], 1)


def _forward(
    low: Tensor,
    low_mask: Tensor | None,
    skip: Tensor,
    skip_mask: Tensor | None,
    weight: Tensor,
    bias: Tensor | None,
    phases: Tensor | None = None,
    allow_tf32: int = -1,
    negative_slope: float = 1.0,
) -> tuple[Tensor, Tensor, Tensor]:
    input, mask, channels = _joined(low, low_mask, skip, skip_mask)
    return torch.ops.pconv_cuda.unfused_partial_conv2d(
        input, mask, channels, weight, bias, *_WINDOW, allow_tf32, negative_slope
    )


def _backward(
    grad: Tensor,
    low: Tensor,
    low_mask: Tensor | None,
    skip: Tensor,
    skip_mask: Tensor | None,
    weight: Tensor,
    ratio: Tensor,
    need_low: bool,
    need_skip: bool,
    need_weight: bool,
    need_bias: bool,
    allow_tf32: int = -1,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    input, mask, channels = _joined(low, low_mask, skip, skip_mask)
    need_input = need_low or need_skip
    dx, dw, db = torch.ops.pconv_cuda.unfused_partial_conv2d_backward(
        grad, input, mask, channels, weight, ratio, *_WINDOW, need_input, need_weight, need_bias, allow_tf32
    )
    dlow, dskip = low.new_empty((0,)), low.new_empty((0,))
    if need_low:
        n, c, h, w = low.shape
        precise = torch.float64 if low.dtype == torch.float64 else torch.float32
        fours = dx[:, :c].reshape(n, c, h, 2, w, 2)
        dlow = fours.sum(dim=(3, 5), dtype=precise).to(low.dtype).contiguous(memory_format=ops.memory_format(low))
    if need_skip:
        dskip = dx[:, low.shape[1] :].contiguous(memory_format=ops.memory_format(skip))
        dskip = dskip.clone() if dskip._is_view() else dskip
    return dlow, dskip, dw, db


def _phases(weight: Tensor, low_channels: int) -> Tensor:
    return reference.upcat_phases(weight, low_channels).contiguous(memory_format=torch.channels_last)


for _name, _kernel in (
    ("partial_conv2d_upcat", _forward),
    ("partial_conv2d_upcat_backward", _backward),
    ("upcat_phases", _phases),
):
    _extension.register_unfused(_library, _name, _kernel)
