"""What the partial convolutions of one to three axes accept; see :mod:`pconv_cuda.checks`."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from pconv_cuda.checks import DTYPES, LIMIT, check_parameters, check_tensor, padded_mask

__all__ = [
    "AXES",
    "batched_arguments",
    "check_input",
    "check_size",
    "check_weight",
    "named_padding",
    "numbers",
]

# What a shape of so many axes is called in messages.
AXES = {1: "L", 2: "H, W", 3: "D, H, W"}


def numbers(name: str, value: Any, axes: int, least: int) -> tuple[int, ...]:
    """One integer for all axes, or a sequence of one an axis."""
    try:
        found = [operator.index(part) for part in (value if isinstance(value, Sequence) else (value,))]
    except TypeError:
        found = []
    expected = f"{name}: expected an integer of at least {least}, or {axes} of them"
    if len(found) not in (1, axes) or min(found) < least:
        raise ValueError(f"{expected}, got {value!r}")
    if max(found) >= LIMIT:
        raise ValueError(f"{expected}, below 2^31, got {value!r}")
    return tuple(found) if len(found) == axes else tuple(found * axes)


def check_input(input: Tensor, axes: int) -> None:
    """A tensor ``(N, C, ...)`` or ``(C, ...)`` of a dtype that is served, with at least one channel and position."""
    check_tensor("input", input)
    if input.dim() not in (axes + 1, axes + 2):
        raise ValueError(f"input: expected (N, C, {AXES[axes]}) or (C, {AXES[axes]}), got shape {tuple(input.shape)}")
    if input.dtype not in DTYPES:
        raise TypeError(f"input: expected float64, float32, bfloat16 or float16, got {input.dtype}")
    if 0 in input.shape[-1 - axes :]:
        raise ValueError(f"input: expected at least one channel and one position, got shape {tuple(input.shape)}")


def batched_arguments(input: Tensor, mask: Tensor | None, axes: int) -> tuple[Tensor, Tensor | None, bool]:
    """Input and mask ``(N, ...)``, and whether the input was a batch."""
    check_input(input, axes)
    if mask is not None:
        check_tensor("mask", mask)
    if input.dim() == axes + 2:
        return input, mask, True
    if mask is not None and mask.dim() != axes + 1:
        raise ValueError(f"mask: expected (1|C, {AXES[axes]}) as the input is unbatched, got shape {tuple(mask.shape)}")
    return input.unsqueeze(0), None if mask is None else mask.unsqueeze(0), False


def check_weight(input: Tensor, weight: Tensor, bias: Tensor | None, groups: int, transposed: bool) -> None:
    """Parameters that fit a batched input: ``(K, C / groups, ...)``, transposed ``(C, K / groups, ...)``."""
    check_tensor("weight", weight)
    names = "(C, K / groups, ...)" if transposed else "(K, C / groups, ...)"
    if weight.dim() != input.dim() or 0 in weight.shape:
        raise ValueError(
            f"weight: expected {names} of {input.dim()} dimensions, none of them 0, got shape {tuple(weight.shape)}"
        )
    channels = weight.shape[0] if transposed else weight.shape[1] * groups
    if input.shape[1] != channels:
        raise ValueError(
            f"input: expected {channels} channels (weight {tuple(weight.shape)}, groups {groups}), got {input.shape[1]}"
        )
    if weight.shape[0] % groups:
        which = "input" if transposed else "output"
        raise ValueError(f"weight: expected {which} channels divisible by groups {groups}, got {weight.shape[0]}")
    filters = weight.shape[1] * groups if transposed else weight.shape[0]
    if bias is not None:
        check_tensor("bias", bias)
        if tuple(bias.shape) != (filters,):
            raise ValueError(f"bias: expected shape ({filters},), got {tuple(bias.shape)}")
    for name, tensor in (("weight", weight), ("bias", bias)):  # apart, for a transposed weight begins with C
        check_parameters(input, "the input's", {name: tensor})


def check_size(size: Sequence[int], input: Tensor, weight: Tensor) -> None:
    """That an output of this size is not empty, and fits into memory."""
    values = input.shape[0] * weight.shape[0]
    for each in size:
        if each < 1:
            raise ValueError(
                f"weight: a window {tuple(weight.shape[2:])} leaves no output of the input {tuple(input.shape)} with "
                f"these strides, paddings and dilations: {tuple(size)}"
            )
        values *= each
    if values >= 2**60:  # its bytes must be a 64-bit number
        raise ValueError(f"padding: expected an output that fits into memory, got one of {values} values")


def named_padding(
    name: str, input: Tensor, mask: Tensor | None, weight: Tensor, stride: Sequence[int], dilation: Sequence[int]
) -> tuple[Tensor, Tensor | None, tuple[int, ...]]:
    """'valid' and 'same' as numbers. An even window needs one more position of holes at an axis' end."""
    axes = len(stride)
    if name == "valid":
        return input, mask, (0,) * axes
    if name != "same":
        raise ValueError(f"padding: expected integers, 'same' or 'valid', got {name!r}")
    if any(step != 1 for step in stride):
        raise ValueError(f"padding: 'same' needs stride 1, got stride {tuple(stride)}")
    whole = [each * (size - 1) for each, size in zip(dilation, weight.shape[2:], strict=True)]
    if any(each % 2 for each in whole):
        if mask is None:
            mask = input.new_ones((1, 1, *input.shape[2:]), dtype=torch.bool)
        at_the_end = [side for each in reversed(whole) for side in (0, each % 2)]
        input, mask = F.pad(input, at_the_end), padded_mask(mask, at_the_end)
    return input, mask, tuple(each // 2 for each in whole)
