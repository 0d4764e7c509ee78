"""Polygons and discs as pixels, without a loop over pixels.

A shape's boundary becomes +1 and -1 at the pixels where a walk down a column enters and leaves it; the running
sum is the winding number, and what it is not 0 for belongs to the shape. A pixel belongs by its centre.
"""

from __future__ import annotations

import numpy as np

__all__ = ["Bits", "Patch", "fill_discs", "fill_polygons"]

# rows, columns, and the bool array that belongs there: shapes are small beside the picture
Patch = tuple[slice, slice, np.ndarray]


def fill_polygons(vertices: np.ndarray, height: int, width: int) -> list[Patch | None]:
    """The pixels of closed polygons, by the rule of nonzero winding.

    Args:
        vertices: (k, n, 2) float, (y, x) in pixels, the first pixel's centre at (0.5, 0.5); at most 127 turns.
        height, width: of the picture; what lies outside is cut off.

    Returns:
        One for each polygon; None where no pixel centre of the picture lies within its bounding box.
    """
    places = vertices - 0.5
    low, high = np.ceil(places.min(axis=1)), np.floor(places.max(axis=1)) + 1
    low, high = np.maximum(low, 0).astype(np.int64), np.minimum(high, [height, width]).astype(np.int64)
    (y, x), (next_y, next_x) = places.transpose(2, 0, 1), np.roll(places, -1, axis=1).transpose(2, 0, 1)
    (top, left), (bottom, right) = low.T, high.T
    # each edge crosses the columns first..last-1: half open, so that a vertex on a column counts once
    first, last = (
        np.minimum(np.maximum(np.ceil(end), left[:, None]), right[:, None]).astype(np.int64)
        for end in (np.minimum(x, next_x), np.maximum(x, next_x))
    )
    crossings = last - first
    run = next_x - x
    slope = np.divide(next_y - y, run, out=np.zeros_like(run), where=run != 0)
    # all crossings of all edges, one polygon's after the other's
    flat = crossings.reshape(-1)
    edges = np.repeat(np.arange(flat.size), flat)
    columns = first.reshape(-1)[edges] + np.arange(edges.size) - np.repeat(np.cumsum(flat) - flat, flat)
    rows = np.ceil(y.reshape(-1)[edges] + (columns - x.reshape(-1)[edges]) * slope.reshape(-1)[edges])
    turn = np.where(run > 0, 1, -1).reshape(-1)[edges]
    ends = np.cumsum(crossings.sum(axis=1))
    patches: list[Patch | None] = []
    for number, (start, end) in enumerate(zip([0, *ends[:-1]], ends, strict=True)):
        down, across = slice(top[number], bottom[number]), slice(left[number], right[number])
        if down.start >= down.stop or across.start >= across.stop:
            patches.append(None)
            continue
        own = slice(start, end)
        row = np.minimum(np.maximum(rows[own], down.start), down.stop).astype(np.int64) - down.start
        size = (int(down.stop - down.start), int(across.stop - across.start))
        patches.append((down, across, _sums(row, columns[own] - across.start, turn[own], *size, np.uint8)))
    return patches


def _sums(
    rows: np.ndarray, columns: np.ndarray, values: np.ndarray, height: int, width: int, lane: type[np.unsignedinteger]
) -> np.ndarray:
    """Where the running sum of ``values``, down each column, is not 0: (height, width) bool.

    The columns stand side by side in words of 64 bits, a ``lane`` each, and are added together, eight times as fast.
    A bias of half the lane's range keeps every sum positive, so that no lane borrows from the next; sums must lie
    within the bias.

    Args:
        rows, columns, values: (n,) whole numbers, what is added from which pixel on; row ``height`` adds nothing.
    """
    size = np.dtype(lane).itemsize
    bits, lanes = 8 * size, 8 // size
    words = -(-width // lanes)
    sums = np.zeros((height + 1, words), dtype="<u8")
    bias = 1 << (bits - 1)
    sums[0] = sum(bias << (bits * number) for number in range(lanes))
    # -1 is a word full of ones: modulo 2^64 the shifted values add as signed numbers do
    parts = values.astype(np.int64) << (bits * (columns % lanes))
    np.add.at(sums.reshape(-1), rows * words + columns // lanes, parts.view(np.uint64))
    np.add.accumulate(sums, axis=0, out=sums)
    return np.asarray(sums.view(np.dtype(lane).newbyteorder("<"))[:-1, :width] != bias)


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
    at, turn = columns[there], np.repeat([1, -1], np.count_nonzero(there))
    return _sums(np.r_[enter[there], leave[there]], np.r_[at, at], turn, height, width, np.uint16)


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
