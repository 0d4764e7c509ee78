"""Masks of any kind with an exact hole share and a rule for the border.

A kind draws a piece: some pixels of about the wanted number. Pieces are laid over each other and dilated until
they reach the number of hole pixels that was drawn beforehand; surplus pixels of the last step are dropped.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from pconv_cuda.errors import PConvError
from pconv_cuda.masks.occlusion import occlusion
from pconv_cuda.masks.raster import Bits
from pconv_cuda.masks.shares import Limits
from pconv_cuda.masks.strokes import strokes
from pconv_cuda.rng import Stream, generator

__all__ = ["KINDS", "PIECES", "VERSION", "compose", "draw_mask", "draw_masks_batch", "sides"]

VERSION = 1  # of the masks that a generator gives
_TRIES = 2  # pieces; then dilation alone goes on

Piece = Callable[[Limits, int, np.random.Generator], np.ndarray]


def _mixed(limits: Limits, wanted: int, rng: np.random.Generator) -> np.ndarray:
    """Mostly occlusion, sometimes strokes, sometimes both over each other."""
    choice = rng.random()
    if choice < 0.65:
        return occlusion(limits, wanted, rng)
    if choice < 0.8:
        return strokes(limits, wanted, rng)
    return occlusion(limits, max(1, wanted // 2), rng) | strokes(limits, max(1, wanted // 2), rng)


PIECES: dict[str, Piece] = {"occlusion": occlusion, "strokes": strokes, "mixed": _mixed}
KINDS = tuple(PIECES)
"""What ``kind`` takes: ``"occlusion"``, ``"strokes"``, ``"mixed"``."""


def draw_mask(
    size: int | tuple[int, int],
    seed: np.random.Generator | int,
    kind: str = "mixed",
    hole_share: tuple[float, float] = (0.0, 0.6),
    border: bool | None = None,
) -> np.ndarray:
    """A mask with irregular holes.

    The paper's rotation, enlargement, cropping and dilation are in the drawing: scenes are turned and enlarged before
    they become pixels, and what a piece lacks of the hole share is dilation. For masks that exist as pixels there is
    :func:`~pconv_cuda.masks.augment`.

    Args:
        size: side of a square, or (height, width), pixels.
        seed: >= 0, or a generator. The same one gives the same mask.
        kind: "occlusion" (what moving shapes cover and uncover; the paper's family), "strokes" or "mixed".
        hole_share: (low, high]; the number of hole pixels is drawn uniformly from it and met exactly.
        border: False keeps holes out of the border band, 50 px wide at 512 and in proportion to the shorter
            side elsewhere; True puts at least one hole pixel into it; None: no rule.

    Returns:
        (height, width) bool, True where valid.

    Raises:
        PConvError: an unknown kind, or a size, share and border that no mask can have together.
    """
    if kind not in PIECES:
        raise PConvError(f"kind: expected one of {', '.join(KINDS)}, got {kind!r}")
    limits = Limits.of(*sides(size), hole_share, border)
    return ~compose(PIECES[kind], limits, np.random.default_rng(seed))


def draw_masks_batch(
    n: int,
    size: int | tuple[int, int],
    seed: int,
    kind: str = "mixed",
    hole_share: tuple[float, float] = (0.0, 0.6),
    border: bool | None = None,
    device: torch.device | str = "cpu",
) -> Tensor:
    """``n`` masks of :func:`draw_mask`, drawn on the CPU; mask k is a function of (seed, k).

    Args:
        n: >= 1.
        seed: >= 0.
        size, kind, hole_share, border: as for :func:`draw_mask`.
        device: of the result.

    Returns:
        (n, 1, height, width) bool, True where valid.

    Raises:
        PConvError: as :func:`draw_mask`, or n < 1.
    """
    if n < 1:
        raise PConvError(f"n: expected at least 1, got {n}")
    masks = [draw_mask(size, generator(seed, Stream.MASK, k), kind, hole_share, border) for k in range(n)]
    return torch.from_numpy(np.stack(masks)[:, None]).to(device)


def sides(size: int | tuple[int, int]) -> tuple[int, int]:
    """(height, width) from a side or a pair."""
    return (int(size), int(size)) if isinstance(size, int | np.integer) else (int(size[0]), int(size[1]))


def compose(piece: Piece, limits: Limits, rng: np.random.Generator) -> np.ndarray:
    """Hole pixels that keep to ``limits``: (height, width) bool."""
    wanted = int(rng.integers(limits.fewest, limits.most + 1))
    frame = _frame(limits, wanted, rng)
    hole = np.zeros((limits.height, limits.width), dtype=bool)
    # part of the share is the dilation's, as in the paper's masks; how much of it differs from mask to mask
    enough = rng.uniform(0.3, 0.7) * wanted
    count = 0
    for _ in range(_TRIES):
        new = piece(limits, wanted - count, rng)
        if frame is not None:
            new &= frame
        new &= ~hole
        if limits.border and not limits.in_band(hole | new):
            new = _to_the_border(hole | new, limits, rng)
            hole[:] = False
        found = int(np.count_nonzero(new)) + int(np.count_nonzero(hole))
        if found > wanted:
            return hole | _part(new, wanted - int(np.count_nonzero(hole)), limits, not limits.in_band(hole), rng)
        hole |= new
        count = found
        if count >= enough:
            break
    if count == 0:  # a tiny picture, or nothing but misses
        allowed = limits.within(np.ones_like(hole))
        hole = _part(allowed, 1, limits, True, rng)
    return _grow(hole, wanted, frame, limits, rng)


def _frame(limits: Limits, wanted: int, rng: np.random.Generator) -> np.ndarray | None:
    """Where holes may be: with border=False the inner rectangle, its edge drawn back here and there.

    Holes cut off along straight lines look artificial; the more room there is, the more the edge wanders.
    """
    if limits.border is not False:
        return None
    height, width = limits.height, limits.width
    rows, columns = limits.inner
    room = 1 - wanted / max(1, (rows.stop - rows.start) * (columns.stop - columns.start))
    most = 0.25 * room * min(height, width)
    frame = limits.within(np.ones((height, width), dtype=bool))
    y, x = np.arange(height, dtype=np.int32)[:, None], np.arange(width, dtype=np.int32)
    # of whole numbers: a pixel is at or beyond a curve if it is at or beyond the next whole number
    frame &= y >= _whole(rows.start + _wander(width, most, rng))
    frame &= y < _whole(rows.stop - _wander(width, most, rng))
    frame &= x >= _whole(columns.start + _wander(height, most, rng))[:, None]
    frame &= x < _whole(columns.stop - _wander(height, most, rng))[:, None]
    return frame


def _whole(curve: np.ndarray) -> np.ndarray:
    return np.ceil(curve).astype(np.int32)


def _wander(length: int, most: float, rng: np.random.Generator) -> np.ndarray:
    """A smooth random curve, (length,) float from 0 to ``most``."""
    waves = np.arange(1, 7)[:, None]
    phases = waves * (np.arange(length) / max(1, length)) * rng.uniform(3, 6) + rng.uniform(0, 2 * math.pi, (6, 1))
    return most * (0.5 + 0.5 * np.tanh((rng.normal(0, 1, 6) / waves[:, 0] ** 0.7) @ np.sin(phases)))


def _to_the_border(hole: np.ndarray, limits: Limits, rng: np.random.Generator) -> np.ndarray:
    """The same pixels moved towards a random side, so far that they reach into the border band and no farther out."""
    rows, columns = (np.flatnonzero(hole.any(axis=axis)) for axis in (1, 0))
    if not rows.size:
        return hole
    left_free = int(rng.integers(limits.edge))  # of the band, between the side and the hole
    side = int(rng.integers(4))
    # the way from the hole's nearest pixel to that place; nothing falls out of the picture
    way = (
        (left_free - rows[0], 0),
        (limits.height - 1 - left_free - rows[-1], 0),
        (0, left_free - columns[0]),
        (0, limits.width - 1 - left_free - columns[-1]),
    )[side]
    return np.roll(hole, way, axis=(0, 1))


def _part(candidates: np.ndarray, number: int, limits: Limits, lone: bool, rng: np.random.Generator) -> np.ndarray:
    """``number`` of the candidates, cut along wandering lines: (height, width) bool.

    Where the mask has to reach into the border band and nothing else does (``lone``), the first of them is there.
    """
    height, width = candidates.shape
    longer = max(height, width)
    places = np.flatnonzero(candidates)
    if number >= places.size:
        return candidates
    first, second, third, fourth = rng.uniform(3, 9, 4) / longer
    phases = rng.uniform(0, 2 * math.pi, (4, 1))
    y, x = np.arange(height), np.arange(width)
    by_row = np.sin([first * y + phases[0], third * y + phases[2]]).astype(np.float32)
    by_column = np.sin([second * x + phases[1], fourth * x + phases[3]]).astype(np.float32)
    rows, columns = np.divmod(places.astype(np.int32), np.int32(width))
    order = by_row[0].take(rows) + by_column[0].take(columns) + by_row[1].take(rows) * by_column[1].take(columns)
    if lone and limits.border:
        edge = limits.edge
        band = (rows < edge) | (rows >= height - edge) | (columns < edge) | (columns >= width - edge)
        there = np.flatnonzero(band)
        if there.size:
            seed = there[int(rng.integers(there.size))]
            distance = np.hypot(rows - rows[seed], columns - columns[seed]) / longer
            order -= (8 * np.exp(-20 * distance)).astype(np.float32)  # this one first, then those about it
            order[seed] = -np.inf
    taken = np.zeros(candidates.size, dtype=bool)
    taken[places[np.argpartition(order, number - 1)[:number]]] = True
    return taken.reshape(candidates.shape)


def _grow(
    hole: np.ndarray, wanted: int, frame: np.ndarray | None, limits: Limits, rng: np.random.Generator
) -> np.ndarray:
    """Dilates ``hole``, in place, to exactly ``wanted`` pixels."""
    # without the border band, where that stays free: fewer bits to shift
    window = limits.inner if limits.border is False else (slice(None), slice(None))
    bits = Bits(*hole[window].shape)
    inner = bits.pack(np.ones_like(hole[window]))
    held = bits.pack(hole[window])
    allowed = inner if frame is None else bits.pack(frame[window]) | held
    count, square = held.bit_count(), bool(rng.integers(2))
    while count < wanted:
        grown = bits.dilate(held, square, allowed)
        square = not square
        now = grown.bit_count()
        if now > wanted:
            ring = np.zeros_like(hole)
            ring[window] = bits.unpack(grown & ~held)
            hole[window] = bits.unpack(held)
            return hole | _part(ring, wanted - count, limits, not limits.in_band(hole), rng)
        if now == count:  # the wandering frame is full: from here on the whole inner rectangle
            allowed = inner
        held, count = grown, now
    hole[window] = bits.unpack(held)
    return hole
