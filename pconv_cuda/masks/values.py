"""What the values of a mask mean: one rule for arrays, tensors, PIL pictures and files.

=====================  ==============================================================
values                 set (white: the hole; in a tensor: valid)
=====================  ==============================================================
bool                   where true
0 to 1                 from 0.5 on; so 0 and 1 are exact, whatever the type
0 to 255               from the threshold on (128)
0 to 65535             from the threshold on, of the upper byte
=====================  ==============================================================
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from pconv_cuda.errors import PConvError, require

if TYPE_CHECKING:
    from PIL import Image as PillowImage

__all__ = [
    "THRESHOLD",
    "Brightness",
    "brightness",
    "is_coloured",
    "is_set",
    "looks_like_a_picture",
    "mask_grey",
    "transparent_share",
]

THRESHOLD = 128  # of 0..255
_COLOURED = 48  # difference of a pixel's channels; the chroma noise of a black and white jpg stays below it
_COLOURED_SHARE = 0.001
_MIDTONES = (16, 239)  # beyond these a value is white or black with a jpg's noise
_PICTURE_SHARE = 0.5  # of midtones, from which on it is a picture: soft edges have fewer


def is_set(values: np.ndarray, threshold: int = THRESHOLD) -> np.ndarray:
    """Where ``values`` (any shape, bool, integer or floating) are set, by the rule above; NaN is not.

    Raises:
        PConvError: a type that is not a number, or values below 0 or above 65535.
    """
    if values.dtype.kind == "b":
        return values
    if values.dtype.kind not in "uif":
        raise PConvError(f"mask: expected bool, integer or floating values, but got {values.dtype}")
    if not values.size:
        return values != 0
    known = values[~np.isnan(values)] if values.dtype.kind == "f" else values
    least, most = (float(known.min()), float(known.max())) if known.size else (0.0, 0.0)
    if least < 0 or most > 65535:
        raise PConvError(f"mask: expected values in 0..1, 0..255 or 0..65535, but got {least} to {most}")
    limit = 0.5 if most <= 1 else threshold if most <= 255 else threshold * 256
    return np.asarray(values >= limit)


@dataclass(frozen=True)
class Brightness:
    """A mask picture as grey values (H, W), uint8; ``note`` says where they were not taken as they are."""

    values: np.ndarray
    note: str = ""


def brightness(image: PillowImage.Image, name: str) -> Brightness:
    """A mask picture's brightness; what is transparent counts as black.

    A mask whose brightest value is 1 is read as 0 and 255, and a 16-bit one that holds 8-bit values as these.

    Raises:
        PConvError: a mode whose white is not known (32-bit integers, floats).
    """
    if image.mode.startswith("I;16"):
        wide = np.asarray(image).astype(np.uint16)
        most = int(wide.max(initial=0))
        if most > 255:
            return Brightness((wide >> 8).astype(np.uint8))
        grey = wide.astype(np.uint8)
        note = f"its brightest value is {most} of 65535; read as 8-bit values" if most > 1 else ""
    elif image.mode in ("I", "F"):
        raise PConvError(f"mask: expected 8 or 16 bits a sample, but {name} has mode {image.mode}")
    else:
        grey, note = np.asarray(_on_black(image).convert("L")), ""
    scaled, was_scaled = _zero_and_one_scaled(grey)
    return Brightness(scaled, "its brightest value is 1; read as 0 and 255" if was_scaled else note)


def mask_grey(rgb: np.ndarray) -> tuple[np.ndarray, bool]:
    """The brightness (H, W) of a mask (H, W, 3), both uint8, and whether 1 was the brightest value and was scaled."""
    image = require("PIL.Image", "inpaint", why="reading masks").fromarray(rgb)
    return _zero_and_one_scaled(np.asarray(image.convert("L")))


def _zero_and_one_scaled(grey: np.ndarray) -> tuple[np.ndarray, bool]:
    """A file whose brightest value is 1 was written with values 0 and 1: they mean 0 and 255."""
    return (grey * np.uint8(255), True) if int(grey.max(initial=0)) == 1 else (grey, False)


def is_coloured(image: PillowImage.Image) -> bool:
    """Whether a mask picture has colours: more of them than the noise of a black and white jpg."""
    if image.mode in ("1", "L", "LA", "I", "F") or image.mode.startswith("I;16"):
        return False
    rgb = np.asarray(_on_black(image).convert("RGB")).astype(np.int16)
    return bool((np.ptp(rgb, axis=-1) > _COLOURED).mean() > _COLOURED_SHARE)


def looks_like_a_picture(grey: np.ndarray) -> bool:
    """Whether most of the values (H, W), uint8, are neither black nor white, and they are not two values."""
    counts = np.bincount(grey.reshape(-1), minlength=256)
    middle = counts[_MIDTONES[0] : _MIDTONES[1] + 1].sum()
    return bool(np.count_nonzero(counts) > 2 and middle > _PICTURE_SHARE * grey.size)


def transparent_share(image: PillowImage.Image) -> float:
    """The share of pixels that are more transparent than opaque."""
    if not image.has_transparency_data:
        return 0.0
    return float((np.asarray(image.convert("RGBA").getchannel("A")) < THRESHOLD).mean())


def _on_black(image: PillowImage.Image) -> Any:
    """Strokes on a transparent layer: below the layer it is black."""
    if not image.has_transparency_data:
        return image
    pil_image = require("PIL.Image", "inpaint", why="reading masks")
    return pil_image.alpha_composite(pil_image.new("RGBA", image.size, "black"), image.convert("RGBA"))
