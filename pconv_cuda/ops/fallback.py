"""The operators where a device has no kernel of ours: the same arguments, in torch's own operators.

Registered under CompositeExplicitAutograd they serve every such device; derivatives stay those of
:mod:`pconv_cuda.ops.convolution`.
"""

from __future__ import annotations

import os
import warnings
from typing import Any

import torch
from torch import Tensor

from pconv_cuda import reference
from pconv_cuda.checks import check_binary
from pconv_cuda.ops import extension, layout

__all__ = ["backward", "forward", "note", "phases", "register"]

_warned: set[str] = set()


def note(device: torch.device) -> None:
    """One warning a device type; an error where PCONV_FALLBACK=0 forbids the slow path."""
    choice = os.environ.get("PCONV_FALLBACK", "")
    message = f"pconv_cuda has no kernel for device {device.type!r}{_why(device)}: the unfused reference runs instead"
    if choice == "0":
        raise RuntimeError(f"{message}, which PCONV_FALLBACK=0 forbids")
    if choice != "1" and device.type not in _warned:
        _warned.add(device.type)
        warnings.warn(f"{message} (PCONV_FALLBACK=0 makes this an error, =1 silences it)", stacklevel=2)


def _why(device: torch.device) -> str:
    if device.type != "cuda":
        return ""
    reason = extension.no_cuda_reason()
    if reason:
        return f" ({reason}; `pconv info` has the remedy)"
    return " (the CUDA kernels need compute capability 8.0 or later)"


def _valid(input: Tensor, mask: Tensor | None, skip: Tensor | None, skip_mask: Tensor | None, upsample: bool) -> Any:
    """The convolved tensor, and a bool mask that broadcasts against it."""
    for each in (mask, skip_mask):
        if each is not None:
            check_binary(each)
    if skip is None:
        return input, reference.valid_mask(mask, input)
    order = layout.result_format(input, skip)
    joined, valid = reference.join(input, mask, skip, skip_mask, upsample)
    return joined.contiguous(memory_format=order), valid


def forward(
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
    x, valid = _valid(input, mask, skip, skip_mask, upsample)
    where: dict[str, Any] = {"stride": stride, "padding": padding, "dilation": dilation}
    precise = torch.float64 if x.dtype == torch.float64 else torch.float32
    ratio = reference.window_ratio(valid, weight, groups, precise, **where)
    output, _ = reference.partial_conv2d(x, valid, weight, bias, groups=groups, **where)
    output = reference.activation(output, negative_slope)
    return output.contiguous(memory_format=layout.memory_format(x)), ratio > 0, ratio.contiguous()


def backward(
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
    x, valid = _valid(input, mask, skip, skip_mask, upsample)
    # One ratio a group -> one an output channel; one for all stays one and broadcasts.
    spread = ratio.repeat_interleave(weight.shape[0] // ratio.shape[1], dim=1)
    live_grad = torch.where(spread > 0, grad, 0.0)
    # Unrequested outputs are empty. They must not alias.
    dx, dskip, dw, db = (input.new_empty((0,)) for _ in range(4))
    if need_bias:
        db = live_grad.sum(dim=(0, 2, 3))
    need_skip = need_skip and skip is not None
    need_x = need_input or need_skip
    if not (need_x or need_weight):
        return dx, dskip, dw, db
    scaled, masked, filters = (live_grad * spread).to(grad.dtype), torch.where(valid, x, 0.0), weight
    if reference.fails_in_half(masked, filters, stride, padding, dilation):
        scaled, masked, filters = scaled.float(), masked.float(), filters.float()
    if reference.needs_plain_strides(masked, filters, stride, padding, dilation):
        scaled, masked, filters = (t.clone(memory_format=torch.contiguous_format) for t in (scaled, masked, filters))
    needed = [need_x, need_weight, False]
    whole, grad_weight, _ = torch.ops.aten.convolution_backward(
        scaled, masked, filters, None, stride, padding, dilation, False, [0, 0], groups, needed
    )
    if need_x:
        of_input, of_skip = reference.part(torch.where(valid, whole, 0.0), input, skip, upsample)
        if need_input:
            dx = of_input.to(input.dtype).clone(memory_format=layout.memory_format(input))
        if need_skip and skip is not None and of_skip is not None:
            dskip = of_skip.to(skip.dtype).clone(memory_format=layout.memory_format(skip))
    if need_weight:
        dw = grad_weight.to(input.dtype).contiguous(memory_format=layout.memory_format(weight))
    return dx, dskip, dw, db


def phases(weight: Tensor, low_channels: int) -> Tensor:
    return reference.upcat_phases(weight, low_channels).contiguous(memory_format=torch.channels_last)


def register(library: Any, name: str, kernel: Any) -> None:
    """``kernel`` for every device without one of ours, with :func:`note`; for all devices where PCONV_FALLBACK=1 asks.

    ``unfused_*`` is the same under a name of its own: the CUDA kernels call it on devices that are too old.
    """

    def noted(first: Tensor, *arguments: Any) -> Any:
        note(first.device)
        return kernel(first, *arguments)

    everywhere = os.environ.get("PCONV_FALLBACK") == "1"
    overridden = ["CPU", *(["CUDA"] if extension.cuda_module() else [])] if everywhere else []
    library.impl(name, noted, "CompositeExplicitAutograd")
    schema = str(getattr(torch.ops.pconv_cuda, name).default._schema).removeprefix("pconv_cuda::")
    library.define(f"unfused_{schema}")
    library.impl(f"unfused_{name}", noted, "CompositeExplicitAutograd")
    with warnings.catch_warnings():  # torch 2.11 warns of the override although it is allowed
        warnings.simplefilter("ignore", UserWarning)
        for key in overridden:
            library.impl(name, noted, key, allow_override=True)
