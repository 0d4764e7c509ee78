"""Brightness of mask files."""

from __future__ import annotations

import numpy as np

from pconv_cuda.errors import require

__all__ = ["WHITE", "mask_grey"]

WHITE = 128  # of 0..255: from here on a pixel counts as white


def mask_grey(rgb: np.ndarray) -> tuple[np.ndarray, bool]:
    """The brightness of a mask file, and whether it was scaled.

    A file whose brightest value is 1 was written with values 0 and 1; they are read as 0 and 255.

    Args:
        rgb: (H, W, 3) uint8.

    Returns:
        (H, W) uint8, 0 to 255, and True where 1 was the brightest value.
    """
    grey = np.asarray(require("PIL.Image", "inpaint", why="reading masks").fromarray(rgb).convert("L"))
    if grey.size and grey.max() == 1:
        return grey * np.uint8(255), True
    return grey, False
