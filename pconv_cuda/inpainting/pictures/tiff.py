"""TIFF whose samples Pillow does not keep: 16-bit colour, and bands beside the colours. Read and written by tifffile.

All tags that still hold are taken over, GeoTIFF's among them.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Any

import numpy as np

from pconv_cuda.errors import PConvError, require
from pconv_cuda.inpainting.pictures.formats import PictureTooLarge

__all__ = [
    "STRUCTURE_TAGS",
    "TiffFile",
    "is_beyond_pillow",
    "is_tiff",
    "no_longer_true",
    "read_tiff",
    "turned_notes",
    "write_tiff",
]

# TIFF's own account of how the samples lie in the file; a new file makes its own.
STRUCTURE_TAGS = (254, 255, 256, 257, 258, 259, 262, 263, 266, 273, 274, 277, 278, 279, 284, 292, 293, 317)
STRUCTURE_TAGS += (320, 322, 323, 324, 325, 330, 338, 339, 347, *range(512, 522), 529, 530, 531, 532, 34675)
_SIGNATURES = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_MOST_BANDS = 64

_BITS_PER_SAMPLE, _SAMPLES_PER_PIXEL, _EXTRA_SAMPLES = 258, 277, 338
_UNSPECIFIED, _PREMULTIPLIED_ALPHA, _ALPHA = 0, 1, 2  # values of ExtraSamples
_DESCRIPTION, _SOFTWARE, _PROFILE = 270, 305, 34675
_RESOLUTION = (282, 283, 296)
_DIRECTORIES = {34665: "EXIF", 34853: "GPS", 40965: "interoperability"}
_SHAPE_WORDS = ('{"shape"', "ImageJ=", "<OME")  # by which programs begin a description of the array
_GEOGRAPHY = (33550, 33922, 34264, 34735, 34736, 34737)  # GeoTIFF's: where each pixel lies


@dataclass(frozen=True)
class TiffFile:
    """A TIFF's layout of samples, and the tags to take over: (code, type, count, value)."""

    orientation: int
    extra: tuple[int, ...]  # ExtraSamples, one for each band beside the colours
    colours: int
    compressed: bool
    byteorder: str
    tags: tuple[tuple[int, int, int, Any], ...]
    resolution: tuple[tuple[int, int], tuple[int, int], int] | None
    profile: bytes | None
    software: str | None
    notes: list[str] = field(default_factory=list)
    white_is_zero: bool = False  # MinIsWhite: the file stores grey as what it lacks to white

    @property
    def alpha(self) -> int | None:
        """The band that holds the opacity."""
        found = [at for at, kind in enumerate(self.extra) if kind in (_ALPHA, _PREMULTIPLIED_ALPHA)]
        return self.colours + found[0] if found else None

    @property
    def premultiplied(self) -> bool:
        return _PREMULTIPLIED_ALPHA in self.extra

    def turned(self) -> TiffFile:
        """The same without what a turned picture makes wrong."""
        dropped = no_longer_true({tag[0]: tag[3] for tag in self.tags})
        kept = tuple(tag for tag in self.tags if tag[0] not in dropped)
        return replace(self, tags=kept, notes=[*self.notes, *turned_notes(dropped)])


def no_longer_true(tags: Mapping[int, Any]) -> tuple[int, ...]:
    """Those of ``tags`` that a turned picture makes wrong: its place on the map, a description of the array's shape."""
    found = [code for code in _GEOGRAPHY if code in tags]
    described = _DESCRIPTION in tags and any(word in str(tags[_DESCRIPTION]) for word in _SHAPE_WORDS)
    return (*found, _DESCRIPTION) if described else tuple(found)


def turned_notes(dropped: tuple[int, ...]) -> list[str]:
    """The notes for tags that :func:`no_longer_true` named."""
    if not set(dropped).intersection(_GEOGRAPHY):
        return []
    return ["its place on the map (GeoTIFF) is left out, because the picture was turned"]


def is_beyond_pillow(image: Any) -> bool:
    """Whether an opened TIFF holds several 16-bit samples a pixel, or bands that are no alpha as Pillow has it."""
    tags = image.tag_v2
    samples = tags.get(_SAMPLES_PER_PIXEL, 1)
    if samples < 2:
        return False
    if max(tags.get(_BITS_PER_SAMPLE, (8,))) > 8:
        return True
    extra = tags.get(_EXTRA_SAMPLES, ())
    return any(kind != _ALPHA for kind in extra) or len(extra) > 1


def is_tiff(path: Path) -> bool:
    """By the file's first bytes."""
    with open(path, "rb") as file:
        return file.read(4) in _SIGNATURES


