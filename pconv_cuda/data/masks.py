"""Masks for training: irregular strokes drawn on line, or folders of mask files.

Inside, a mask is True where the pixel is valid. In files white is the hole, unless ``polarity``
says otherwise.
"""

from __future__ import annotations

import math
import warnings
from pathlib import Path
from typing import Protocol

import numpy as np

from pconv_cuda.data.images import FolderImages
from pconv_cuda.errors import PConvError, require

__all__ = ["POLARITIES", "FolderMasks", "MaskSource", "StrokeMasks", "hole_pixels", "irregular_mask"]

POLARITIES = ("white-hole", "black-hole")
_THRESHOLD = 128  # of 0..255: from here on a pixel counts as white
_INVERTED_SHARE = 0.6  # masks with more hole than this are usually the wrong way round


class MaskSource(Protocol):
    """Anything that draws a mask from a generator, and nothing else."""

    def draw(self, size: int, rng: np.random.Generator) -> np.ndarray:
        """A (size, size) bool mask, True where valid."""
        ...

    @property
    def fingerprint(self) -> str: ...


def hole_pixels(pixels: int, hole_share: tuple[float, float]) -> tuple[int, int]:
    """The least and the greatest number of hole pixels that ``hole_share`` = (low, high] allows.

    Open below and closed above as the paper's ranges are, so that neighbouring ranges share no mask.

    Raises:
        PConvError: not 0 <= low < high <= 1, or no number of pixels lies in the range.
    """
    low, high = hole_share
    if not 0 <= low < high <= 1:
        raise PConvError(f"hole_share: expected 0 <= low < high <= 1, got ({low}, {high})")
    # a share such as 0.3 is no exact binary number: 0.3 * 10 pixels must not lose its third pixel
    fewest, most = math.floor(low * pixels + 1e-6) + 1, math.floor(high * pixels + 1e-6)
    if fewest > most:
        raise PConvError(f"hole_share: no number of hole pixels out of {pixels} lies in ({low}, {high}]")
    return fewest, most


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


class StrokeMasks:
    """:func:`irregular_mask` as a source of masks."""

    def __init__(self, hole_share: tuple[float, float]) -> None:
        hole_pixels(10**9, hole_share)  # a range that is none is refused now, not at the first draw
        self.hole_share = hole_share
        self.fingerprint = "strokes"

    def draw(self, size: int, rng: np.random.Generator) -> np.ndarray:
        return irregular_mask(size, size, rng, self.hole_share)


class FolderMasks:
    """Mask files of a folder: one is drawn, resized to the nearest pixel, then thresholded.

    Args:
        folder: searched at any depth.
        polarity: "white-hole" (what this package writes) or "black-hole".

    Raises:
        PConvError: unknown polarity, no folder, no file, or (when drawing) not one readable file.
    """

    def __init__(self, folder: str | Path, polarity: str = "white-hole", what: str = "data.masks") -> None:
        if polarity not in POLARITIES:
            raise PConvError(f"data.polarity: expected {' or '.join(POLARITIES)}, got {polarity!r}")
        self.polarity = polarity
        self.files = FolderImages(folder, what)
        self.fingerprint = self.files.fingerprint
        self._warn_if_inverted(folder)

    def draw(self, size: int, rng: np.random.Generator) -> np.ndarray:
        first = int(rng.integers(len(self.files)))
        for offset in range(len(self.files)):
            mask = self._mask((first + offset) % len(self.files), size)
            if mask is not None:
                return mask
        raise PConvError(f"data.masks: none of the {len(self.files)} files can be read; the warnings say why")

    def _mask(self, index: int, size: int | None = None) -> np.ndarray | None:
        array = self.files.load(index)
        if array is None:
            return None
        pil_image = require("PIL.Image", "inpaint", why="reading masks")
        picture = pil_image.fromarray(array).convert("L")
        if size is not None:
            picture = picture.resize((size, size), pil_image.Resampling.NEAREST)
        white = np.asarray(picture) >= _THRESHOLD
        return ~white if self.polarity == "white-hole" else white

    def _warn_if_inverted(self, folder: str | Path) -> None:
        every = max(1, len(self.files) // 16)  # a few, spread over the folder, are enough
        masks = [self._mask(index) for index in range(0, len(self.files), every)]
        shares = [1 - mask.mean() for mask in masks if mask is not None]
        if shares and np.mean(shares) > _INVERTED_SHARE:
            other = POLARITIES[1 - POLARITIES.index(self.polarity)]
            warnings.warn(
                f"data.masks: the masks in {str(folder)!r} are {np.mean(shares):.0%} hole when read as "
                f"{self.polarity}; if they are the other way round, set data.polarity={other}",
                stacklevel=3,
            )
