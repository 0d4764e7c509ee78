"""Which pixels are the hole: mask files, the picture's own alpha, or one colour.

In files white is the hole. The result is a bool array that is true in the hole: masks are compared with a
threshold.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from pconv_cuda.data.images import black_is_zero
from pconv_cuda.errors import PConvError
from pconv_cuda.inpainting.pictures import MAX_PIXELS, Picture, Picture16, open_pillow, pillow
from pconv_cuda.inpainting.tiling import spread
from pconv_cuda.masks.values import (
    THRESHOLD,
    brightness,
    is_coloured,
    looks_like_a_picture,
    transparent_share,
)

if TYPE_CHECKING:
    from PIL import Image as PillowImage

__all__ = ["Hole", "MaskRule", "parse_colour"]

_NEARLY = 64  # levels of 255: a colour that is mixed with at most a quarter of another one
_SOFT_GROWTH = 2  # px; an antialiased edge is up to two pixels wide, and half of it is below the threshold


def parse_colour(text: str) -> tuple[int, int, int]:
    """A colour as Pillow reads it ('#ff00ff', 'magenta', 'rgb(255, 0, 255)') in three bytes."""
    try:
        return pillow("PIL.ImageColor").getrgb(text)[:3]
    except ValueError as error:
        raise PConvError(f"colour: expected a colour such as '#ff00ff', but got {text!r}") from error


@dataclass
class Hole:
    """``pixels``: bool (H, W), true in the hole; ``about``: how it was found; ``notes``: what to be careful about."""

    pixels: np.ndarray
    about: str
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class MaskRule:
    """How a mask is read: by brightness from a file, from the picture's alpha, or by one colour.

    Args:
        alpha: the picture's transparent pixels are the hole.
        colour: pixels of exactly this RGB are the hole: in the mask file, or in the picture without one.
        threshold: the hole begins at this brightness (or transparency), 1 to 255. None: 128, and a mask file that
            looks like a picture is refused.
        invert: the other pixels are the hole.
        dilate: the hole grows by this many px on each side, after everything else. None: by 2 where the mask has
            soft edges, so that nothing of an antialiased object stays, else not at all.
        resize: a mask file of another size is resized to the picture's, to the nearest pixel.
        max_pixels: a mask file with more is refused.
    """

    alpha: bool = False
    colour: tuple[int, int, int] | None = None
    threshold: int | None = None
    invert: bool = False
    dilate: int | None = None
    resize: bool = False
    max_pixels: int = MAX_PIXELS

    def __post_init__(self) -> None:
        if not 1 <= self.limit <= 255:
            raise PConvError(f"threshold: expected 1 to 255, but got {self.threshold}")
        if self.dilate is not None and self.dilate < 0:
            raise PConvError(f"dilate: expected a number of px from 0 on, but got {self.dilate}")

    @property
    def limit(self) -> int:
        """The threshold that holds."""
        return THRESHOLD if self.threshold is None else self.threshold

    def describe(self) -> str:
        """The polarity in words, for the line that each picture gets."""
        if self.colour is not None:
            name = _name_of(self.colour)
            return f"everything but {name} is the hole" if self.invert else f"{name} is the hole"
        light, dark = ("transparent", "opaque") if self.alpha else ("white", "black")
        return f"{dark if self.invert else light} is the hole"

    def why_empty(self) -> str:
        """Why a mask may have no hole, in words."""
        if self.colour is not None:
            name = _name_of(self.colour)
            return f"every pixel is {name}" if self.invert else f"no pixel is exactly {name}"
        if self.alpha and not self.invert:
            return f"no pixel is transparent, threshold {self.limit}"
        return f"threshold {self.limit}"

    def hole(self, picture: Picture | Picture16, path: Path, mask: Path | None) -> Hole:
        """The hole of the upright ``picture``, which was read from ``path``.

        Raises:
            PConvError: the mask is missing, unreadable, the picture itself, another picture, or of another size;
                there is no alpha to take.
        """
        grey: np.ndarray | None = None
        notes: list[str] = []
        if self.alpha:
            alpha = picture.alpha()
            if alpha is None:
                raise PConvError(f"mask: {path} has no transparency")
            grey = 255 - alpha
        elif mask is not None and self.colour is None:
            grey = self._grey_values(picture, path, mask, notes)
        if grey is not None:
            pixels = grey >= self.limit
        elif self.colour is not None:
            colours = picture.rgb() if mask is None else _opaque_colours(self._fitting(mask, picture, path)[0])
            pixels = _has_colour(colours, self.colour)
            if not self.dilate and not self.invert and (close := _count_close(colours, self.colour, pixels)):
                remedy = "; `dilate=2` takes those beside it too" if pixels.any() else ""
                notes.append(
                    f"{path if mask is None else mask}: {close} pixels have nearly the colour {_name_of(self.colour)} "
                    f"and are no hole, as soft brushes and jpg leave them{remedy}"
                )
        else:
            raise PConvError("mask: expected a mask file, a folder of masks or the word alpha")
        if self.invert:
            pixels = ~pixels
        growth, about = self.dilate or 0, self.describe()
        if self.dilate is None and grey is not None and _is_soft(grey, pixels):
            growth = _SOFT_GROWTH
            about += f", grown by {growth} px for its soft edges"
        if growth:
            pixels = spread(torch.from_numpy(pixels), growth).numpy()
        return Hole(pixels, about, notes)

    def _grey_values(self, picture: Picture | Picture16, path: Path, mask: Path, notes: list[str]) -> np.ndarray:
        """The brightness (H, W), uint8, of a mask file; what to be careful about is added to ``notes``."""
        if mask.samefile(path):
            raise PConvError(f"mask: {mask} is the picture itself; expected a black and white mask")
        image, has_orientation = self._fitting(mask, picture, path)
        found = brightness(image, str(mask))
        self._check_kind(image, found.values, mask, picture, path)
        if found.note:
            notes.append(f"{mask}: {found.note}")
        half_turn_or_square = picture.orientation < 5 or picture.size[0] == picture.size[1]
        if picture.orientation != 1 and half_turn_or_square and not has_orientation:
            notes.append(f"{path} is turned by its orientation tag; {mask}, which has none, is not turned")
        brightest = int(found.values.max(initial=0))
        if brightest < self.limit and not self.invert:
            notes.append(f"{mask}: its brightest value is {brightest}, below the threshold {self.limit}")
        return found.values

    def _fitting(self, mask: Path, picture: Picture | Picture16, path: Path) -> tuple[PillowImage.Image, bool]:
        """The mask file, upright and of the picture's size, and whether an orientation tag of its own turned it."""
        image, has_orientation = _upright(mask, self.max_pixels)
        height, width = picture.size
        if image.size == (width, height):
            return image, has_orientation
        if self.resize:
            return image.resize((width, height), pillow().Resampling.NEAREST), has_orientation
        problem = f"mask: {mask} is {image.width} x {image.height} px, but {path} is {width} x {height}"
        if picture.orientation >= 5 and image.size == (height, width):
            raise PConvError(f"{problem} after its orientation tag is applied; turn the mask in the same way")
        raise PConvError(f"{problem}; `resize` resizes the mask to the nearest pixel")

    def _check_kind(
        self, image: PillowImage.Image, grey: np.ndarray, mask: Path, picture: Picture | Picture16, path: Path
    ) -> None:
        """Refuses a mask that is a picture: this one, or any, unless a threshold was asked for."""
        # of a blank or bilevel picture the same content proves nothing
        if image.mode in ("L", "LA", "P", "RGB", "RGBA") and image.convert("L").getcolors(2) is None:
            rgb = picture.rgb()
            if rgb.dtype == np.uint8 and np.array_equal(np.asarray(image.convert("RGB")), rgb):
                hint = f"; {_use_alpha(mask)}" if 0 < transparent_share(image) < 1 else ""
                raise PConvError(f"mask: {mask} is the picture {path} itself; expected a black and white mask{hint}")
        if self.threshold is not None:
            return
        coloured = is_coloured(image)
        if not coloured and not looks_like_a_picture(grey):
            return
        what = "has colours" if coloured else "is mostly grey"
        advice = ["`threshold=T` takes it by brightness"]
        share = transparent_share(image)
        if 0 < share < 1:
            advice.insert(0, _use_alpha(mask))
        elif coloured and (common := _commonest_colour(image)):
            advice.insert(0, f"if one colour marks the hole, name it, such as `colour='{common}'`")
        raise PConvError(
            f"mask: {mask} {what}, so it looks like a picture; expected a black and white mask, white in the hole "
            f"({'; '.join(advice)})"
        )


