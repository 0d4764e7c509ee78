"""Writing a picture with its profile, EXIF, XMP, text and resolution, atomically."""

from __future__ import annotations

import importlib.util
import io
import struct
from collections.abc import Callable
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from pconv_cuda.data.images import PHOTOMETRIC
from pconv_cuda.errors import PConvError
from pconv_cuda.files import atomic_path, os_error_text
from pconv_cuda.inpainting.pictures.formats import pillow
from pconv_cuda.inpainting.pictures.jpeg import with_blocks_of
from pconv_cuda.inpainting.pictures.picture import Picture
from pconv_cuda.inpainting.pictures.sixteen_bit import Picture16
from pconv_cuda.inpainting.pictures.tiff import STRUCTURE_TAGS, no_longer_true

if TYPE_CHECKING:
    from PIL import Image as PillowImage

__all__ = ["save_picture"]

# What each format holds exactly, and the mode that stands in where it does not.
_HOLDS = {
    "PNG": ("1", "L", "LA", "P", "RGB", "RGBA", "I;16"),
    "TIFF": ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr", "I;16"),
    "BMP": ("1", "L", "P", "RGB", "RGBA"),
    "WEBP": ("RGB", "RGBA"),
    "JPEG": ("L", "RGB", "CMYK"),
}
_STANDS_IN = {"1": "L", "L": "RGB", "LA": "RGBA", "P": "RGB", "PA": "RGBA", "CMYK": "RGB", "YCbCr": "RGB"}

# EXIF orientation -> the number of Pillow's transposition that turns an upright picture as it was stored
_TURNED_BACK = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}

_X_RESOLUTION = 282
_LOSSY_TIFF = ("jpeg", "tiff_jpeg", "webp", "tiff_thunderscan")


def save_picture(picture: Picture | Picture16, path: Path, format_name: str) -> None:
    """Write ``picture`` in a format of :data:`~pconv_cuda.inpainting.pictures.formats.FORMATS`, exactly where it can.

    PNG, TIFF, BMP and WebP are written lossless. JPEG, which cannot be, with the quantisation and subsampling of the
    JPEG that it was, and with its blocks and orientation where the hole touches nothing; of another format at quality
    100 without subsampling. TIFF keeps its compression unless that one loses
    something. A :class:`Picture16` keeps its format.

    Raises:
        PConvError: the format cannot hold the picture; the folder or the file cannot be written, and what was there
            before is then still there.
    """
    if isinstance(picture, Picture16):
        _save_picture16(picture, path, format_name)
        return
    image = _in_a_mode_of(format_name, picture.image, path)
    info = picture.image.info
    options: dict[str, Any] = {}
    if format_name != "BMP":
        options["icc_profile"] = info.get("icc_profile")
        exif = _exif(picture)
        if picture.white_is_zero and format_name == "TIFF" and image.mode in ("1", "L", "I;16"):
            exif[PHOTOMETRIC] = 0  # by which Pillow stores samples of 1 and 8 bits in the file's own sense again
            image = _other_sense(image) if image.mode == "I;16" else image
        if exif:
            options["exif"] = exif
    # of a TIFF that does not tell its resolution Pillow says 1 dpi
    if info.get("dpi") and (picture.tags is None or _X_RESOLUTION in picture.tags):
        options["dpi"] = info["dpi"]
    if format_name == "JPEG":
        options |= {"quality": 100, "subsampling": 0, "xmp": info.get("xmp"), "comment": info.get("comment")}
        if picture.jpeg is not None and picture.jpeg.options and image is picture.image:
            data = _jpeg_again(picture, options)
            _write_atomically(path, lambda file: file.write(data))
            return
    elif format_name == "WEBP":
        options |= {"lossless": True, "exact": True, "quality": 80, "xmp": info.get("xmp")}
    elif format_name == "PNG":
        options["pnginfo"] = _png_chunks_to_keep(picture)
    elif format_name == "TIFF":
        compression = info.get("compression")
        lossy = compression in _LOSSY_TIFF
        options["compression"] = "tiff_adobe_deflate" if lossy else compression or "raw"
        if picture.format != "TIFF":
            options["compression"] = "tiff_adobe_deflate"
    options = {name: value for name, value in options.items() if value is not None}
    if format_name == "BMP" and image.mode == "RGBA":
        _write_atomically(path, lambda file: _write_bmp_with_alpha(file, image))
        return
    _write_atomically(path, lambda file: image.save(file, format_name, **options))


def _save_picture16(picture: Picture16, path: Path, format_name: str) -> None:
    if format_name != picture.format:
        deep = "16-bit colour" if picture.colours == 3 else "16-bit grey of this layout"
        what = deep if picture.samples.dtype == np.uint16 else "a picture with further bands"
        raise PConvError(
            f"output: {what} is written in the format that it was read from; name {path.stem}"
            f".{picture.format.lower()} instead of {path.name}"
        )
    _write_atomically(path, picture.write)


