"""The paper's augmentation for masks that exist as pixels: random dilation, rotation, enlargement, cropping."""

from __future__ import annotations

import math

import numpy as np

from pconv_cuda.errors import PConvError
from pconv_cuda.masks.drawing import sides
from pconv_cuda.masks.raster import Bits

__all__ = ["augment"]

_DILATION = 9 / 512  # of the shorter side of the result: what holes grow by at most
_SMALLEST = 0.6  # of the largest crop that fits: the side of the smallest


def augment(mask: np.ndarray, rng: np.random.Generator | int, size: int | tuple[int, int]) -> np.ndarray:
    """A turned and enlarged cut-out of ``mask``, its holes grown by a little.

    The cut-out lies wholly within the mask: every pixel of the result is a pixel of the mask (the nearest one), and
    nothing outside the mask is invented. The hole share is not controlled.

    Args:
        mask: (height, width) bool, True where valid.
        rng: a generator, or a seed >= 0.
        size: side of a square, or (height, width), pixels.

    Returns:
        (height, width) of ``size``, bool, True where valid.

    Raises:
        PConvError: ``mask`` is no picture of bools, or ``size`` has no pixels.
    """
    if mask.ndim != 2 or mask.dtype != bool or not mask.size:
        raise PConvError(f"mask: expected (height, width) bool, got {tuple(mask.shape)} {mask.dtype}")
    height, width = sides(size)
    if height < 1 or width < 1:
        raise PConvError(f"size: expected at least 1 x 1 pixels, got {height} x {width}")
    rng = np.random.default_rng(rng)  # a generator comes back as it is
    turn = rng.uniform(0, 2 * math.pi)
    cosine, sine = math.cos(turn), math.sin(turn)
    # half of the box about the turned result, and how many pixels of the mask its pixel may be so that the box fits
    box = np.abs(np.array([[cosine, sine], [sine, cosine]])) @ np.array([height, width]) / 2
    room = np.array(mask.shape) / 2
    step = float((room / box).min()) * rng.uniform(_SMALLEST, 1.0)
    centre = room + (room - step * box) * rng.uniform(-1, 1, 2)
    grown = _dilated(~mask, round(rng.uniform(0, _DILATION) * min(height, width) * step))
    y = step * (np.arange(height) + 0.5 - height / 2)[:, None]
    x = step * (np.arange(width) + 0.5 - width / 2)
    # the limits only catch the last bit's rounding
    rows = np.clip(np.floor(centre[0] + cosine * y - sine * x), 0, mask.shape[0] - 1).astype(np.int64)
    columns = np.clip(np.floor(centre[1] + sine * y + cosine * x), 0, mask.shape[1] - 1).astype(np.int64)
    return ~grown[rows, columns]


def _dilated(hole: np.ndarray, pixels: int) -> np.ndarray:
    bits = Bits(*hole.shape)
    everywhere = bits.pack(np.ones_like(hole))
    held = bits.pack(hole)
    for number in range(pixels):
        held = bits.dilate(held, number % 2 == 0, everywhere)
    return bits.unpack(held)
