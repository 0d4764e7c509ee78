"""Sizes and memory layouts of the operators' results."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["memory_format", "new_mask_as_returned", "output_size", "result_format"]


def memory_format(tensor: Tensor) -> torch.memory_format:
    """channels_last (of two or three spatial axes) where the strides say so, else contiguous: the layout of results.

    The same rule stands in csrc/torch/checks.h and window_passes.h. For one channel or one pixel both layouts are the
    same bytes, and the strides still tell which one was meant.
    """
    size, stride = tensor.shape, tensor.stride()
    last = tensor.dim() - 1
    dense = stride[1] == 1 and stride[last] >= size[1] and stride[0] >= stride[2] * size[2]
    dense = dense and all(stride[axis] >= stride[axis + 1] * size[axis + 1] for axis in range(2, last))
    # One channel of one pixel has strides (1, 1, 1, 1), which fit both: contiguous.
    if not dense or stride[0] == stride[1] or size[0] * size[2:].numel() == 0:
        return torch.contiguous_format
    return torch.channels_last_3d if tensor.dim() == 5 else torch.channels_last


def output_size(size: int, window: int, stride: int, padding: int, dilation: int) -> int:
    """Rows (or columns) of the output."""
    return (size + 2 * padding - dilation * (window - 1) - 1) // stride + 1


def result_format(input: Tensor, skip: Tensor | None) -> torch.memory_format:
    """The output's: the input's, but one pixel's strides may say anything. As in csrc/torch/checks.h."""
    return memory_format(skip if skip is not None and input.shape[2] * input.shape[3] == 1 else input)


def new_mask_as_returned(new_mask: Tensor, output: Tensor, mask: Tensor | None, by_group: bool) -> Tensor:
    """The operators' bool ``(N|1, 1|groups, ...)`` as functions return it: whole batch, the mask's dtype, K channels by
    group."""
    if mask is not None and mask.dtype is not torch.bool:
        new_mask = new_mask.to(mask.dtype)
    images, groups = new_mask.shape[:2]
    if groups > 1:
        new_mask = new_mask.repeat_interleave(output.shape[1] // groups, dim=1)
    elif images == output.shape[0] and not by_group:
        return new_mask
    channels = output.shape[1] if by_group else -1
    return new_mask.expand(output.shape[0], channels, *(-1,) * (output.dim() - 2))
