"""Partial convolution as a function: checks and shapes here, arithmetic in the operator."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from pconv_cuda import known_calls, ops, reference
from pconv_cuda.checks import (
    check_convolution,
    check_fits,
    check_tensor,
    check_upcat,
    checked_mask,
    compact,
    group_count,
    named_padding,
    pair,
    smooth_arguments,
    upcat_mask,
)
from pconv_cuda.functional_nd import (
    partial_conv1d,
    partial_conv3d,
    partial_conv_transpose1d,
    partial_conv_transpose2d,
    partial_conv_transpose3d,
)
from pconv_cuda.ops.autocast import lowered
from pconv_cuda.ops.layout import new_mask_as_returned
from pconv_cuda.ops.transforms import call_operator, is_transformed
from pconv_cuda.smooth import MAX_ITERATIONS, TENSION, TOLERANCE

__all__ = [
    "is_transformed",
    "partial_conv1d",
    "partial_conv2d",
    "partial_conv2d_sources",
    "partial_conv2d_upcat",
    "partial_conv3d",
    "partial_conv_transpose1d",
    "partial_conv_transpose2d",
    "partial_conv_transpose3d",
    "smooth_fill",
]

Pair = int | tuple[int, ...]  # one number, or two: rows and columns
STAGE_WINDOW = ((1, 1), (1, 1), (1, 1), 1)  # stride, padding, dilation, groups of a decoder stage


def partial_conv2d(
    input: Tensor,
    mask: Tensor | None,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Pair = 1,
    padding: Pair | str = 0,
    dilation: Pair = 1,
    groups: int = 1,
) -> tuple[Tensor, Tensor]:
    """Convolve the valid pixels, rescale by how many there were, and shrink the hole.

    Liu et al., ECCV 2018 (arXiv 1804.07723), equations 1 and 2. What lies in a hole has no influence, NaN
    included; outside the image counts as a hole. Differentiable twice in ``input``, ``weight`` and ``bias``.

    Args:
        input: ``(N, C, H, W)`` or ``(C, H, W)``; float64, float32, bfloat16 or float16; contiguous or
            channels_last, which the output keeps.
        mask: ``(N|1, 1|C, H, W)``, or ``(1|C, H, W)``, one for all pictures of a batch; bool, uint8 or floating: 1
            (and every other value but 0) is valid, 0 and NaN are holes. ``None``: all valid, so that only
            the image border is renormalised (partial convolution based padding, arXiv 1811.11718).
        weight: ``(K, C / groups, R, S)``, of the input's dtype.
        bias: ``(K,)`` or None; added where a window holds a valid pixel.
        stride, padding, dilation, groups: as in :func:`torch.nn.functional.conv2d`; ``padding`` takes
            ``'same'`` and ``'valid'`` too.

    Returns:
        ``(output, new_mask)``: the output ``(N, K, P, Q)``, 0 where a window holds no valid pixel, and the new
        mask ``(N, 1, P, Q)`` of the mask's dtype (bool for None); ``(N, K, P, Q)`` where ``groups > 1`` meets a
        mask of C channels. Nothing is copied for an expanded (stride 0) axis. Unbatched input gives unbatched results.

    Under torch.func's transforms and forward-mode AD the unfused reference runs: slower, and as differentiable.

    Raises:
        ValueError: shapes, devices, or a parameter, that do not fit; the message names the argument.
        TypeError: dtypes that do not fit.
        RuntimeError: a non-0/1 mask when ``PCONV_CHECK=1`` is set.
    """
    signature = known_calls.signature(input, mask, weight, bias, stride, padding, dilation, groups)
    known = known_calls.find(signature)
    if known is None:
        return _checked_conv2d(signature, input, mask, weight, bias, stride, padding, dilation, groups)
    if mask is not None:
        mask = (mask if known.mask_slices is None else mask[known.mask_slices]).detach()
    output, new_mask = apply(input, mask, weight, bias, *known.window)
    return output, new_mask_as_returned(new_mask, output, mask, known.by_group)


def _checked_conv2d(
    signature: Any, input: Tensor, mask: Tensor | None, weight: Tensor, bias: Tensor | None,
    stride: Pair, padding: Pair | str, dilation: Pair, groups: int,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    check_tensor("input", input)
    if input.dim() not in (3, 4):
        raise ValueError(f"input: expected (N, C, H, W) or (C, H, W), got shape {tuple(input.shape)}")
    batched = input.dim() == 4
    if not batched:
        if mask is not None and mask.dim() != 3:
            raise ValueError(f"mask: expected (1|C, H, W) as the input is unbatched, got shape {tuple(mask.shape)}")
        input, mask = input.unsqueeze(0), None if mask is None else mask.unsqueeze(0)
    groups = group_count(groups)
    check_convolution(input, weight, bias, groups)
    by_group, given = False, mask
    if mask is not None:
        mask = checked_mask(mask, input)
        by_group = groups > 1 and mask.shape[1] > 1
        mask = compact(mask)
    stride, dilation = pair("stride", stride, 1), pair("dilation", dilation, 1)
    if isinstance(padding, str):
        input, mask, padding = named_padding(padding, input, mask, weight, stride, dilation)
    padding = pair("padding", padding, 0)
    check_fits(input, weight, stride, padding, dilation)
    if batched and (given is None or given.dim() == 4):
        slices = None
        if mask is not None and given is not None and mask.shape != given.shape:
            slices = slice(0, mask.shape[0]), slice(0, mask.shape[1])
        known_calls.keep(signature, known_calls.Known((stride, padding, dilation, groups), slices, by_group))
    output, new_mask = apply(input, mask, weight, bias, stride, padding, dilation, groups)
    new_mask = new_mask_as_returned(new_mask, output, mask, by_group)
    return (output, new_mask) if batched else (output.squeeze(0), new_mask.squeeze(0))


def partial_conv2d_sources(
    inputs: Sequence[Tensor],
    masks: Sequence[Tensor | None],
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Pair = 1,
    padding: Pair = 0,
    dilation: Pair = 1,
) -> tuple[Tensor, Tensor]:
    """Partial convolution of ``torch.cat(inputs, 1)`` where every source has a mask of its own.

    A U-Net's decoder sees two blocks of channels, each with one mask, so the count is
    ``sum of C_i * box(mask_i)`` and no full-channel mask is ever made.

    Args:
        inputs: tensors ``(N, C_i, H, W)`` of one size, dtype and layout.
        masks: one ``(N|1, 1|C_i, H, W)`` a source, bool, uint8 or floating, or None for all valid.
        weight: ``(K, sum of C_i, R, S)``; bias, stride, padding, dilation: as in :func:`partial_conv2d`.

    Returns:
        ``(output, new_mask)`` as :func:`partial_conv2d`; the new mask is bool.

    Raises:
        ValueError: not as many masks as inputs, or shapes that do not fit.
    """
    if len(inputs) != len(masks) or not inputs:
        raise ValueError(f"masks: expected one for each of the {len(inputs)} inputs, got {len(masks)}")
    for source in inputs:
        check_tensor("inputs", source)
        alike = source.dim() == 4 and source.shape[0] == inputs[0].shape[0] and source.shape[2:] == inputs[0].shape[2:]
        if not alike or 0 in source.shape[1:]:
            shapes = ", ".join(str(tuple(each.shape)) for each in inputs)
            raise ValueError(f"inputs: expected (N, C_i, H, W) of one batch and size, C_i not 0, got {shapes}")
        # Under autocast dtypes may differ: a float32 picture and half-precision features.
        same = source.dtype == inputs[0].dtype or torch.is_autocast_enabled(source.device.type)
        if not same or source.device != inputs[0].device:
            kinds = ", ".join(f"{each.dtype} on {each.device}" for each in inputs)
            raise TypeError(f"inputs: expected one dtype and device, got {kinds}")
    if len({source.dtype for source in inputs}) > 1:
        inputs = [source.to(torch.get_autocast_dtype(source.device.type)) for source in inputs]
    joined_channels = sum(source.shape[1] for source in inputs)
    check_convolution(inputs[0], weight, bias, 1, channels=joined_channels)
    compact_masks = [
        None if mask is None else compact(checked_mask(mask, source))
        for source, mask in zip(inputs, masks, strict=True)
    ]
    stride, padding, dilation = pair("stride", stride, 1), pair("padding", padding, 0), pair("dilation", dilation, 1)
    check_fits(inputs[0], weight, stride, padding, dilation)
    window = (stride, padding, dilation, 1)
    if len(inputs) == 2 and all(mask is None or mask.shape[1] == 1 for mask in compact_masks):
        output, new_mask = apply(inputs[0], compact_masks[0], weight, bias, *window, inputs[1], compact_masks[1])
    else:  # per-channel masks, or other than two sources: the operator takes two sources with one-channel masks
        valid = [reference.valid_mask(mask, each) for mask, each in zip(compact_masks, inputs, strict=True)]
        batch = 1 if all(mask.shape[0] == 1 for mask in valid) else inputs[0].shape[0]
        spread = [mask.expand(batch, each.shape[1], -1, -1) for mask, each in zip(valid, inputs, strict=True)]
        joined = torch.cat(list(inputs), dim=1)
        output, new_mask = apply(joined, torch.cat(spread, dim=1), weight, bias, *window)
    return output, new_mask_as_returned(new_mask, output, None, False)


def partial_conv2d_upcat(
    low: Tensor,
    low_mask: Tensor | None,
    skip: Tensor,
    skip_mask: Tensor | None,
    weight: Tensor,
    bias: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """One stage of a U-Net's decoder: double ``low``, join ``skip``, and convolve the valid pixels by 3x3.

    The partial convolution (stride 1, padding 1) of ``cat([upsample(low), skip], 1)``, where both tensors keep a
    mask of their own, without making either: over a picture doubled by nearest neighbours a 3x3 convolution is
    four 2x2 convolutions of the small picture, with 4/9 of the multiplications. The same numbers as by way of
    :func:`partial_conv2d_sources` but for rounding, and differentiable twice in ``low``, ``skip``, ``weight`` and
    ``bias``.

    Args:
        low: ``(N, Cu, H / 2, W / 2)``; float64, float32, bfloat16 or float16.
        low_mask: ``(N|1, 1, H / 2, W / 2)``, bool, uint8 or floating, or None for all valid: 1 is valid, 0 is a
            hole. ``(N|1, Cu, H / 2, W / 2)`` where all channels are equal (not in compiled graphs).
        skip: ``(N, Cs, H, W)`` of low's dtype, H and W even (pad the picture until every level halves evenly).
        skip_mask: ``(N|1, 1, H, W)``, as ``low_mask``.
        weight: ``(K, Cu + Cs, 3, 3)``, its input channels in the order [low | skip].
        bias: ``(K,)`` or None; added where a window holds a valid pixel.

    Returns:
        ``(output, new_mask)``: ``(N, K, H, W)`` in low's layout, 0 where a window holds no valid pixel, and the new
        mask, a bool ``(N, 1, H, W)``.

    Under torch.func's transforms and forward-mode AD the unfused reference runs, as in :func:`partial_conv2d`.

    Raises:
        ValueError: shapes or devices that do not fit, an odd size of ``skip``, a mask whose channels differ; the
            message names the argument.
        TypeError: dtypes that do not fit.
        RuntimeError: a non-0/1 mask when ``PCONV_CHECK=1`` is set.
    """
    check_upcat(low, skip, weight, bias)
    low_mask, skip_mask = upcat_mask("low_mask", low_mask, low), upcat_mask("skip_mask", skip_mask, skip)
    output, new_mask = apply(low, low_mask, weight, bias, *STAGE_WINDOW, skip, skip_mask, upsample=True)
    return output, new_mask.expand(output.shape[0], -1, -1, -1)


def smooth_fill(
    input: Tensor,
    mask: Tensor,
    *,
    tension: float = TENSION,
    tolerance: float = TOLERANCE,
    max_iterations: int = MAX_ITERATIONS,
) -> Tensor:
    """Fill holes with the smoothest surface through the known pixels: no weights, any channels, any range.

    A thin plate under tension (Smith and Wessel, Geophysics 55(3), 1990; what GMT grids data with). With L(u) the sum
    of a pixel's four neighbours minus four times the pixel, the output u solves::

        (1 - tension) * L(L(u)) - tension * L(u) = 0    at each hole pixel
        u = input                                       at each valid pixel

    and the picture goes on beyond its border by reflection, its border pixels repeated: u[-1] = u[0], u[-2] = u[1] in
    rows and columns, at all four sides. It is the u that minimises the sum over all pixels of (1 - tension) * L(u)^2
    plus the sum over all pairs of neighbours of tension * (difference)^2. ``tension=0`` is biharmonic filling (with
    this border), ``tension=1`` harmonic: no new extrema, but edges end at the hole.

    The output is a function of that equation, not of the solver: it is iterated until the error, as the energy's norm
    estimates it, is ``tolerance`` times that of the start; on a CPU each hole by itself, else each channel.

    Args:
        input: ``(N, C, H, W)`` or ``(C, H, W)``; float64, float32, bfloat16 or float16, the latter two computed in
            float32. Contiguous or channels_last, which the output keeps. What lies in holes is not read. NaN or
            infinity in a valid pixel within two pixels of a hole make that hole NaN.
        mask: ``(N|1, 1|C, H, W)``, or ``(1|C, H, W)`` for an unbatched input; bool, uint8 or floating: 1 is valid, 0
            and NaN are holes.
        tension: 0 to 1.
        tolerance: 0 or more; what is below 4 units of rounding (5e-7, or 9e-16 in float64) counts as these. With the
            default, hole pixels differ from the exact solution by some hundredths of a grey level of 255, at single
            pixels of wide holes by some tenths.
        max_iterations: the limit of iterations, each a V-cycle; holes take about 5 with the defaults.

    Returns:
        The filled picture, shape, dtype and layout of ``input``; valid pixels come back to the bit.

    Not differentiable. Autocast does not change its precision. On a GPU the check that each plane has a valid pixel
    waits for the device; nothing else does.

    Raises:
        ValueError: shapes, devices or parameters that do not fit; a sample and channel without a valid pixel. (A
            RuntimeError in compiled code.) The message names the argument.
        TypeError: dtypes that do not fit.
        RuntimeError: an input that requires a gradient, outside of ``torch.no_grad()``, or has a tangent; a non-0/1
            mask when ``PCONV_CHECK=1`` is set.
    """
    batch, valid, tension, tolerance, max_iterations = smooth_arguments(input, mask, tension, tolerance, max_iterations)
    filled = ops.smooth_fill(batch, valid, tension, tolerance, max_iterations)
    return filled if input.dim() == 4 else filled.squeeze(0)


def apply(
    input: Tensor,
    mask: Tensor | None,
    weight: Tensor,
    bias: Tensor | None,
    stride: tuple[int, int],
    padding: tuple[int, int],
    dilation: tuple[int, int],
    groups: int,
    skip: Tensor | None = None,
    skip_mask: Tensor | None = None,
    upsample: bool = False,
    prepared: Tensor | None = None,
    negative_slope: float = 1.0,
) -> tuple[Tensor, Tensor]:
    """The operator; or the reference, under torch.func's transforms, which need torch's own operators."""
    window = (stride, padding, dilation, groups)
    if not is_transformed(input, skip, weight, bias):
        rest = (upsample, prepared, -1, negative_slope)
        arguments = (input, mask, skip, skip_mask, weight, bias, *window, *rest)
        return call_operator(ops.partial_conv2d, (input, skip, weight, bias, prepared), *arguments)[:2]
    input, skip, weight, bias = lowered(input, skip, weight, bias)  # type: ignore[assignment]
    if skip is None:
        valid = reference.valid_mask(mask, input)
    else:
        input, valid = reference.join(input, mask, skip, skip_mask, upsample)
    output, new_mask = reference.partial_conv2d(input, valid, weight, bias, *window)
    return reference.activation(output, negative_slope), new_mask
