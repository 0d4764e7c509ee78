"""Partial convolutions of one to three axes, ordinary and transposed, in plain torch.

    count    = sum of the mask over the taps of the window that lie inside, and the group's input channels
    full     = (C / groups) * the taps of the window that would lie on an input position, had the input no border
    ratio    = full / count                    where count > 0, else 0
    output   = ratio * conv(m ? x : 0, W) + b  where count > 0, else 0
    new_mask = count > 0

For an ordinary convolution full is (C / groups) times the size of the window, as in :mod:`pconv_cuda.reference`. A
transposed one with a stride steps between the input's positions: there only some taps meet one, and how many differs
from output to output. The others see nothing that could be missing, so they count neither as valid nor as holes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from pconv_cuda.checks import as_valid, check_binary
from pconv_cuda.reference import without_autocast

__all__ = ["Window", "convolve", "fails_in_half", "full_count", "output_shape", "partial_conv", "window_ratio"]


class Window(NamedTuple):
    """Of a convolution, an integer an axis; ``output_padding`` is 0 where it is not ``transposed``."""

    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    output_padding: tuple[int, ...]
    groups: int
    transposed: bool


def output_shape(input: Tensor, weight: Tensor, window: Window) -> list[int]:
    """Of ``(N, C, ...)`` and a weight ``(K, C / groups, ...)``, transposed ``(C, K / groups, ...)``."""
    stride, padding, dilation, more, groups, transposed = window
    shape = [input.shape[0], weight.shape[1] * groups if transposed else weight.shape[0]]
    for axis, size in enumerate(input.shape[2:]):
        reach = dilation[axis] * (weight.shape[2 + axis] - 1) + 1
        if transposed:
            shape.append((size - 1) * stride[axis] - 2 * padding[axis] + reach + more[axis])
        else:
            shape.append((size + 2 * padding[axis] - reach) // stride[axis] + 1)
    return shape


def convolve(input: Tensor, weight: Tensor, window: Window) -> Tensor:
    """torch's own convolution."""
    stride, padding, dilation, more, groups, transposed = window
    axes = len(stride)
    if transposed:
        function: Any = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)[axes - 1]
        return function(input, weight, None, stride, padding, more, groups, dilation)
    function = (F.conv1d, F.conv2d, F.conv3d)[axes - 1]
    return function(input, weight, None, stride, padding, dilation, groups)


def full_count(weight: Tensor, window: Window, size: Sequence[int], dtype: torch.dtype) -> Tensor:
    """sum(1) of every window, ``(1, 1, *size)`` or, as it is the same everywhere, ``(1, 1, 1, ...)``."""
    axes = len(size)
    channels = weight.shape[0] // window.groups if window.transposed else weight.shape[1]
    count = torch.full((1,) * (2 + axes), channels, dtype=dtype, device=weight.device)
    for axis in range(axes):
        taps = torch.arange(weight.shape[2 + axis], device=weight.device)
        if not window.transposed:
            count = count * len(taps)
            continue
        at = torch.arange(size[axis], device=weight.device)[:, None] + window.padding[axis]
        meets = (at - taps * window.dilation[axis]) % window.stride[axis] == 0
        shape = [1] * (2 + axes)
        shape[2 + axis] = -1
        count = count * meets.sum(1).to(dtype).view(shape)
    return count


def window_ratio(mask: Tensor, weight: Tensor, window: Window, precise: torch.dtype) -> Tensor:
    """sum(1) / sum(mask) of every window, 0 where the sum is 0: ``(N, 1, ...)``.

    ``(N, groups, ...)`` where both the mask's channels and the groups are more than one.
    """
    groups, size = window.groups, weight.shape[2:]
    channels = weight.shape[0] // groups if window.transposed else weight.shape[1]
    # Sums of zeros and ones are exact in fp32 up to 2^24.
    valid = as_valid(mask).to(precise).clone(memory_format=torch.contiguous_format)
    with without_autocast(mask):
        if mask.shape[1] == 1:  # every channel alike: one window sum serves all of them
            box = torch.ones((1, 1, *size), dtype=precise, device=mask.device)
            count = channels * convolve(valid, box, window._replace(groups=1))
        else:
            shape = (mask.shape[1], 1, *size) if window.transposed else (groups, channels, *size)
            count = convolve(valid, torch.ones(shape, dtype=precise, device=mask.device), window)
    count = count.round()  # some algorithms of a GPU's library leave 1e-7 in an empty window
    full = full_count(weight, window, count.shape[2:], precise)
    return torch.where(count > 0, full / count.clamp(min=1), 0.0)


def partial_conv(
    input: Tensor, mask: Tensor | None, weight: Tensor, bias: Tensor | None, window: Window
) -> tuple[Tensor, Tensor, Tensor]:
    """(output, new_mask, ratio) from stock operators, differentiable by torch itself.

    input: ``(N, C, ...)`` with one to three axes; mask: ``(N|1, 1|C, ...)`` or None for all valid. The new mask (bool)
    and the ratio are ``(N|1, 1|groups, ...)``.
    """
    if mask is None:
        mask = input.new_ones((1, 1, *input.shape[2:]), dtype=torch.bool)
    else:
        check_binary(mask)
    precise = torch.float64 if input.dtype == torch.float64 else torch.float32
    ratio = window_ratio(mask, weight, window, precise)
    filters = weight.shape[1] * window.groups if window.transposed else weight.shape[0]
    spread = ratio.repeat_interleave(filters // ratio.shape[1], dim=1) if ratio.shape[1] > 1 else ratio
    masked = torch.where(as_valid(mask), input, 0.0)
    if input.device.type == "cpu":  # see reference.needs_plain_strides
        masked, weight = (t.clone(memory_format=torch.contiguous_format) for t in (masked, weight))
    if fails_in_half(masked, weight, window):
        with without_autocast(masked):
            output = convolve(masked.to(precise), weight.to(precise), window) * spread
    else:
        output = convolve(masked, weight, window).to(precise) * spread
    if bias is not None:
        output = output + bias.to(precise).view(-1, *(1,) * (input.dim() - 2))
    return torch.where(spread > 0, output, 0.0).to(input.dtype), ratio > 0, ratio


def fails_in_half(input: Tensor, weight: Tensor, window: Window) -> bool:
    """Whether oneDNN would fail in 16 bits: see :func:`pconv_cuda.reference.fails_in_half`. Of a volume that is smaller
    than the window along an axis it leaves values of the weight's gradient unwritten too."""
    half = input.dtype in (torch.bfloat16, torch.float16) or torch.is_autocast_enabled("cpu")
    if input.device.type != "cpu" or input.dtype == torch.float64 or not half:
        return False
    size = output_shape(input, weight, window)[2:] if window.transposed else input.shape[2:]
    reach = [dilation * (taps - 1) for dilation, taps in zip(window.dilation, weight.shape[2:], strict=True)]
    return any(
        window.stride[axis] > size[axis]
        or window.padding[axis] > reach[axis]
        or (len(size) == 3 and size[axis] <= reach[axis])
        for axis in range(len(size))
    )
