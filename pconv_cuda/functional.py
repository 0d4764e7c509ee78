"""Partial convolution as a function: checks and shapes here, arithmetic in the operator."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from pconv_cuda import ops

__all__ = ["partial_conv2d", "partial_conv2d_sources"]

Pair = int | tuple[int, ...]  # one number, or two: rows and columns


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
        mask: ``(N|1, 1|C, H, W)``, or ``(1|C, H, W)`` for an unbatched input; bool, uint8 or floating, read as
            ``mask != 0``: 1 is valid, 0 is a hole. ``None``: all valid, so that only the image border is
            renormalised (partial convolution based padding, arXiv 1811.11718).
        weight: ``(K, C / groups, R, S)``, of the input's dtype.
        bias: ``(K,)`` or None; added where a window holds a valid pixel.
        stride, padding, dilation, groups: as in :func:`torch.nn.functional.conv2d`; ``padding`` takes
            ``'same'`` and ``'valid'`` too.

    Returns:
        ``(output, new_mask)``: the output ``(N, K, P, Q)``, 0 where a window holds no valid pixel, and the new
        mask ``(N, 1, P, Q)`` of the mask's dtype (bool for None); ``(N, K, P, Q)`` where ``groups > 1`` meets a
        mask of C channels. An expanded (stride 0) axis stays one. Unbatched input gives unbatched results.

    Raises:
        ValueError: shapes, or a parameter, that do not fit; the message names the argument.
        TypeError: a mask that is neither bool, uint8 nor floating.
        RuntimeError: dtypes or devices that differ; a non-0/1 mask when ``PCONV_CHECK=1`` is set.
    """
    batched = input.dim() == 4
    if not batched:
        if input.dim() != 3:
            raise ValueError(f"input: expected (N, C, H, W) or (C, H, W), got shape {tuple(input.shape)}")
        if mask is not None and mask.dim() != 3:
            raise ValueError(f"mask: expected (1|C, H, W) as the input is unbatched, got shape {tuple(mask.shape)}")
        input, mask = input.unsqueeze(0), None if mask is None else mask.unsqueeze(0)
    _check_weight(input, weight, bias, groups)
    if mask is not None:
        mask = _compact(_checked_mask(mask, input))
    stride, dilation = _pair("stride", stride, 1), _pair("dilation", dilation, 1)
    if isinstance(padding, str):
        input, mask, padding = _named_padding(padding, input, mask, weight, stride, dilation)
    padding = _pair("padding", padding, 0)
    output, alive, _ = ops.partial_conv2d(input, mask, [], weight, bias, stride, padding, dilation, groups)
    new_mask = _as_new_mask(alive, output, mask)
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
    joined = torch.cat(list(inputs), dim=1)
    _check_weight(joined, weight, bias, 1)
    compact: list[Tensor] = []
    mask_channels: list[int] = []  # how many channels of `joined` each channel of the joined mask stands for
    for source, mask in zip(inputs, masks, strict=True):
        if mask is None:
            mask = source.new_ones((1, 1, *source.shape[2:]), dtype=torch.bool)
        mask = _compact(_checked_mask(mask, source))
        compact.append(mask if mask.dtype == torch.bool else mask != 0)
        mask_channels += [source.shape[1] // mask.shape[1]] * mask.shape[1]
    batch = max(mask.shape[0] for mask in compact)
    joined_mask = torch.cat([mask.expand(batch, -1, -1, -1) for mask in compact], dim=1)
    output, alive, _ = ops.partial_conv2d(
        joined,
        joined_mask,
        mask_channels,
        weight,
        bias,
        _pair("stride", stride, 1),
        _pair("padding", padding, 0),
        _pair("dilation", dilation, 1),
        1,
    )
    return output, _as_new_mask(alive, output, None)


def padded_mask(mask: Tensor, sides: Sequence[int], mode: str = "constant") -> Tensor:
    """``F.pad`` of a mask, with holes by default. By way of fp32: most modes, and torch.compile, know no bool."""
    padded = F.pad((mask != 0).to(torch.float32), list(sides), mode=mode)
    return padded != 0 if mask.dtype == torch.bool else padded.to(mask.dtype)


def _check_weight(input: Tensor, weight: Tensor, bias: Tensor | None, groups: int) -> None:
    if groups < 1:
        raise ValueError(f"groups: expected a positive integer, got {groups}")
    if weight.dim() != 4:
        raise ValueError(f"weight: expected (K, C / groups, R, S), got shape {tuple(weight.shape)}")
    if input.shape[1] != weight.shape[1] * groups:
        raise ValueError(
            f"input: expected {weight.shape[1] * groups} channels (weight {tuple(weight.shape)}, groups {groups}), "
            f"got {input.shape[1]}"
        )
    if weight.shape[0] % groups:
        raise ValueError(f"weight: expected output channels divisible by groups {groups}, got {weight.shape[0]}")
    if bias is not None and tuple(bias.shape) != (weight.shape[0],):
        raise ValueError(f"bias: expected shape ({weight.shape[0]},), got {tuple(bias.shape)}")


def _checked_mask(mask: Tensor, input: Tensor) -> Tensor:
    if not (mask.dtype in (torch.bool, torch.uint8) or mask.dtype.is_floating_point):
        raise TypeError(f"mask: expected bool, uint8 or a floating dtype, got {mask.dtype}")
    batch, channels, height, width = input.shape
    fits = (
        mask.dim() == 4
        and mask.shape[0] in (1, batch)
        and mask.shape[1] in (1, channels)
        and mask.shape[2] == height
        and mask.shape[3] == width
    )
    if not fits:
        raise ValueError(
            f"mask: expected ({batch}|1, 1|{channels}, {height}, {width}) to fit the input, got {tuple(mask.shape)}"
        )
    return mask.detach()  # masks have no gradient


def _compact(mask: Tensor) -> Tensor:
    """Undo an expansion over batch or channels: same values, fewer of them, no copy."""
    if mask.shape[0] > 1 and mask.stride(0) == 0:
        mask = mask[:1]
    if mask.shape[1] > 1 and mask.stride(1) == 0:
        mask = mask[:, :1]
    return mask


def _as_new_mask(alive: Tensor, output: Tensor, mask: Tensor | None) -> Tensor:
    """The operator's bool (N|1, 1|groups, P, Q) as users get it: whole batch, the mask's dtype."""
    if mask is not None:
        alive = alive.to(mask.dtype)
    if alive.shape[1] > 1:
        alive = alive.repeat_interleave(output.shape[1] // alive.shape[1], dim=1)
    return alive.expand(output.shape[0], -1, -1, -1)


def _pair(name: str, value: Pair, least: int) -> tuple[int, int]:
    pair = (value, value) if isinstance(value, int) else tuple(value)
    if len(pair) != 2 or min(pair) < least:
        raise ValueError(f"{name}: expected one or two integers of at least {least}, got {value!r}")
    return pair[0], pair[1]


def _named_padding(
    name: str,
    input: Tensor,
    mask: Tensor | None,
    weight: Tensor,
    stride: tuple[int, int],
    dilation: tuple[int, int],
) -> tuple[Tensor, Tensor | None, tuple[int, int]]:
    """'valid' and 'same' as numbers. An even window needs one more row or column of holes below or right."""
    if name == "valid":
        return input, mask, (0, 0)
    if name != "same":
        raise ValueError(f"padding: expected integers, 'same' or 'valid', got {name!r}")
    if stride != (1, 1):
        raise ValueError(f"padding: 'same' needs stride 1, got stride {stride}")
    rows, columns = (d * (size - 1) for d, size in zip(dilation, weight.shape[2:], strict=True))
    if rows % 2 or columns % 2:
        if mask is None:
            mask = input.new_ones((1, 1, *input.shape[2:]), dtype=torch.bool)
        below_right = (0, columns % 2, 0, rows % 2)
        input, mask = F.pad(input, below_right), padded_mask(mask, below_right)
    return input, mask, (rows // 2, columns // 2)
