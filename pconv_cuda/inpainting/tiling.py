"""Which parts of a picture the network has to see: boxes around holes, windows, pieces.

All geometry is in whole pixels of one picture, rows first. Nothing here runs a network.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["Box", "Piece", "hole_boxes", "pieces_of", "spread"]

_STRIP = 2048  # rows or columns that are worked on at once


@dataclass(frozen=True)
class Box:
    """Rows ``top <= y < bottom`` and columns ``left <= x < right`` of a picture."""

    top: int
    left: int
    bottom: int
    right: int

    @property
    def height(self) -> int:
        return self.bottom - self.top

    @property
    def width(self) -> int:
        return self.right - self.left

    @property
    def slices(self) -> tuple[slice, slice]:
        """The index of the box in an (H, W) array."""
        return slice(self.top, self.bottom), slice(self.left, self.right)

    def grown(self, margin: int, size: tuple[int, int], grid: int = 1) -> Box:
        """The box with ``margin`` px on each side, outward to multiples of ``grid``, cut at (H, W)."""
        height, width = size
        return Box(
            max(0, (self.top - margin) // grid * grid),
            max(0, (self.left - margin) // grid * grid),
            min(height, -(-(self.bottom + margin) // grid) * grid),
            min(width, -(-(self.right + margin) // grid) * grid),
        )

    def inside(self, other: Box) -> Box:
        """The part within ``other``; it may be empty (no height or width), never negative."""
        top, left = max(self.top, other.top), max(self.left, other.left)
        return Box(top, left, max(top, min(self.bottom, other.bottom)), max(left, min(self.right, other.right)))

    def seen_from(self, other: Box) -> Box:
        """The same box with ``other``'s upper left corner as the origin."""
        return Box(self.top - other.top, self.left - other.left, self.bottom - other.top, self.right - other.left)


@dataclass(frozen=True)
class Piece:
    """One run of the network: it sees ``window`` and answers for ``core``.

    ``ramp`` px around the core its answer fades out, under the fading answers of its neighbours. It is 0
    where every piece sees all that can influence its core: then neighbours agree and a fade would only blur.
    """

    core: Box
    window: Box
    ramp: int


def spread(mask: Tensor, radius: int) -> Tensor:
    """Where a true pixel of the bool mask (H, W) lies within a square of ``radius`` px.

    Two one-dimensional passes over running sums, so that the cost does not depend on the radius; in strips, so that
    the memory does not grow with a large picture.
    """
    mask = torch.cat([_spread_in_rows(strip, radius) for strip in mask.split(_STRIP)])
    return torch.cat([_spread_in_rows(strip.T, radius).T for strip in mask.split(_STRIP, 1)], 1)


def _spread_in_rows(mask: Tensor, radius: int) -> Tensor:
    length = mask.shape[1]
    sums = F.pad(mask.to(torch.int32).cumsum(1, dtype=torch.int32), (1, 0))
    at = torch.arange(length, device=mask.device)
    last = sums.index_select(1, (at + radius + 1).clamp(max=length))
    return last > sums.index_select(1, (at - radius).clamp(min=0))


def hole_boxes(hole: Tensor, gap: int) -> list[Box]:
    """Boxes that together hold every true pixel of ``hole`` (H, W), tight and at least ``gap`` px apart.

    The picture is cut along empty bands of rows and columns, again and again until no band is left. Holes
    that no straight cut separates share a box, which costs time only.
    """

    def runs(line: Tensor) -> list[tuple[int, int]]:
        found = line.nonzero().flatten()
        if not len(found):
            return []
        breaks = (found.diff() > gap).nonzero().flatten()
        starts = torch.cat([found[:1], found[breaks + 1]]).tolist()
        ends = torch.cat([found[breaks], found[-1:]]).tolist()
        return [(start, end + 1) for start, end in zip(starts, ends, strict=True)]

    boxes, open_boxes = [], [Box(0, 0, *hole.shape)]
    while open_boxes:
        box = open_boxes.pop()
        part = hole[box.slices]
        cells = [
            Box(box.top + top, box.left + left, box.top + bottom, box.left + right)
            for top, bottom in runs(part.any(1))
            for left, right in runs(part[top:bottom].any(0))
        ]
        if cells == [box]:
            boxes.append(box)
        else:
            open_boxes += cells
    return sorted(boxes, key=lambda box: (box.top, box.left))


def pieces_of(box: Box, size: tuple[int, int], grid: int, context: int, limit: int) -> Iterator[Piece]:
    """Cut ``box`` of a picture of ``size`` (H, W) into pieces whose windows have at most ``limit`` px a side.

    Windows begin on the network's ``grid``, counted from the picture's corner: there the strided layers fall as
    they do in a run on the whole picture. Where the windows also hold all that can have influence, everything within
    ``context`` px, the answers are the same as that run's; where ``limit`` leaves no room for it, they hold what
    it allows, and neighbours fade into each other.
    """
    halo = -(-context // grid) * grid
    whole = box.grown(context, size, grid)
    if max(whole.height, whole.width) <= limit:
        yield Piece(box, whole, 0)
    elif limit >= 2 * halo + grid:
        step = (limit - 2 * halo) // grid * grid
        for top in range(box.top // grid * grid, box.bottom, step):
            for left in range(box.left // grid * grid, box.right, step):
                cell = Box(top, left, top + step, left + step)
                yield Piece(cell.inside(box), cell.grown(halo, size), 0)
    else:
        # below four cells of the grid, keeping to it could push a core out of its window
        unit = grid if limit >= 4 * grid else 1
        ramp = (limit // 4 - unit // 2) // 2
        columns = list(_shares(box.left, box.right, size[1], limit, unit))
        for top, bottom, window_top, window_bottom in _shares(box.top, box.bottom, size[0], limit, unit):
            for left, right, window_left, window_right in columns:
                window = Box(window_top, window_left, window_bottom, window_right)
                yield Piece(Box(top, left, bottom, right), window, ramp)


def _shares(start: int, stop: int, length: int, limit: int, unit: int) -> Iterator[tuple[int, int, int, int]]:
    """Equal shares of one axis, each at most half of ``limit``: (start, stop) and its window's.

    A window has ``limit`` px, lies around its share and within the picture, and begins on ``unit``.
    """
    count = -(-(stop - start) // max(1, limit // 2))
    for number in range(count):
        first = start + (stop - start) * number // count
        last = start + (stop - start) * (number + 1) // count
        begin = round(((first + last - limit) / 2) / unit) * unit
        begin = max(0, min(begin, -(-(length - limit) // unit) * unit))
        yield first, last, begin, min(begin + limit, length)
