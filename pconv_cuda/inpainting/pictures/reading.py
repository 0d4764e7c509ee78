"""Reading picture files: upright, and in the class that keeps their samples."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pconv_cuda.data.images import is_white_at_zero
from pconv_cuda.errors import PConvError
from pconv_cuda.inpainting.pictures.formats import (
    FORMATS,
    MAX_PIXELS,
    READ_ONLY,
    open_pillow,
    pillow,
    without_pixel_limit,
)
from pconv_cuda.inpainting.pictures.jpeg import JpegSource
from pconv_cuda.inpainting.pictures.picture import Picture
from pconv_cuda.inpainting.pictures.png16 import kept_chunks, png_chunks
from pconv_cuda.inpainting.pictures.sixteen_bit import Picture16, needs_picture16
from pconv_cuda.inpainting.pictures.tiff import is_tiff, no_longer_true, turned_notes

if TYPE_CHECKING:
    from PIL import Image as PillowImage

__all__ = ["read_picture"]


def read_picture(path: Path, max_pixels: int = MAX_PIXELS) -> Picture | Picture16:
    """Read a file of one of the :data:`FORMATS` or :data:`READ_ONLY`, with its EXIF orientation applied.

    Raises:
        PConvError: missing, unreadable, cut short, animated, above ``max_pixels``, or in a mode whose samples could
            not be kept.
    """
    try:
        image = open_pillow(path, "image", max_pixels)
    except PConvError as error:
        # Pillow knows few combinations of bands
        if not (isinstance(error.__cause__, pillow().UnidentifiedImageError) and is_tiff(path)):
            raise
        return Picture16.read_tiff(path, max_pixels)
    try:
        with image, without_pixel_limit():
            return _read(path, image)
    except (PConvError, MemoryError):
        raise
    except Exception as error:  # as above
        raise PConvError(f"image: {path} cannot be decoded ({error or type(error).__name__})") from error


def _read(path: Path, image: PillowImage.Image) -> Picture | Picture16:
    # phones write JPEG with further pictures behind the first ("MPO"); the first is the photo
    name = "JPEG" if image.format == "MPO" else str(image.format)
    if name not in (*FORMATS.values(), *READ_ONLY.values()):
        raise PConvError(f"image: expected jpg, png, webp, tiff, bmp, avif or heic, but {path} is {name}")
    count = getattr(image, "n_frames", 1)
    if count > 1 and name not in ("JPEG", "HEIF"):
        raise PConvError(f"image: expected a single picture, but {path} holds {count}")
    if needs_picture16(image):
        return Picture16.read_tiff(path) if name == "TIFF" else Picture16.read_png(path, image)
    orientation = image.getexif().get(0x0112, 1)  # before load(), which turns a TIFF
    image.load()
    tags = _tiff_tags(image) if name == "TIFF" else None
    jpeg = JpegSource.of(image, path) if name == "JPEG" else None
    chunks = kept_chunks(png_chunks(path)) if name == "PNG" else []
    upright = pillow("PIL.ImageOps").exif_transpose(image)
    if upright.mode == "I;16B":  # big-endian; Pillow's own conversion would not keep the values
        upright = _with_samples(upright, np.asarray(upright).astype(np.uint16))
    white_is_zero = is_white_at_zero(tags)
    if upright.mode == "I;16" and white_is_zero:  # Pillow turns only samples of 1 and 8 bits
        upright = _with_samples(upright, 65535 - np.asarray(upright))
    picture = Picture(upright, name, path, tags=tags, jpeg=jpeg, chunks=chunks)
    picture.orientation = orientation if orientation in range(1, 9) else 1
    picture.white_is_zero = white_is_zero
    if tags is not None and picture.orientation != 1:
        picture.notes += turned_notes(no_longer_true(tags))
    if count > 1:
        picture.notes.append(f"only the first of its {count} pictures is kept")
    if int(image.info.get("bit_depth") or 8) > 8:
        picture.notes.append(f"its {image.info['bit_depth']} bits a sample are read as 8")
    return picture


def _with_samples(image: PillowImage.Image, samples: np.ndarray) -> PillowImage.Image:
    new = pillow().fromarray(samples)
    new.info.update(image.info)
    return new


def _tiff_tags(image: PillowImage.Image) -> PillowImage.Exif:
    """All tags of a TIFF file, read while the file is open, since a turned copy loses them."""
    tags = image.getexif()
    for directory in (0x8769, 0x8825, 0xA005):  # EXIF, GPS, interoperability
        with contextlib.suppress(KeyError):  # Pillow 11.3, where EXIF has no interoperability tags
            tags.get_ifd(directory)
    return tags
