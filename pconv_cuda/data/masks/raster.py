"""Polygons and discs as pixels, without a loop over pixels.

A shape's boundary becomes +1 and -1 at the pixels where a walk down a column enters and leaves it; the running
sum is the winding number, and what it is not 0 for belongs to the shape. A pixel belongs by its centre.
"""

from __future__ import annotations

import numpy as np

__all__ = ["Bits", "Patch", "fill_discs", "fill_polygon"]

# rows, columns, and the bool array that belongs there: shapes are small beside the picture
Patch = tuple[slice, slice, np.ndarray]


def fill_polygon(vertices: np.ndarray, height: int, width: int) -> Patch | None:
    """The pixels of a closed polygon, by the rule of nonzero winding.

    Args:
        vertices: (n, 2) float, (y, x) in pixels, the first pixel's centre at (0.5, 0.5).
        height, width: of the picture; what lies outside is cut off.

    Returns:
        None where no pixel centre of the picture lies within the polygon's bounding box.
    """
    y, x = vertices[:, 0] - 0.5, vertices[:, 1] - 0.5
    top, bottom = max(0, int(np.ceil(y.min()))), min(height, int(np.floor(y.max())) + 1)
    left, right = max(0, int(np.ceil(x.min()))), min(width, int(np.floor(x.max())) + 1)
    if top >= bottom or left >= right:
        return None
    next_y, next_x = np.append(y[1:], y[0]), np.append(x[1:], x[0])
    # each edge crosses the columns first..last-1: half open, so that a vertex on a column counts once
    first = np.clip(np.ceil(np.minimum(x, next_x)), left, right).astype(np.int64)
    last = np.clip(np.ceil(np.maximum(x, next_x)), left, right).astype(np.int64)
    crossings = last - first
    edges = np.repeat(np.arange(y.size), crossings)
    within = np.arange(edges.size) - np.repeat(np.cumsum(crossings) - crossings, crossings)
    columns = first[edges] + within
    run = next_x - x
    slope = np.divide(next_y - y, run, out=np.zeros_like(run), where=run != 0)
    rows = np.clip(np.ceil(y[edges] + (columns - x[edges]) * slope[edges]), top, bottom).astype(np.int64)
    winding = np.zeros((bottom - top + 1, right - left), dtype=np.int8)
    turn = np.where(run > 0, 1, -1).astype(np.int8)
    np.add.at(winding.reshape(-1), (rows - top) * (right - left) + columns - left, turn[edges])
    np.add.accumulate(winding, axis=0, out=winding)
    return slice(top, bottom), slice(left, right), winding[:-1] != 0


def fill_discs(y: np.ndarray, x: np.ndarray, radius: np.ndarray, height: int, width: int) -> np.ndarray:
    """The union of discs, (height, width) bool.

    Args:
        y, x, radius: (n,) float, pixels; a disc too thin to hold a pixel's centre may leave no trace.
    """
    reach = int(np.ceil(radius.max()))
    columns = np.floor(x).astype(np.int64)[:, None] + np.arange(-reach, reach + 1)
    square = radius[:, None] ** 2 - (columns + 0.5 - x[:, None]) ** 2
    half = np.sqrt(np.maximum(square, 0))
    enter = np.clip(np.ceil(y[:, None] - half - 0.5), 0, height).astype(np.int64)
    leave = np.clip(np.floor(y[:, None] + half - 0.5) + 1, 0, height).astype(np.int64)
    there = (square >= 0) & (columns >= 0) & (columns < width) & (enter < leave)
    steps = np.zeros((height + 1, width), dtype=np.int16)
    flat = steps.reshape(-1)
    np.add.at(flat, enter[there] * width + columns[there], np.int16(1))
    np.add.at(flat, leave[there] * width + columns[there], np.int16(-1))
    np.add.accumulate(steps, axis=0, out=steps)
    return steps[:-1] > 0


class Bits:
    """Pixels as one whole number, a bit each: to dilate by a pixel is a handful of shifts, all of it in the cache.

    Each row ends in a spare bit that stays 0, so that a shift does not carry a pixel into the next row.
    """

    def __init__(self, height: int, width: int) -> None:
        self.height, self.width, self.row = height, width, width + 1

    def pack(self, pixels: np.ndarray) -> int:
        padded = np.pad(pixels, ((0, 0), (0, 1)))
        return int.from_bytes(np.packbits(padded, bitorder="little").tobytes(), "little")

    def unpack(self, bits: int) -> np.ndarray:
        count = self.height * self.row
        flat = np.frombuffer(bits.to_bytes((count + 7) // 8, "little"), dtype=np.uint8)
        return np.unpackbits(flat, count=count, bitorder="little").reshape(self.height, self.row)[:, :-1].astype(bool)

    def dilate(self, bits: int, square: bool, allowed: int) -> int:
        """The pixels and their neighbours, eight with ``square``, else four, as far as they are ``allowed``.

        In turn the two make octagons, which are nearly discs.
        """
        across = bits | bits << 1 | bits >> 1
        along = across if square else bits
        return (across | along << self.row | along >> self.row) & allowed
