"""Which pixels are the hole: mask files, the picture's own alpha, or one colour.

Everywhere a person looks, white is the hole. The result is a bool array that is true in the hole; a mask is
compared with a threshold, so that no pixel is ever half a hole.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from pconv_cuda.errors import PConvError
from pconv_cuda.inpainting.pictures import Picture, open_pillow, pillow
from pconv_cuda.inpainting.windows import spread

if TYPE_CHECKING:
    from PIL import Image as PillowImage

    from pconv_cuda.inpainting.deep import DeepPicture

__all__ = ["MaskRule", "grey_values", "parse_colour"]


def parse_colour(text: str) -> tuple[int, int, int]:
    """A colour as Pillow reads it ('#ff00ff', 'magenta', 'rgb(255, 0, 255)') in three bytes."""
    try:
        return pillow("PIL.ImageColor").getrgb(text)[:3]
    except ValueError as error:
        raise PConvError(f"--mask-color: expected a colour such as '#ff00ff', but got {text!r}") from error


@dataclass(frozen=True)
class MaskRule:
    """How a mask is read: by brightness from a file, from the picture's alpha, or by one colour.

    Args:
        alpha: the picture's transparent pixels are the hole.
        colour: pixels of exactly this RGB are the hole: in the mask file, or in the picture without one.
        threshold: the hole begins at this brightness (or transparency), 1 to 255.
        invert: the other pixels are the hole.
        dilate: the hole grows by this many px on each side, after everything else.
    """

    alpha: bool = False
    colour: tuple[int, int, int] | None = None
    threshold: int = 128
    invert: bool = False
    dilate: int = 0

    def __post_init__(self) -> None:
        if not 1 <= self.threshold <= 255:
            raise PConvError(f"--threshold: expected 1 to 255, but got {self.threshold}")
        if self.dilate < 0:
            raise PConvError(f"--dilate: expected a number of px from 0 on, but got {self.dilate}")

    def describe(self) -> str:
        """The polarity in words, for the line that each picture gets."""
        if self.colour is not None:
            name = "#{:02x}{:02x}{:02x}".format(*self.colour)
            return f"everything but {name} is the hole" if self.invert else f"{name} is the hole"
        light, dark = ("transparent", "opaque") if self.alpha else ("white", "black")
        return f"{dark if self.invert else light} is the hole"

    def hole(self, picture: Picture | DeepPicture, path: Path, mask: Path | None) -> np.ndarray:
        """The hole (H, W) of the upright ``picture``, which was read from ``path``.

        Raises:
            PConvError: the mask is missing, unreadable or of another size; there is no alpha to take.
        """
        if self.alpha:
            alpha = picture.alpha()
            if alpha is None:
                raise PConvError(f"--mask alpha: {path} has no transparency")
            hole = 255 - alpha >= self.threshold
        elif self.colour is not None:
            hole = _has_colour(picture.rgb() if mask is None else _colours(mask), self.colour)
        elif mask is not None:
            hole = grey_values(_upright(mask), str(mask)) >= self.threshold
        else:
            raise PConvError("--mask: expected a mask file, a folder of masks or the word alpha")
        if hole.shape != picture.size:
            raise PConvError(
                f"--mask: {mask} is {hole.shape[1]} x {hole.shape[0]} px, but {path} is "
                f"{picture.size[1]} x {picture.size[0]} (after its orientation is applied)"
            )
        if self.invert:
            hole = ~hole
        return spread(torch.from_numpy(hole), self.dilate).numpy() if self.dilate else hole


def _upright(path: Path) -> PillowImage.Image:
    image = open_pillow(path, "--mask")
    try:
        with image:
            return pillow("PIL.ImageOps").exif_transpose(image)
    except (OSError, SyntaxError, ValueError) as error:
        raise PConvError(f"--mask: {path} cannot be decoded ({error})") from error


def grey_values(image: PillowImage.Image, name: str) -> np.ndarray:
    """A mask picture's brightness (H, W) in 0..255; what is transparent counts as black.

    Raises:
        PConvError: a mode whose white is not known (32-bit integers, floats).
    """
    if image.mode.startswith("I;16"):
        return (np.asarray(image).astype(np.uint16) >> 8).astype(np.uint8)
    if image.mode in ("I", "F"):
        raise PConvError(f"--mask: expected 8 or 16 bits a sample, but {name} has mode {image.mode}")
    if image.has_transparency_data:
        # strokes on a transparent layer: below the layer it is black
        image = pillow().alpha_composite(pillow().new("RGBA", image.size, "black"), image.convert("RGBA"))
    return np.asarray(image.convert("L"))


def _colours(path: Path) -> np.ndarray:
    return np.asarray(_upright(path).convert("RGB"))


def _has_colour(rgb: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray:
    """Exactly this colour; 16-bit samples are compared with the colour at their own scale."""
    wanted = np.array(colour, rgb.dtype) * (257 if rgb.dtype == np.uint16 else 1)
    return (rgb == wanted).all(-1)