def _use_alpha(mask: Path) -> str:
    return f"if its transparent pixels are the hole, give {mask} as the picture, with `alpha=True`"


def _is_soft(grey: np.ndarray, hole: np.ndarray) -> bool:
    """Whether the values within 2 px of the hole's edge are more than two: an antialiased or blurred edge."""
    if np.count_nonzero(np.bincount(grey.reshape(-1), minlength=256)) <= 2:
        return False
    pixels = torch.from_numpy(hole)
    band = (spread(pixels, 2) & spread(~pixels, 2)).numpy()
    return bool(np.count_nonzero(np.bincount(grey[band], minlength=256)) > 2)


def _upright(path: Path, max_pixels: int) -> tuple[PillowImage.Image, bool]:
    """The mask file turned by its orientation tag, and whether it has one."""
    image = open_pillow(path, "mask", max_pixels)
    try:
        with image:
            has_orientation = image.getexif().get(0x0112, 1) != 1
            return pillow("PIL.ImageOps").exif_transpose(black_is_zero(image)), has_orientation
    except Exception as error:  # decoders raise OSError, SyntaxError, struct.error, IndexError ...
        raise PConvError(f"mask: {path} cannot be decoded ({error or type(error).__name__})") from error


def _opaque_colours(image: PillowImage.Image) -> np.ndarray:
    """The colours (H, W, 3), int16; -1 where a pixel is more transparent than opaque."""
    colours = np.asarray(image.convert("RGB")).astype(np.int16)
    if image.has_transparency_data:
        colours[np.asarray(image.convert("RGBA").getchannel("A")) < THRESHOLD] = -1
    return colours


