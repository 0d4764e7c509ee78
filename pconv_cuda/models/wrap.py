"""Axes that go round, as longitudes do: what lies beyond the last column is the first one.

Data and masks are padded first and the operators pad by holes elsewhere, so that every convolution of the package
serves. A decoder stage takes one pixel more of its small source and two of its large one, and two are cut off its
result: the fused operator runs on that.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

__all__ = [
    "Mode",
    "Wraps",
    "around",
    "continued",
    "entering",
    "missing_to_multiple",
    "padding_mode_of",
    "within",
    "wraps_of",
]

Wraps = tuple[bool, bool]  # whether rows and columns go round
Mode = str | tuple[str, str]
_MODES = ("zeros", "circular")


def padding_mode_of(given: Any) -> Mode:
    """A padding mode, checked: one word, or two where rows and columns differ."""
    modes = (given, given) if isinstance(given, str) else tuple(given) if isinstance(given, Sequence) else ()
    if len(modes) != 2 or not all(mode in _MODES for mode in modes):
        raise ValueError(
            f"padding_mode: expected 'zeros' or 'circular', or one for rows and one for columns, got {given!r}"
        )
    return modes[0] if modes[0] == modes[1] else (modes[0], modes[1])


def wraps_of(mode: Mode) -> Wraps:
    """Which axes go round."""
    rows, columns = (mode, mode) if isinstance(mode, str) else mode
    return rows == "circular", columns == "circular"


def missing_to_multiple(size: int, step: int) -> int:
    """How many rows or columns are missing to the next multiple of ``step``.

    Without ``-size % step``, at which torch.compile fails where the size is a symbol ("python_mod", torch 2.14).
    """
    return (size + step - 1) // step * step - size


def around(x: Tensor, widths: Sequence[int]) -> Tensor:
    """``(..., H, W)`` with so many rows and columns more at either side, taken from the opposite one; of any dtype."""
    for dim, width in zip((-2, -1), widths, strict=True):
        if width:
            x = _continued(x, dim, width, width)
    return x


def within(x: Tensor, widths: Sequence[int]) -> Tensor:
    """A view without so many rows and columns at either side."""
    rows, columns = widths
    return x[..., rows : x.shape[-2] - rows, columns : x.shape[-1] - columns]


def entering(x: Tensor, mask: Tensor, wraps: Wraps, padding: Sequence[int]) -> tuple[Tensor, Tensor, tuple[int, ...]]:
    """Data and mask padded along the axes that go round, and what is left for the convolution to pad."""
    if not any(wraps):
        return x, mask, tuple(padding)
    widths = [size if goes_round else 0 for size, goes_round in zip(padding, wraps, strict=True)]
    left = tuple(0 if goes_round else size for size, goes_round in zip(padding, wraps, strict=True))
    return around(x, widths), around(mask, widths), left


def continued(tensors: Sequence[Tensor], wraps: Wraps, margin: int, step: int) -> tuple[list[Tensor], tuple[int, int]]:
    """Along each axis that goes round and is no multiple of ``step``: more at either side, up to a multiple.

    Args:
        tensors: ``(..., H, W)`` of one size.
        wraps: the axes.
        margin: so many rows or columns at least, but no more than half of all.
        step: sides become multiples of it.

    Returns:
        The tensors, and the row and column at which the original begins.
    """
    first = [0, 0]
    for axis, goes_round in enumerate(wraps):
        size = tensors[0].shape[axis - 2]
        if goes_round and (step == 1 or size % step):
            before = min(margin, (size + 1) // 2)
            after = before + -(size + 2 * before) % step
            first[axis] = before
            tensors = [_continued(each, axis - 2, before, after) for each in tensors]
    return list(tensors), (first[0], first[1])


def _continued(x: Tensor, dim: int, before: int, after: int) -> Tensor:
    size = x.shape[dim]
    if before > size or after > size:
        return x.index_select(dim, torch.arange(-before, size + after, device=x.device) % size)
    # cat keeps channels_last, and takes bool
    return torch.cat((x.narrow(dim, size - before, before), x, x.narrow(dim, 0, after)), dim)