def _write_atomically(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Let ``write`` fill a new file beside ``path`` that takes its place once it is whole."""
    try:
        with atomic_path(path) as partial, open(partial, "wb+") as file:
            write(file)
    except (PConvError, MemoryError):
        raise
    except Exception as error:  # encoders raise OSError, ValueError, struct.error, KeyError ...
        reason = os_error_text(error) if isinstance(error, OSError) else error or type(error).__name__
        raise PConvError(f"output: {path} cannot be written ({reason})") from error


def _in_a_mode_of(format_name: str, image: PillowImage.Image, path: Path) -> PillowImage.Image:
    """The picture in a mode that the format holds; pixel values as seen stay the same."""
    mode = image.mode
    if mode == "P" and "transparency" in image.info and format_name != "PNG":
        mode = "RGBA"
    while mode not in _HOLDS[format_name]:
        if mode not in _STANDS_IN:
            lost = "transparency" if mode.endswith("A") else "16-bit samples"
            raise PConvError(f"output: {format_name} cannot keep the picture's {lost}; name {path.stem}.png instead")
        mode = _STANDS_IN[mode]
    return image if mode == image.mode else image.convert(mode)


def _jpeg_again(picture: Picture, options: dict[str, Any]) -> bytes:
    """A picture that was a JPEG as one: in its stored orientation, so that its blocks can stay what they are."""
    source, image, hole = picture.jpeg, picture.image, picture.hole
    assert source is not None
    options = {name: value for name, value in options.items() if name not in ("quality", "subsampling")}
    options |= {**source.options, **source.info}
    # turning back: 6 and 8 undo each other, all others themselves
    back = _TURNED_BACK.get(source.orientation)
    if back is not None:
        image = image.transpose(pillow().Transpose(back))
    written = io.BytesIO()
    image.save(written, "JPEG", **{name: value for name, value in options.items() if value is not None})
    touched = np.zeros(picture.size, bool) if hole is None else hole
    if back is not None:
        touched = np.asarray(pillow().fromarray(touched).transpose(pillow().Transpose(back)))
    exact = with_blocks_of(source.data, written.getvalue(), touched)
    if exact is None:
        remedy = "" if importlib.util.find_spec("jpeglib") else "; with the package jpeglib only the hole's blocks are"
        picture.notes.append(f"the whole jpg is compressed again, which changes pixels outside the hole{remedy}")
    return exact or written.getvalue()


def _other_sense(image: PillowImage.Image) -> PillowImage.Image:
    """16-bit grey counted from white instead of black, or the reverse."""
    return pillow().fromarray(65535 - np.asarray(image).astype(np.uint16))


def _exif(picture: Picture) -> Any:
    """EXIF for the new file: the old bytes where there are any, else what TIFF keeps among its own tags."""
    if picture.tags is None:
        return picture.image.info.get("exif")
    dropped = [*STRUCTURE_TAGS, *(no_longer_true(picture.tags) if picture.orientation != 1 else ())]
    for tag in dropped:
        if tag in picture.tags:
            del picture.tags[tag]
    return picture.tags if len(picture.tags) or picture.white_is_zero else None


def _png_chunks_to_keep(picture: Picture) -> Any:
    """Text, gamma, chromaticities and private chunks, byte for byte; Pillow writes all others from info."""
    kept = pillow("PIL.PngImagePlugin").PngInfo()
    info = picture.image.info
    for kind, data in picture.chunks:
        written_elsewhere = kind in (b"IHDR", b"PLTE", b"IDAT", b"IEND", b"tRNS", b"iCCP", b"eXIf", b"pHYs")
        keyword = data.split(b"\0", 1)[0]
        # these two can hold an orientation that has been applied: the edited text follows below
        if keyword == b"XML:com.adobe.xmp" and kind == b"iTXt":
            continue
        if written_elsewhere or keyword == b"Raw profile type exif" or kind == b"sBIT":
            continue
        kept.add(kind, data)
    xmp = info.get("xmp") or info.get("XML:com.adobe.xmp")
    if xmp:
        kept.add_itxt("XML:com.adobe.xmp", xmp.decode("utf-8") if isinstance(xmp, bytes) else xmp)
    return kept


def _write_bmp_with_alpha(file: IO[bytes], image: PillowImage.Image) -> None:
    """A 32-bit BMP with a version 4 header, which says where the alpha is; Pillow's does not."""
    pixels = np.asarray(image)[::-1, :, [2, 1, 0, 3]].tobytes()
    header_size, offset = 108, 14 + 108
    bitfields, srgb = 3, b"BGRs"
    dots = [round(float(value) / 0.0254) for value in image.info.get("dpi", (96, 96))]
    file.write(struct.pack("<2sIHHI", b"BM", offset + len(pixels), 0, 0, offset))
    file.write(struct.pack("<IiiHHII", header_size, image.width, image.height, 1, 32, bitfields, len(pixels)))
    file.write(struct.pack("<iiII", *dots, 0, 0))
    file.write(struct.pack("<IIII4s", 0xFF0000, 0xFF00, 0xFF, 0xFF000000, srgb))
    file.write(bytes(offset - file.tell()))
    file.write(pixels)
