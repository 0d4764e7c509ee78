"""The package's first masks: wandering brush strokes, one dab after the other.

Runs that are resumed and the quick start's figures rest on them, so they stay as they are to the bit; the
kind "strokes" of :func:`~pconv_cuda.masks.draw_mask` is their quicker successor.
"""

from __future__ import annotations

import math

import numpy as np

from pconv_cuda.masks.shares import hole_pixels

__all__ = ["irregular_mask"]


def irregular_mask(
    height: int,
    width: int,
    rng: np.random.Generator | int,
    hole_share: tuple[float, float] = (0.0, 0.6),
) -> np.ndarray:
    """A mask with irregular holes, drawn as wandering brush strokes.

    The number of hole pixels is drawn first, uniformly over ``hole_share`` = (low, high], and then met
    exactly: the last stroke stops, within its last dab, where it is reached.

    Args:
        height, width: pixels, >= 1.
        rng: a generator, or a seed >= 0.
        hole_share: hole pixels over all pixels.

    Returns:
        (height, width) bool, True where valid.

    Raises:
        PConvError: the range is none, or holds no number of pixels of so small a picture.
    """
    rng = np.random.default_rng(rng) if isinstance(rng, int) else rng
    fewest, most = hole_pixels(height * width, hole_share)
    missing = int(rng.integers(fewest, most + 1))
    valid = np.ones((height, width), dtype=bool)
    while missing:
        missing -= _stroke(valid, missing, rng)
    return valid


def _stroke(valid: np.ndarray, limit: int, rng: np.random.Generator) -> int:
    """Draws one stroke of at most ``limit`` new hole pixels into ``valid``; returns how many it drew."""
    height, width = valid.shape
    side = min(height, width)
    radius = rng.uniform(max(0.5, side / 64), max(1.0, side / 14))
    length = rng.uniform(0.1, 1.0) * math.hypot(height, width)
    # beginning on a valid pixel, each stroke draws at least one: even a share of 1 is reached
    left_over = np.flatnonzero(valid)
    y, x = (part + 0.5 for part in divmod(int(left_over[rng.integers(left_over.size)]), width))
    angle, curvature = rng.uniform(0, 2 * math.pi), 0.0
    spacing = max(0.5, radius / 2)
    drawn = 0
    for _ in range(1 + int(length / spacing)):
        drawn += _dab(valid, y, x, radius, limit - drawn)
        if drawn == limit:
            break
        # a random walk of the curvature, not of the angle, bends smoothly at any brush size
        curvature = 0.9 * curvature + rng.normal(0, 0.12)
        angle += curvature
        y, x = y + spacing * math.sin(angle), x + spacing * math.cos(angle)
        if not (0 <= y < height and 0 <= x < width):
            angle += math.pi / 2  # turn back; the dab outside the picture draws nothing
            y, x = min(max(y, 0.0), height - 1e-6), min(max(x, 0.0), width - 1e-6)
    return drawn


def _dab(valid: np.ndarray, y: float, x: float, radius: float, limit: int) -> int:
    """Makes a disc a hole, from its centre outwards and at most ``limit`` pixels; returns the number."""
    top, left = max(0, int(y - radius)), max(0, int(x - radius))
    window = valid[top : int(y + radius) + 1, left : int(x + radius) + 1]
    rows = np.arange(top, top + window.shape[0])[:, None] + 0.5 - y
    columns = np.arange(left, left + window.shape[1])[None, :] + 0.5 - x
    distance = rows * rows + columns * columns
    # the pixel under the centre always belongs to the disc, however thin the brush
    new = (window & (distance <= max(radius * radius, distance.min()))).nonzero()
    if new[0].size > limit:
        nearest = np.argsort(distance[new], kind="stable")[:limit]
        new = (new[0][nearest], new[1][nearest])
    window[new] = False
    return int(new[0].size)
