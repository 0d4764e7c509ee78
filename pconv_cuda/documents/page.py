"""An old page: ink and a seal on paper, the reverse side showing through, laid on the scanner not quite straight."""

from __future__ import annotations

import math

import numpy as np

from pconv_cuda.documents.fonts import Fonts, find_fonts
from pconv_cuda.documents.layout import STYLES, styles_of, write_page
from pconv_cuda.documents.noise import smooth_noise
from pconv_cuda.documents.paper import old_paper
from pconv_cuda.documents.seal import seal
from pconv_cuda.errors import PConvError, require

__all__ = ["VERSION", "render_page"]

VERSION = 1  # of the pages that a generator gives

_INKS = ((40, 32, 28), (30, 28, 30), (62, 44, 30), (48, 40, 34))
_RED = (168, 42, 30)
_SMALLEST = 8  # pixels: less cannot be read


def render_page(
    height: int,
    width: int,
    rng: np.random.Generator | int,
    fonts: Fonts | None = None,
    style: str | None = None,
) -> np.ndarray:
    """A page of an old book or manuscript, with text that means nothing.

    Args:
        height, width: pixels, >= 1.
        rng: a generator, or a seed >= 0. The same one gives the same page with the same fonts and Pillow.
        fonts: None takes :func:`find_fonts`.
        style: "latin", "hangul", "hanja" or "mixed"; None draws one of those that the fonts allow.

    Returns:
        (height, width, 3) uint8, RGB.

    Raises:
        PConvError: no pixels, an unknown style, or one that the fonts do not allow.
        MissingExtra: Pillow is not installed.
    """
    if height < 1 or width < 1:
        raise PConvError(f"size: expected at least 1 x 1 pixels, got {height} x {width}")
    rng = np.random.default_rng(rng)  # a generator comes back as it is
    fonts = find_fonts() if fonts is None else fonts
    able = styles_of(fonts)
    if style is not None and style not in STYLES:
        raise PConvError(f"style: expected one of {', '.join(STYLES)}, got {style!r}")
    if style is not None and style not in able:
        raise PConvError(f"style: no font for {style!r} was found; those that are there allow {', '.join(able)}")
    style = able[int(rng.integers(len(able)))] if style is None else style

    side = min(height, width)
    # from a whole page to a piece of one: the logarithm of the size is uniform
    size = max(_SMALLEST, side * math.exp(rng.uniform(math.log(1 / 42), math.log(1 / 17))))
    degrees = float(np.clip(rng.normal(0, 0.8), -2.5, 2.5))
    ink = _turned(write_page(height, width, rng, fonts, style, size), degrees)
    page = old_paper(height, width, rng)
    if rng.random() < 0.75:
        page *= 1 - rng.uniform(0.05, 0.2) * _reverse(height, width, rng, fonts, style, size)
    cover = _worn(ink, rng)
    for plane, shade in zip(page, _INKS[int(rng.integers(len(_INKS)))], strict=True):
        plane += (shade - plane) * cover
    if rng.random() < (0.6 if style != "latin" else 0.25):
        where, red = seal(height, width, rng, fonts, size)
        for plane, shade in zip(page, _RED, strict=True):
            plane[where] *= 1 - red * (1 - shade / 235)  # red lies over black ink as a glaze
    return np.ascontiguousarray(np.clip(page, 0, 255).astype(np.uint8).transpose(1, 2, 0))


def _turned(ink: np.ndarray, degrees: float) -> np.ndarray:
    pil_image = require("PIL.Image", "inpaint", why="rendering pages")
    return np.asarray(pil_image.fromarray(ink).rotate(degrees, pil_image.Resampling.BILINEAR))


def _reverse(height: int, width: int, rng: np.random.Generator, fonts: Fonts, style: str, size: float) -> np.ndarray:
    """The other side's ink in mirror writing, 0 to 1, more here and less there.

    It is set at half the size and enlarged: what shows through paper is blurred, and a quarter of the work.
    """
    pil_image = require("PIL.Image", "inpaint", why="rendering pages")
    half = write_page(max(1, height // 2), max(1, width // 2), rng, fonts, style, max(4.0, size / 2))
    full = pil_image.fromarray(half[:, ::-1].copy()).resize((width, height), pil_image.Resampling.BILINEAR)
    uneven = np.clip(0.7 + 0.35 * smooth_noise(height, width, max(1, min(height, width)) / 5, rng), 0, 1.2)
    return np.asarray(full, dtype=np.float32) * (uneven / 255)


def _worn(ink: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """How much the ink covers, 0 to 1: run into the paper, ragged at the edges, faded in places."""
    pil_image, image_filter = require("PIL.Image", "inpaint"), require("PIL.ImageFilter", "inpaint")
    height, width = ink.shape
    side = max(1, min(height, width))
    run = pil_image.fromarray(ink).filter(image_filter.GaussianBlur(rng.uniform(0.4, 0.75)))
    grain = smooth_noise(height, width, 1.6, rng)
    fading = smooth_noise(height, width, side / rng.uniform(3, 9), rng)
    patches = smooth_noise(height, width, 9, rng)
    soft = np.asarray(run, dtype=np.float32) / 255
    # noise where the ink thins out eats into the edges; paper without ink stays bare
    ragged = np.clip((soft * (1 + 0.22 * grain) - 0.08) * rng.uniform(1.15, 1.5), 0, 1)
    dark = rng.uniform(0.72, 0.95) + rng.uniform(0.04, 0.16) * fading + 0.07 * patches
    return ragged * np.clip(dark, 0.2, 0.97)
