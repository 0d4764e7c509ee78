"""Borders continued by padding modes, data and mask alike: what the layers do before their convolution."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from pconv_cuda.checks import checked_mask, compact, group_count, padded_mask, pair
from pconv_cuda.checks_nd import batched_arguments, check_weight, numbers
from pconv_cuda.layer_parts import MODES

__all__ = ["continued", "mode_of_each", "split_padding"]

Sides = list[tuple[int, int]]  # positions before and behind each axis, the first axis first


def mode_of_each(padding_mode: Any, axes: int) -> tuple[str, ...]:
    """The mode of each axis.

    Raises:
        ValueError: unknown ones, or too few or too many.
    """
    single = isinstance(padding_mode, str) or not isinstance(padding_mode, Sequence)
    modes = (padding_mode,) * axes if single else tuple(padding_mode)
    if len(modes) != axes or not all(mode in MODES for mode in modes):
        many = {1: "a tuple of one", 2: "two for rows and columns"}.get(axes, f"a tuple of {axes}, one for each axis")
        raise ValueError(f"padding_mode: expected one of {', '.join(MODES)}, or {many}, got {padding_mode!r}")
    return modes


def split_padding(padding: Any, ends: Sequence[int], modes: Sequence[str]) -> tuple[tuple[int, ...], Sides]:
    """What the convolution pads with holes itself, and (before, after) of each axis for :func:`continued`.

    Args:
        padding: the layer's, for the error.
        ends: before and behind each axis, the last axis first, as torch's layers keep it.
        modes: of each axis.
    """
    axes = len(modes)
    if not isinstance(padding, str):
        pair("padding", padding, 0) if axes == 2 else numbers("padding", padding, axes, 0)
    pairs = [(ends[2 * axis], ends[2 * axis + 1]) for axis in reversed(range(axes))]
    own = [mode == "zeros" and before == after for mode, (before, after) in zip(modes, pairs, strict=True)]
    rest = tuple(before if left else 0 for left, (before, _) in zip(own, pairs, strict=True))
    return rest, [(0, 0) if left else pair for left, pair in zip(own, pairs, strict=True)]


def continued(
    input: Tensor,
    mask: Tensor | None,
    weight: Tensor,
    bias: Tensor | None,
    groups: int,
    transposed: bool,
    modes: Sequence[str],
    sides: Sequence[tuple[int, int]],
) -> tuple[Tensor, Tensor | None]:
    """Data and mask continued alike, by ``sides`` of each axis and its mode; holes for zeros.

    ``weight``, ``bias``, ``groups`` and ``transposed`` are the layer's: what does not fit is refused here, by its name.
    """
    axes = len(sides)
    batch, mask, batched = batched_arguments(input, mask, axes)
    groups = group_count(groups)
    check_weight(batch, weight, bias, groups, transposed)
    if mask is not None:
        mask = checked_mask(mask, batch)
        by_group = groups > 1 and mask.shape[1] > 1  # there the channels decide the new mask's shape
        mask = mask if by_group else compact(mask)
    for axis, mode in reversed(list(enumerate(modes))):
        if not any(sides[axis]):
            continue
        size = batch.shape[2 + axis]
        most = {"reflect": size - 1, "circular": size}.get(mode, max(sides[axis]))
        if max(sides[axis]) > most:
            raise ValueError(
                f"padding: expected at most {most} for padding_mode {mode!r} and an axis of {size}, "
                f"got {max(sides[axis])}"
            )
        if mask is None and mode == "zeros":
            mask = batch.new_ones((1, 1, *batch.shape[2:]), dtype=torch.bool)
        how = "constant" if mode == "zeros" else mode
        both = [0, 0] * (axes - 1 - axis) + list(sides[axis]) + [0, 0] * axis
        mask = None if mask is None else padded_mask(mask, both, how)
        batch = F.pad(batch, both, mode=how)
    if batched:
        return batch, mask
    return batch.squeeze(0), None if mask is None else mask.squeeze(0)
