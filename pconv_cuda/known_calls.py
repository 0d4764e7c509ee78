"""Calls like one that was checked before: the same shapes, dtypes and devices need no second look.

The checks of a call take longer than the operator's own start, ten times so when the caches hold other things. What
they found out is kept by what they looked at.
"""

from __future__ import annotations

import os
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import Parameter

__all__ = ["Known", "find", "keep", "signature"]

PLAIN = (Tensor, Parameter)  # no subclasses, which may say anything of themselves
MOST = 4096  # of a program whose pictures all have another size

_known: dict[Any, Known] = {}


class Known(NamedTuple):
    """What the checks of a call found out."""

    window: tuple[tuple[int, int], tuple[int, int], tuple[int, int], int]  # stride, padding, dilation, groups
    mask: tuple[slice, slice] | None  # what is left of a mask that was expanded
    by_group: bool  # the new mask has a channel a filter


def _is_plain(value: Any) -> bool:
    """One integer or two, and nothing that is equal to them: 1.0 is refused by the checks."""
    if type(value) is tuple:
        return len(value) == 2 and type(value[0]) is int and type(value[1]) is int
    return type(value) is int


def signature(
    input: Tensor, mask: Tensor | None, weight: Tensor, bias: Tensor | None,
    stride: Any, padding: Any, dilation: Any, groups: Any,
) -> Any:  # fmt: skip
    """What the checks look at; None where they have to run: compiled code, other types, autocast's mixed dtypes, masks
    that require a gradient, and with ``PCONV_CHECK``, which looks at the mask's values."""
    if torch.compiler.is_compiling() or "PCONV_CHECK" in os.environ:
        return None
    if not (type(input) in PLAIN and type(weight) in PLAIN and (bias is None or type(bias) in PLAIN)):
        return None
    if not (_is_plain(stride) and _is_plain(padding) and _is_plain(dilation) and type(groups) is int):
        return None
    dtype, device = input.dtype, input.device
    if weight.dtype is not dtype or weight.device != device:
        return None
    of_mask = of_bias = None
    if mask is not None:
        if type(mask) not in PLAIN or mask.requires_grad or mask.device != device:
            return None
        of_mask = mask.shape, mask.stride(), mask.dtype
    if bias is not None:
        if bias.dtype is not dtype or bias.device != device:
            return None
        of_bias = bias.shape
    return input.shape, dtype, device, weight.shape, of_mask, of_bias, stride, padding, dilation, groups


def find(signature: Any) -> Known | None:
    return None if signature is None else _known.get(signature)


def keep(signature: Any, known: Known) -> None:
    if signature is not None:
        if len(_known) >= MOST:
            _known.clear()
        _known[signature] = known