def read_tiff(path: Path, max_pixels: int) -> tuple[np.ndarray, TiffFile]:
    """The samples (H, W, C), uint8 or uint16, with 0 for black, and the rest.

    Raises:
        PConvError: other samples, or a compression that cannot be read.
    """
    tifffile = require("tifffile", "inpaint", why="16-bit colour TIFF")
    try:
        with tifffile.TiffFile(path) as file:
            page = file.pages[0]
            if len(file.pages) > 1:
                raise PConvError(f"image: expected a single picture, but {path} holds {len(file.pages)}")
            size = f"{page.imagewidth} x {page.imagelength} px with {page.samplesperpixel} bands"
            if page.samplesperpixel > _MOST_BANDS:
                raise PConvError(f"image: expected at most {_MOST_BANDS} bands, but {path} is {size}")
            if page.imagewidth * page.imagelength > max_pixels:
                raise PictureTooLarge("image", path, size, max_pixels)
            samples = page.asarray()
            about = _about(page, file.byteorder)
            planar, kind = page.planarconfig == 2, page.photometric.name
    except PConvError:
        raise
    except Exception as error:  # ValueError for a codec that it lacks; damaged files raise others too
        raise PConvError(
            f"image: {path} cannot be decoded ({error or type(error).__name__}); if its compression is the cause, save "
            "it uncompressed"
        ) from error
    if planar and samples.ndim == 3:
        samples = np.moveaxis(samples, 0, -1)
    if samples.ndim == 2:
        samples = samples[..., None]
    bands = samples.shape[2] if samples.ndim == 3 else 0
    colours = {"RGB": 3, "MINISBLACK": 1, "MINISWHITE": 1}.get(kind, 0)
    if samples.dtype not in (np.uint8, np.uint16) or not colours or bands < colours:
        raise PConvError(
            f"image: expected grey or RGB of unsigned 8- or 16-bit samples, but {path} has {bands} "
            f"band{'s' * (bands != 1)} of {samples.dtype} ({kind})"
        )
    # files may leave the tag out, or have fewer entries than bands
    extra = (*about.extra, *[_UNSPECIFIED] * bands)[: bands - colours]
    about = replace(about, extra=extra, colours=colours, white_is_zero=kind == "MINISWHITE")
    if about.white_is_zero and about.premultiplied:  # no reader says whether black or white was multiplied
        raise PConvError(
            f"image: expected opacity that is stored apart beside MinIsWhite grey, but {path} has premultiplied alpha"
        )
    return _other_sense(samples) if about.white_is_zero else samples, about


def _other_sense(samples: np.ndarray) -> np.ndarray:
    """Samples with their first band, the grey, counted from white instead of black, or the reverse."""
    turned = samples.copy()
    turned[..., 0] = np.iinfo(samples.dtype).max - samples[..., 0]
    return turned


def _about(page: Any, byteorder: str) -> TiffFile:
    found = {tag.code: tag for tag in page.tags.values()}
    skipped = (*STRUCTURE_TAGS, *_RESOLUTION, *_DIRECTORIES, _SOFTWARE, _PROFILE)
    kept = [
        (tag.code, int(tag.dtype), tag.count, tag.value)
        for tag in found.values()
        # tifffile's own description tells the array's shape
        if tag.code not in skipped and not (tag.code == _DESCRIPTION and str(tag.value).startswith('{"shape"'))
    ]
    names = [name for code, name in _DIRECTORIES.items() if code in found]
    resolution = None
    if all(code in found for code in _RESOLUTION[:2]):
        unit = int(found[296].value) if 296 in found else 2  # inches, as the format has it
        resolution = (found[282].value, found[283].value, unit)
    return TiffFile(
        orientation=int(found[274].value) if 274 in found else 1,
        extra=tuple(int(one) for one in page.extrasamples),
        colours=0,
        compressed=page.compression != 1,
        byteorder=byteorder,
        tags=tuple(kept),
        resolution=resolution,
        profile=found[_PROFILE].value if _PROFILE in found else None,
        software=found[_SOFTWARE].value if _SOFTWARE in found else None,
        notes=[f"its {' and '.join(names)} tags are not kept (16-bit TIFF)"] if names else [],
    )


def write_tiff(file: IO[bytes], samples: np.ndarray, about: TiffFile) -> None:
    """Write the samples with the tags of ``about`` into ``file``, which is open for reading too."""
    tifffile = require("tifffile", "inpaint", why="16-bit colour TIFF")
    resolution = about.resolution
    grey = "miniswhite" if about.white_is_zero else "minisblack"
    samples = _other_sense(samples) if about.white_is_zero else samples
    several = samples.shape[2] > 1  # tifffile takes (H, W, 1) for a volume
    tifffile.imwrite(
        file,
        samples if several else samples[..., 0],
        photometric="rgb" if about.colours == 3 else grey,
        planarconfig="contig" if several else None,
        extrasamples=list(about.extra) or None,
        compression="zlib" if about.compressed else None,
        byteorder=about.byteorder,
        resolution=[above / max(below, 1) for above, below in resolution[:2]] if resolution else None,
        resolutionunit=resolution[2] if resolution else None,
        iccprofile=about.profile,
        software=about.software or False,
        metadata=None,
        extratags=[(*tag, True) for tag in about.tags],
    )
    if resolution is None:
        _remove_tags(file, _RESOLUTION)  # tifffile writes 1 pixel a unit where it is told nothing


def _remove_tags(file: IO[bytes], codes: tuple[int, ...]) -> None:
    """Takes entries out of the first directory of a TIFF file; those behind them move up."""
    file.seek(0)
    header = file.read(16)
    order = "<" if header[:2] == b"II" else ">"
    big = struct.unpack(order + "H", header[2:4])[0] == 43
    at = struct.unpack(order + "Q", header[8:16])[0] if big else struct.unpack(order + "I", header[4:8])[0]
    count_format, entry, pointer = ("Q", 20, 8) if big else ("H", 12, 4)
    width = struct.calcsize(order + count_format)
    file.seek(at)
    count = struct.unpack(order + count_format, file.read(width))[0]
    entries = [file.read(entry) for _ in range(count)]
    following = file.read(pointer)
    kept = [one for one in entries if struct.unpack(order + "H", one[:2])[0] not in codes]
    file.seek(at)
    file.write(struct.pack(order + count_format, len(kept)) + b"".join(kept) + following)
