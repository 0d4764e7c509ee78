"""Sizes and memory layouts of the operators' results."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["memory_format", "output_size", "result_format"]


def memory_format(tensor: Tensor) -> torch.memory_format:
    """channels_last where the strides say so, else contiguous: the layout that results keep.

    The same rule stands in csrc/torch/checks.h. For one channel or one pixel both layouts are the same bytes,
    and the strides still tell which one was meant.
    """
    n, c, h, w = tensor.shape
    sn, sc, sh, sw = tensor.stride()
    dense_pixels = sc == 1 and sw >= c and sh >= sw * w and sn >= sh * h
    # One channel of one pixel has strides (1, 1, 1, 1), which fit both: contiguous.
    return torch.channels_last if dense_pixels and sn != sc and n * h * w > 0 else torch.contiguous_format


def output_size(size: int, window: int, stride: int, padding: int, dilation: int) -> int:
    """Rows (or columns) of the output."""
    return (size + 2 * padding - dilation * (window - 1) - 1) // stride + 1


def result_format(input: Tensor, skip: Tensor | None) -> torch.memory_format:
    """The output's: the input's, but one pixel's strides may say anything. As in csrc/torch/checks.h."""
    return memory_format(skip if skip is not None and input.shape[2] * input.shape[3] == 1 else input)
