"""Pictures that Pillow holds exactly: painted in their own mode, so that nothing outside the hole changes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pconv_cuda.errors import PConvError
from pconv_cuda.inpainting.pictures.array import LUMA
from pconv_cuda.inpainting.pictures.formats import pillow
from pconv_cuda.inpainting.pictures.inks import black_share, inks_of
from pconv_cuda.inpainting.pictures.jpeg import JpegSource
from pconv_cuda.inpainting.tiling import Box

if TYPE_CHECKING:
    from PIL import Image as PillowImage

__all__ = ["Picture"]

_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr", "I;16")


class Picture:
    """An upright picture in one of Pillow's exact modes.

    Args:
        image: the picture; :meth:`paint` changes it.
        format_name: the format that it was read from.
        source: the file, for messages.
        tags: all tags of a TIFF file.
        jpeg: the JPEG file that it was read from.
        chunks: further chunks of a PNG (text, gamma ...), taken over when a PNG is written.
    """

    def __init__(
        self,
        image: PillowImage.Image,
        format_name: str,
        source: Path | None = None,
        *,
        tags: PillowImage.Exif | None = None,
        jpeg: JpegSource | None = None,
        chunks: Sequence[tuple[bytes, bytes]] = (),
    ) -> None:
        if image.mode not in _MODES:
            raise PConvError(
                "image: expected 8- or 16-bit grey, colour or palette samples, but "
                f"{source or 'the picture'} has mode {image.mode}"
            )
        self.notes: list[str] = []
        self.orientation = 1  # the EXIF orientation that was applied
        self.white_is_zero = False  # whether a TIFF stores it as MinIsWhite; here black is 0 in any case
        if "transparency" in image.info and image.mode in ("1", "L", "RGB", "I;16"):
            image = _without_colour_key(image)
        self.image, self.format, self.source, self.tags = image, format_name, source, tags
        self.jpeg, self.chunks = jpeg, list(chunks)
        self.hole: np.ndarray | None = None
        self._black: np.ndarray | None = None

    @property
    def size(self) -> tuple[int, int]:
        """(height, width)"""
        return self.image.height, self.image.width

    def rgb(self) -> np.ndarray:
        """The colours (H, W, 3), uint8, or uint16 for 16-bit grey."""
        if self.image.mode == "I;16":
            grey = np.asarray(self.image).astype(np.uint16)
            return np.broadcast_to(grey[..., None], (*grey.shape, 3))
        return np.asarray(self.image.convert("RGB"))

    def alpha(self) -> np.ndarray | None:
        """The opacity (H, W) as uint8, or None where the picture has none."""
        if not self.image.has_transparency_data:
            return None
        return np.asarray(self.image.convert("RGBA").getchannel("A"))

    def prepare(self, hole: np.ndarray) -> None:
        """Called with the whole hole (H, W) before anything is painted."""
        self.hole = hole
        if self.image.mode == "CMYK" and not hole.all():
            self._black = black_share(np.asarray(self.image), ~hole)

    def paint(self, box: Box, colours: np.ndarray, hole: np.ndarray, *, opaque: bool = False) -> None:
        """Assign the box's hole pixels, in the picture's own mode, rounded to the nearest value it can hold.

        Args:
            colours: float RGB (h, w, 3) in [0, 1].
            hole: bool (h, w); all other pixels stay untouched.
            opaque: also make the hole's pixels opaque; otherwise the alpha stays as it is.
        """
        Image, mode = pillow(), self.image.mode
        if opaque and mode in ("P", "PA") and self.image.has_transparency_data:
            self.image = self.image.convert("RGBA")  # a palette may have no opaque entry to choose
            mode = "RGBA"
        area = (box.left, box.top, box.right, box.bottom)
        old = self.image.crop(area)
        if mode == "I;16":
            new = Image.fromarray(np.rint(colours @ LUMA * 65535).clip(0, 65535).astype(np.uint16))
        elif mode in ("P", "PA"):
            new = _nearest_in_palette(old, colours, hole)
        elif mode == "CMYK" and self._black is not None:
            new = Image.fromarray(inks_of(colours, self._black[box.slices]), "CMYK")
        else:
            new = Image.fromarray(np.rint(colours * 255).clip(0, 255).astype(np.uint8))
            # no dithering: a bilevel picture takes the nearer of its two values
            new = new.convert(mode, dither=Image.Dither.NONE)
            if mode in ("LA", "RGBA"):
                new.putalpha(255 if opaque else old.getchannel("A"))
        self.image.paste(new, area, Image.fromarray(hole))


def _without_colour_key(image: PillowImage.Image) -> PillowImage.Image:
    """A transparent colour becomes an alpha channel, since a filled pixel could have that colour."""
    if image.mode == "I;16":
        raise PConvError("image: a transparent grey value in a 16-bit picture is not supported; add an alpha")
    if image.mode == "1":
        image = image.convert("L")
    converted = image.convert("LA" if image.mode == "L" else "RGBA")
    converted.info.pop("transparency", None)
    return converted


def _nearest_in_palette(old: PillowImage.Image, colours: np.ndarray, hole: np.ndarray) -> PillowImage.Image:
    """``old`` (mode P or PA) with the hole's pixels set to the nearest colours that the palette holds.

    Among entries of the same opacity only, so that the picture's transparency stays as it is.
    """
    Image = pillow()
    entries = np.asarray(old.getpalette("RGB"), np.float32).reshape(-1, 3)
    opacity = _palette_opacity(old)
    indices = np.array(old if old.mode == "P" else old.getchannel("P"))
    wanted = colours[hole] * 255
    before = indices[hole]
    chosen = before.copy()
    for level in np.unique(opacity[before]):
        allowed = np.flatnonzero(opacity[: len(entries)] == level)
        pixels = np.flatnonzero(opacity[before] == level)
        for part in np.array_split(pixels, -(-len(pixels) // 65536)):  # bounds the table of distances
            distance = ((wanted[part, None] - entries[None, allowed]) ** 2).sum(-1)
            chosen[part] = allowed[distance.argmin(1)]
    indices[hole] = chosen
    new = Image.fromarray(indices)
    if old.mode == "PA":
        # palette and alpha are attached by building the picture from its own bands
        pair = old.copy()
        pair.putalpha(old.getchannel("A"))
        pair.im.putband(new.im, 0)
        return pair
    new.putpalette(old.getpalette("RGB"))
    return new


def _palette_opacity(image: PillowImage.Image) -> np.ndarray:
    """The opacity of each of the 256 indices, from PNG's tRNS as Pillow gives it: bytes or one index."""
    opacity = np.full(256, 255, np.uint8)
    given = image.info.get("transparency")
    if isinstance(given, bytes):
        opacity[: len(given)] = np.frombuffer(given, np.uint8)
    elif isinstance(given, int):
        opacity[given] = 0
    return opacity
