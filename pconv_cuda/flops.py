"""What torch's counter of operations, ``torch.utils.flop_counter.FlopCounterMode``, has to know of ours."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import torch
from torch.utils import flop_counter

from pconv_cuda import ops  # noqa: F401  registers the operators

__all__ = ["register"]

Shape = Sequence[int]


def register() -> None:
    """Let ``FlopCounterMode`` count the operators of this package; without it they count as nothing.

    A partial convolution counts as an ordinary one of its shape, as torch counts that: twice the multiplications,
    those of holes included, bias and mask left out. So a network and the same network of ordinary convolutions have
    the same number. A decoder's stage counts as the 3x3 convolution behind doubling and joining. The smooth fill is no
    product and counts as nothing.

    Call it before the counter is made. A second call changes nothing. The counter sees eager code alone.
    """
    for name, formula in _FORMULAS.items():
        operator = getattr(torch.ops.pconv_cuda, name)
        if operator not in flop_counter.flop_registry:
            flop_counter.register_flop_formula(operator)(_by_name(operator, formula))


# A formula takes the operator's arguments, shapes for tensors (csrc/torch/schemas.h), and the results' shapes.


def _convolution(input: Shape, weight: Shape, out_shape: Sequence[Shape], **_: Any) -> int:
    return _products(input[0], out_shape[0][2:], weight)


def _products(images: int, positions: Shape, weight: Shape) -> int:
    """Each position of each image meets the whole weight once."""
    return 2 * images * prod(positions) * prod(weight)


def _gradients(
    grad: Shape, input: Shape, skip: Any, weight: Shape,
    need_input: bool, need_skip: bool, need_weight: bool, **_: Any,
) -> int:  # fmt: skip
    whole = _products(grad[0], grad[2:], weight)
    # beside a skip the input has its channels' share of the weight
    low = whole if skip is None else whole * input[1] // weight[1]
    return low * need_input + (whole - low) * need_skip + whole * need_weight


def _convolution_nd(input: Shape, weight: Shape, transposed: bool, out_shape: Sequence[Shape], **_: Any) -> int:
    return _products(input[0], (input if transposed else out_shape[0])[2:], weight)


def _gradients_nd(
    grad: Shape, input: Shape, weight: Shape, transposed: bool, need_input: bool, need_weight: bool, **_: Any
) -> int:
    return _products(grad[0], (input if transposed else grad)[2:], weight) * (need_input + need_weight)


def _conv3x3(input: Shape, weight: Shape, **_: Any) -> int:
    return _products(input[0], input[2:], weight)


def _by_name(operator: Any, formula: Callable[..., int]) -> Callable[..., int]:
    """The formula for arguments as a call has them, by position or by name."""
    names = [argument.name for argument in operator.default._schema.arguments]

    def count(*arguments: Any, out_shape: Any, **named: Any) -> int:
        return formula(**dict(zip(names, arguments, strict=False)), **named, out_shape=out_shape)

    return count


_FORMULAS: dict[str, Callable[..., int]] = {
    "partial_conv2d": _convolution,
    "partial_conv2d_backward": _gradients,
    "partial_conv_nd": _convolution_nd,
    "partial_conv_nd_backward": _gradients_nd,
    "conv3x3": _conv3x3,
}
