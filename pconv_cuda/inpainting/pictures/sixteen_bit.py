"""Pictures that Pillow would silently reduce: 16-bit colour in PNG and TIFF, TIFF with further bands.

PNG is read and written by :mod:`pconv_cuda.inpainting.pictures.png16`, TIFF by
:mod:`pconv_cuda.inpainting.pictures.tiff`.
"""

from __future__ import annotations

from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from pconv_cuda.errors import PConvError
from pconv_cuda.inpainting.pictures.array import ArrayPicture
from pconv_cuda.inpainting.pictures.formats import MAX_PIXELS
from pconv_cuda.inpainting.pictures.png16 import kept_chunks, png_chunks, read_samples, write_samples
from pconv_cuda.inpainting.pictures.tiff import TiffFile, is_beyond_pillow, read_tiff, write_tiff

if TYPE_CHECKING:
    from PIL import Image as PillowImage

__all__ = ["Picture16", "needs_picture16"]

# EXIF orientation -> how an (H, W, C) array becomes upright: transposed first?, then flipped along these axes
_UPRIGHT = {
    1: (False, ()),
    2: (False, (1,)),
    3: (False, (0, 1)),
    4: (False, (0,)),
    5: (True, ()),
    6: (True, (1,)),
    7: (True, (0, 1)),
    8: (True, (0,)),
}


def _upright(samples: np.ndarray, orientation: int) -> np.ndarray:
    turned, flipped = _UPRIGHT.get(orientation, _UPRIGHT[1])
    return np.ascontiguousarray(np.flip(samples.swapaxes(0, 1) if turned else samples, flipped))


def needs_picture16(image: Any) -> bool:
    """Whether an opened file holds several 16-bit samples a pixel, or bands that Pillow leaves out."""
    if image.format == "PNG":
        return image.mode != "I;16" and any(";16" in str(tile.args) for tile in image.tile)
    return image.format == "TIFF" and is_beyond_pillow(image)


class Picture16(ArrayPicture):
    """An upright picture of :func:`needs_picture16` and what its file says beside the samples.

    ``samples`` is (H, W, C): grey or RGB, then perhaps alpha and further bands; uint16, of TIFF also uint8.
    """

    def __init__(self, samples: np.ndarray, format_name: str, source: Path, **bands: Any) -> None:
        super().__init__(samples, **bands)
        self.format, self.source = format_name, source
        self.notes: list[str] = []
        self.chunks: list[tuple[bytes, bytes]] = []  # of a PNG
        self.exif: bytes | None = None  # of a PNG: rewritten without the orientation; None: the old one still holds
        self.tiff: TiffFile | None = None

    @classmethod
    def read_png(cls, path: Path, image: PillowImage.Image) -> Picture16:
        """Decode the PNG ``path``, whose header ``image`` has read.

        Raises:
            PConvError: one colour stands for transparent.
            ValueError: damaged picture data.
        """
        exif = image.getexif()
        orientation = exif.pop(274, 1)
        chunks = png_chunks(path)
        if any(kind == b"tRNS" for kind, _ in chunks):
            raise PConvError(f"image: {path} marks one 16-bit colour as transparent, which is not supported")
        picture = cls(_upright(read_samples(chunks), orientation), "PNG", path)
        picture.chunks = kept_chunks(chunks)
        picture.exif = exif.tobytes() if orientation != 1 else None
        picture.orientation = orientation if orientation in _UPRIGHT else 1
        return picture

    @classmethod
    def read_tiff(cls, path: Path, max_pixels: int = MAX_PIXELS) -> Picture16:
        """Decode the TIFF ``path``.

        Raises:
            PConvError: samples that are not unsigned 8- or 16-bit grey or RGB, a compression that cannot be read, or
                more than ``max_pixels``.
        """
        samples, tiff = read_tiff(path, max_pixels)
        bands = {"alpha": tiff.alpha, "colours": tiff.colours, "premultiplied": tiff.premultiplied}
        picture = cls(_upright(samples, tiff.orientation), "TIFF", path, **bands)
        picture.orientation = tiff.orientation if tiff.orientation in _UPRIGHT else 1
        picture.tiff = tiff if picture.orientation == 1 else tiff.turned()
        picture.notes += picture.tiff.notes
        return picture

    def write(self, file: IO[bytes]) -> None:
        """Encode in the format that it was read from; no other here holds such samples."""
        if self.tiff is not None:
            write_tiff(file, self.samples, self.tiff)
            return
        # all chunks of the old file stand where they stood; the EXIF is new if the picture was turned
        replaced = (b"IHDR", b"IDAT", b"IEND") + ((b"eXIf",) if self.exif else ())
        first_data = [kind for kind, _ in self.chunks].index(b"IDAT")
        before = [chunk for chunk in self.chunks[:first_data] if chunk[0] not in replaced]
        if self.exif:
            before.append((b"eXIf", self.exif.removeprefix(b"Exif\0\0")))
        after = [chunk for chunk in self.chunks[first_data:] if chunk[0] not in replaced]
        write_samples(file, self.samples, before, after)
