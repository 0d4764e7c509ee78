"""A red seal or a library's stamp, pressed by hand."""

from __future__ import annotations

import numpy as np

from pconv_cuda.documents.fonts import Fonts
from pconv_cuda.documents.noise import smooth_noise
from pconv_cuda.documents.pen import Face
from pconv_cuda.documents.words import HANJA
from pconv_cuda.errors import require

__all__ = ["seal"]


def seal(
    height: int, width: int, rng: np.random.Generator, fonts: Fonts, size: float
) -> tuple[tuple[slice, slice], np.ndarray]:
    """Where it is, and how red it is there: a float32 array, 0 to 1, of the window's shape.

    Args:
        size: of the page's text, pixels; a seal is two to five times as high.
    """
    pil_image, draw = require("PIL.Image", "inpaint"), require("PIL.ImageDraw", "inpaint")
    side = int(np.clip(size * rng.uniform(2.2, 5), 6, max(6, min(height, width) * 0.4)))
    picture = pil_image.new("L", (side, side))
    pen = draw.Draw(picture)
    is_carved = bool(rng.random() < 0.4)  # white characters on red, or red ones on white
    is_round = not fonts.hanja or rng.random() < 0.15
    edge = max(1, side // 16)
    outline = pen.ellipse if is_round else pen.rectangle
    outline((0, 0, side - 1, side - 1), fill=230 if is_carved else 0, outline=230, width=edge)
    ink = 0 if is_carved else 230
    if fonts.hanja:
        face = Face(fonts.hanja[int(rng.integers(len(fonts.hanja)))], max(4, round(side * (0.3 if is_round else 0.4))))
        letters = [HANJA[one] for one in rng.integers(0, len(HANJA), 4)]
    else:
        face = Face(fonts.latin[0], max(4, round(side * 0.3)))
        letters = [chr(65 + one) for one in rng.integers(0, 26, 4)]
        pen.ellipse(
            (2 * edge, 2 * edge, side - 1 - 2 * edge, side - 1 - 2 * edge), outline=ink, width=max(1, edge // 2)
        )
    apart = 0.2 if is_round else 0.23
    for place, letter in enumerate(letters):  # down the right column, then down the left one
        x, y = (0.5 + apart, 0.5 - apart)[place // 2], (0.5 - apart, 0.5 + apart)[place % 2]
        pen.text((x * side, y * side), letter, fill=ink, font=face.font, anchor="mm")
    turned = picture.rotate(float(rng.normal(0, 5)), pil_image.Resampling.BICUBIC, expand=True)
    top = int(rng.integers(0, max(1, height - turned.height)))
    left = int(rng.integers(0, max(1, width - turned.width)))
    red = np.asarray(turned, dtype=np.float32)[: height - top, : width - left] / 255
    # pressed unevenly, and paste lacking in spots
    rows, columns = red.shape
    patchy = 0.75 + 0.3 * smooth_noise(rows, columns, max(2.0, side / 4), rng)
    patchy += 0.25 * smooth_noise(rows, columns, 2, rng)
    return (slice(top, top + rows), slice(left, left + columns)), red * np.clip(patchy, 0.1, 1)
