"""Partial convolutions of one and three axes, and transposed ones, as functions; see docs/layers.md.

The same operation as :func:`pconv_cuda.functional.partial_conv2d`. Everything is public in ``pconv_cuda.functional``.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from pconv_cuda import ops, reference_nd
from pconv_cuda.checks import check_tensor, checked_mask, compact, group_count
from pconv_cuda.checks_nd import batched_arguments, check_size, check_weight, named_padding, numbers
from pconv_cuda.ops.autocast import lowered
from pconv_cuda.ops.layout import new_mask_as_returned
from pconv_cuda.ops.transforms import call_operator, is_transformed
from pconv_cuda.reference_nd import Window

__all__ = [
    "partial_conv1d",
    "partial_conv3d",
    "partial_conv_transpose1d",
    "partial_conv_transpose2d",
    "partial_conv_transpose3d",
]

Numbers = int | tuple[int, ...]  # one for all axes, or one an axis


def partial_conv1d(
    input: Tensor,
    mask: Tensor | None,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Numbers = 1,
    padding: Numbers | str = 0,
    dilation: Numbers = 1,
    groups: int = 1,
) -> tuple[Tensor, Tensor]:
    """:func:`pconv_cuda.functional.partial_conv2d` for series: ``(N, C, L)`` with a weight ``(K, C / groups, S)``.

    Arguments, results and errors are as there, with one axis; it is that operator, on rows.

    Returns:
        ``(output, new_mask)``: ``(N, K, Q)`` and ``(N, 1, Q)``.
    """
    return _ordinary(1, input, mask, weight, bias, stride, padding, dilation, groups)


def partial_conv3d(
    input: Tensor,
    mask: Tensor | None,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Numbers = 1,
    padding: Numbers | str = 0,
    dilation: Numbers = 1,
    groups: int = 1,
) -> tuple[Tensor, Tensor]:
    """:func:`pconv_cuda.functional.partial_conv2d` for volumes ``(N, C, D, H, W)``.

    The weight is ``(K, C / groups, T, R, S)``. Arguments, results and errors are as there, with three axes; the output
    keeps channels_last_3d.

    Returns:
        ``(output, new_mask)``: ``(N, K, O, P, Q)`` and ``(N, 1, O, P, Q)``.
    """
    return _ordinary(3, input, mask, weight, bias, stride, padding, dilation, groups)


def partial_conv_transpose1d(
    input: Tensor,
    mask: Tensor | None,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Numbers = 1,
    padding: Numbers = 0,
    output_padding: Numbers = 0,
    groups: int = 1,
    dilation: Numbers = 1,
) -> tuple[Tensor, Tensor]:
    """:func:`partial_conv_transpose2d` for series: ``(N, C, L)`` with a weight ``(C, K / groups, S)``."""
    return _transposed(1, input, mask, weight, bias, stride, padding, output_padding, groups, dilation)


def partial_conv_transpose2d(
    input: Tensor,
    mask: Tensor | None,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Numbers = 1,
    padding: Numbers = 0,
    output_padding: Numbers = 0,
    groups: int = 1,
    dilation: Numbers = 1,
) -> tuple[Tensor, Tensor]:
    """Transposed convolution of the valid pixels, rescaled by how many of those that an output sees there were.

    The count is the transposed convolution of the mask with ones. What it is compared with, sum(1), are the taps that
    meet an input pixel at this output where there is no border: with a stride most taps fall between the pixels, and
    how many do not differs from output to output. So without holes all but the border is what
    :func:`torch.nn.functional.conv_transpose2d` gives, and as everywhere a border is a hole.

    Args:
        input: ``(N, C, H, W)`` or ``(C, H, W)``; float64, float32, bfloat16 or float16; contiguous or channels_last,
            which the output keeps.
        mask: ``(N|1, 1|C, H, W)``, or ``(1|C, H, W)``, one for all pictures of a batch; bool, uint8 or floating: 1 is
            valid, 0 and NaN are holes. None: all valid.
        weight: ``(C, K / groups, R, S)``, of the input's dtype.
        bias: ``(K,)`` or None; added where a window holds a valid pixel.
        stride, padding, output_padding, groups, dilation: as in :func:`torch.nn.functional.conv_transpose2d`.

    Returns:
        ``(output, new_mask)``: the output ``(N, K, P, Q)``, 0 where no tap meets a valid pixel, and the new mask
        ``(N, 1, P, Q)`` of the mask's dtype (bool for None); ``(N, K, P, Q)`` where ``groups > 1`` meets a mask of C
        channels. Unbatched input gives unbatched results.

    Differentiable twice in ``input``, ``weight`` and ``bias``; under torch.func's transforms and forward-mode AD the
    unfused reference runs.

    Raises:
        ValueError: shapes, devices, or a parameter, that do not fit; the message names the argument.
        TypeError: dtypes that do not fit.
        RuntimeError: a non-0/1 mask when ``PCONV_CHECK=1`` is set.
    """
    return _transposed(2, input, mask, weight, bias, stride, padding, output_padding, groups, dilation)


def partial_conv_transpose3d(
    input: Tensor,
    mask: Tensor | None,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Numbers = 1,
    padding: Numbers = 0,
    output_padding: Numbers = 0,
    groups: int = 1,
    dilation: Numbers = 1,
) -> tuple[Tensor, Tensor]:
    """:func:`partial_conv_transpose2d` for volumes: ``(N, C, D, H, W)`` with a weight ``(C, K / groups, T, R, S)``."""
    return _transposed(3, input, mask, weight, bias, stride, padding, output_padding, groups, dilation)


def _ordinary(
    axes: int,
    input: Tensor,
    mask: Tensor | None,
    weight: Tensor,
    bias: Tensor | None,
    stride: Numbers,
    padding: Numbers | str,
    dilation: Numbers,
    groups: int,
) -> tuple[Tensor, Tensor]:
    batch, mask, batched = batched_arguments(input, mask, axes)
    groups = group_count(groups)
    check_weight(batch, weight, bias, groups, False)
    mask, by_group = _compact_mask(mask, batch, groups)
    steps, apart = numbers("stride", stride, axes, 1), numbers("dilation", dilation, axes, 1)
    if isinstance(padding, str):
        batch, mask, padding = named_padding(padding, batch, mask, weight, steps, apart)
    window = Window(steps, numbers("padding", padding, axes, 0), apart, (0,) * axes, groups, False)
    return _apply(batch, mask, weight, bias, window, by_group, batched)


def _transposed(
    axes: int,
    input: Tensor,
    mask: Tensor | None,
    weight: Tensor,
    bias: Tensor | None,
    stride: Numbers,
    padding: Numbers,
    output_padding: Numbers,
    groups: int,
    dilation: Numbers,
) -> tuple[Tensor, Tensor]:
    batch, mask, batched = batched_arguments(input, mask, axes)
    groups = group_count(groups)
    check_weight(batch, weight, bias, groups, True)
    mask, by_group = _compact_mask(mask, batch, groups)
    steps, apart = numbers("stride", stride, axes, 1), numbers("dilation", dilation, axes, 1)
    more = numbers("output_padding", output_padding, axes, 0)
    if any(each >= max(step, gap) for each, step, gap in zip(more, steps, apart, strict=True)):
        raise ValueError(
            f"output_padding: expected less than the stride {steps} or the dilation {apart}, got {output_padding!r}"
        )
    window = Window(steps, numbers("padding", padding, axes, 0), apart, more, groups, True)
    return _apply(batch, mask, weight, bias, window, by_group, batched)


def _compact_mask(mask: Tensor | None, input: Tensor, groups: int) -> tuple[Tensor | None, bool]:
    """The mask checked and without expanded axes, and whether each group has a new mask of its own."""
    if mask is None:
        return None, False
    mask = checked_mask(mask, input)
    return compact(mask), groups > 1 and mask.shape[1] > 1


def _apply(
    input: Tensor,
    mask: Tensor | None,
    weight: Tensor,
    bias: Tensor | None,
    window: Window,
    by_group: bool,
    batched: bool,
) -> tuple[Tensor, Tensor]:
    check_tensor("weight", weight)
    check_size(reference_nd.output_shape(input, weight, window)[2:], input, weight)
    differentiable = (input, weight, bias)
    if is_transformed(*differentiable):
        input, weight, bias = lowered(*differentiable)  # type: ignore[assignment]
        output, new_mask, _ = reference_nd.partial_conv(input, mask, weight, bias, window)
    elif input.dim() == 3:  # a row of pixels
        row = None if mask is None else mask.unsqueeze(2)
        image, filters = input.unsqueeze(2), weight.unsqueeze(2)
        differentiable = (image, filters, bias)
        stride, padding, dilation, more, groups, transposed = window
        places = [(1, *stride), (0, *padding), (1, *dilation)]
        if transposed or input.device.type == "cpu":
            arguments: tuple[Any, ...] = (image, row, filters, bias, *places, (0, *more), groups, transposed)
            output, new_mask, _ = call_operator(ops.partial_conv_nd, differentiable, *arguments)
        else:  # on a GPU its kernels are fused
            rest = (*places, groups, False, None, -1, 1.0)  # no stage, no activation
            arguments = (image, row, None, None, filters, bias, *rest)
            output, new_mask, _ = call_operator(ops.partial_conv2d, differentiable, *arguments)
        output, new_mask = output.squeeze(2), new_mask.squeeze(2)
    else:
        output, new_mask, _ = call_operator(ops.partial_conv_nd, differentiable, input, mask, weight, bias, *window)
    new_mask = new_mask_as_returned(new_mask, output, mask, by_group)
    return (output, new_mask) if batched else (output.squeeze(0), new_mask.squeeze(0))
