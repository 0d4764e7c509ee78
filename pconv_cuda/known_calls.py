"""Calls of partial_conv2d that passed its checks before, which are not checked again.

The checks of a call take longer than the start of the operator. Their results are kept under all that they depend on:
shapes, dtypes, devices, the mask's strides, and the arguments.
"""

from __future__ import annotations

import os
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import Parameter

__all__ = ["Known", "find", "keep", "signature"]

TENSOR_TYPES = (Tensor, Parameter)  # a subclass may have other rules
MAX_KNOWN_CALLS = 4096  # a program may see pictures of very many sizes

_known: dict[Any, Known] = {}


class Known(NamedTuple):
    """The results of a call's checks."""

    window: tuple[tuple[int, int], tuple[int, int], tuple[int, int], int]  # stride, padding, dilation, groups
    mask_slices: tuple[slice, slice] | None  # images and channels of an expanded mask that the operator needs
    by_group: bool  # the new mask has a channel for each filter


def _is_plain(value: Any) -> bool:
    """One integer or two, and nothing that is equal to them: the checks refuse 1.0."""
    if type(value) is tuple:
        return len(value) == 2 and type(value[0]) is int and type(value[1]) is int
    return type(value) is int


def signature(
    input: Tensor, mask: Tensor | None, weight: Tensor, bias: Tensor | None,
    stride: Any, padding: Any, dilation: Any, groups: Any,
) -> Any:  # fmt: skip
    """The key of a call; None where the checks have to run: in compiled or traced code, for subclasses, for the mixed
    dtypes that autocast allows, and with ``PCONV_CHECK``, which looks at the mask's values."""
    if torch.compiler.is_compiling() or torch._C._is_tracing() or "PCONV_CHECK" in os.environ:
        return None
    if not (type(input) in TENSOR_TYPES and type(weight) in TENSOR_TYPES):
        return None
    if not (_is_plain(stride) and _is_plain(padding) and _is_plain(dilation) and type(groups) is int):
        return None
    dtype, device = input.dtype, input.device
    if weight.dtype is not dtype or weight.device != device:
        return None
    mask_key = bias_key = None
    if mask is not None:
        if type(mask) not in TENSOR_TYPES or mask.device != device:
            return None
        mask_key = mask.shape, mask.stride(), mask.dtype
    if bias is not None:
        if type(bias) not in TENSOR_TYPES or bias.dtype is not dtype or bias.device != device:
            return None
        bias_key = bias.shape
    return input.shape, dtype, device, weight.shape, mask_key, bias_key, stride, padding, dilation, groups


def find(signature: Any) -> Known | None:
    return None if signature is None else _known.get(signature)


def keep(signature: Any, known: Known) -> None:
    if signature is not None:
        if len(_known) >= MAX_KNOWN_CALLS:
            _known.clear()
        _known[signature] = known