def _name_of(colour: tuple[int, int, int]) -> str:
    return "#{:02x}{:02x}{:02x}".format(*colour)


def _has_colour(rgb: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray:
    """Exactly this colour; 16-bit samples are compared with the colour at their own scale."""
    wanted = np.array(colour, rgb.dtype) * (257 if rgb.dtype == np.uint16 else 1)
    return (rgb == wanted).all(-1)


def _count_close(rgb: np.ndarray, colour: tuple[int, int, int], exact: np.ndarray) -> int:
    """Pixels beside those of exactly this colour that have nearly it, where they are not few; where there are no such
    pixels, of the whole picture."""
    scale = 257 if rgb.dtype == np.uint16 else 1
    candidates = rgb
    if exact.any():
        candidates = rgb[spread(torch.from_numpy(exact), _SOFT_GROWTH).numpy() & ~exact]
    close = np.ones(candidates.shape[:-1], bool)
    for channel, value in enumerate(colour):
        least, most = max(value - _NEARLY, 0) * scale, min(value + _NEARLY, 255) * scale
        close &= (candidates[..., channel] >= least) & (candidates[..., channel] <= most)
    count = int(close.sum())
    return count if count * 20 >= int(exact.sum()) else 0


def _commonest_colour(image: PillowImage.Image) -> str | None:
    """The colour that most coloured pixels have, where one has at least a fifth of them."""
    rgb = np.asarray(image.convert("RGB")).reshape(-1, 3)
    coloured = rgb[np.ptp(rgb.astype(np.int16), axis=1) > 0]
    packed = coloured.astype(np.int32) @ np.array([65536, 256, 1])
    if not len(packed):
        return None
    values, counts = np.unique(packed, return_counts=True)
    best = int(counts.argmax())
    return f"#{int(values[best]):06x}" if counts[best] >= len(packed) / 5 else None
