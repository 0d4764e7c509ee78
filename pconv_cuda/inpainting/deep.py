"""16-bit colour (RGB, RGBA, grey with alpha) in PNG and TIFF, which Pillow reads as 8 bits without a word.

PNG is read and written by :mod:`~pconv_cuda.inpainting.png16`, TIFF by tifffile.
"""

from __future__ import annotations

from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from pconv_cuda.errors import PConvError, require
from pconv_cuda.inpainting.arrays import ArrayPicture
from pconv_cuda.inpainting.png16 import png_chunks, read_samples, write_samples
from pconv_cuda.inpainting.storing import write_atomically

if TYPE_CHECKING:
    from PIL import Image as PillowImage

__all__ = ["DeepPicture", "is_deep"]

_BITS_PER_SAMPLE, _SAMPLES_PER_PIXEL, _SAMPLE_FORMAT = 258, 277, 339
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


def is_deep(image: Any) -> bool:
    """Whether an opened file holds several 16-bit samples a pixel."""
    if image.format == "PNG":
        return image.mode != "I;16" and any(";16" in str(tile.args) for tile in image.tile)
    if image.format == "TIFF":
        tags = image.tag_v2
        several = tags.get(_SAMPLES_PER_PIXEL, 1) > 1
        return several and max(tags.get(_BITS_PER_SAMPLE, (8,))) > 8
    return False


class DeepPicture(ArrayPicture):
    """An upright 16-bit colour picture and the file that it came from.

    ``samples`` is uint16 (H, W, C) with C = 2 (grey, alpha), 3 (RGB) or 4 (RGBA).
    """

    def __init__(self, samples: np.ndarray, format_name: str, source: Path, exif: bytes | None) -> None:
        super().__init__(samples)
        self.format, self.source = format_name, source
        self.notes: list[str] = []
        self.exif = exif  # rewritten without the orientation, or None: the old one still holds

    @classmethod
    def read(cls, path: Path, image: PillowImage.Image) -> DeepPicture:
        """Decode ``path``, whose header ``image`` has read.

        Raises:
            PConvError: samples that are not plain unsigned 16-bit, or a compression that cannot be read.
        """
        samples = _decode_png(path) if image.format == "PNG" else _decode_tiff(path)
        exif = image.getexif()
        orientation = exif.pop(274, 1)
        turned, flipped = _UPRIGHT.get(orientation, _UPRIGHT[1])
        samples = np.ascontiguousarray(np.flip(samples.swapaxes(0, 1) if turned else samples, flipped))
        return cls(samples, str(image.format), path, exif.tobytes() if orientation != 1 else None)

    def save(self, path: Path, format_name: str) -> None:
        """Write atomically, as PNG or TIFF; no other format here holds 16-bit colour."""
        if format_name != self.format:
            raise PConvError(
                f"OUT: 16-bit colour is written in the format that it was read from; name {path.stem}"
                f".{self.format.lower()} instead of {path.name}"
            )
        write_atomically(path, self._write_png if format_name == "PNG" else self._write_tiff)

    def _write_png(self, file: IO[bytes]) -> None:
        """All chunks of the old file stand where they stood; the EXIF is new if the picture was turned."""
        replaced = (b"IHDR", b"IDAT", b"IEND") + ((b"eXIf",) if self.exif else ())
        old = png_chunks(self.source)
        first_data = [kind for kind, _ in old].index(b"IDAT")
        before = [chunk for chunk in old[:first_data] if chunk[0] not in replaced]
        if self.exif:
            before.append((b"eXIf", self.exif.removeprefix(b"Exif\0\0")))
        after = [chunk for chunk in old[first_data:] if chunk[0] not in replaced]
        write_samples(file, self.samples, before, after)

    def _write_tiff(self, file: IO[bytes]) -> None:
        tifffile = _tifffile()
        with tifffile.TiffFile(self.source) as old:
            page = old.pages[0]
            tags = page.tags
            # Artist, copyright, XMP, IPTC and Photoshop's block; the sub-directories of EXIF cannot be copied
            kept = [
                (tag.code, int(tag.dtype), tag.count, tag.value, True)
                for tag in tags.values()
                if tag.code in (270, 271, 272, 306, 315, 33432, 700, 33723, 34377)
            ]
            resolution = [tags[name].value for name in ("XResolution", "YResolution") if name in tags]
            profile = tags["InterColorProfile"].value if "InterColorProfile" in tags else None
            tifffile.imwrite(
                file,
                self.samples,
                photometric="minisblack" if self.samples.shape[2] == 2 else "rgb",
                planarconfig="contig",
                extrasamples=None if self.samples.shape[2] == 3 else ["unassalpha"],
                compression=None if page.compression == 1 else "zlib",
                byteorder=old.byteorder,
                resolution=[value[0] / value[1] for value in resolution] if len(resolution) == 2 else None,
                resolutionunit=tags["ResolutionUnit"].value if "ResolutionUnit" in tags else None,
                iccprofile=profile,
                software=tags["Software"].value if "Software" in tags else False,
                metadata=None,
                extratags=kept,
            )


def _tifffile():
    return require("tifffile", "inpaint", why="16-bit colour TIFF")


def _decode_png(path: Path) -> np.ndarray:
    chunks = png_chunks(path)
    if any(kind == b"tRNS" for kind, _ in chunks):
        raise PConvError(f"IMAGE: {path} marks one 16-bit colour as transparent, which is not supported")
    return read_samples(chunks)


def _decode_tiff(path: Path) -> np.ndarray:
    try:
        with _tifffile().TiffFile(path) as file:
            page = file.pages[0]
            samples = page.asarray()
            planar = page.planarconfig == 2
            kind = page.photometric.name
    except ValueError as error:  # tifffile's word for a codec that it lacks
        raise PConvError(
            f"IMAGE: {path} cannot be decoded ({error}); install imagecodecs or save it uncompressed"
        ) from error
    if planar and samples.ndim == 3:
        samples = np.moveaxis(samples, 0, -1)
    channels = samples.shape[2] if samples.ndim == 3 else 0
    fits = {"RGB": (3, 4), "MINISBLACK": (2,)}.get(kind, ())
    if samples.dtype != np.uint16 or channels not in fits:
        raise PConvError(
            f"IMAGE: expected grey or RGB of unsigned 16-bit samples, with or without alpha, but {path} has "
            f"{channels} channels of {samples.dtype} ({kind})"
        )
    return samples
