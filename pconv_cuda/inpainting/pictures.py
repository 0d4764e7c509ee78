"""Picture files: read upright, shown to the network as RGB, painted in their own mode, written as they were.

Only the hole's pixels are ever assigned; everything else in a picture is carried through as it was decoded.
Two classes have the same methods: :class:`Picture` here for whatever Pillow holds exactly, and
:class:`~pconv_cuda.inpainting.deep.DeepPicture` for 16-bit colour, which Pillow would cut down to 8 bits.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pconv_cuda.errors import PConvError, require
from pconv_cuda.inpainting.arrays import LUMA
from pconv_cuda.inpainting.inks import black_share, inks_of
from pconv_cuda.inpainting.jpeg import JpegSource
from pconv_cuda.inpainting.png16 import kept_chunks, png_chunks
from pconv_cuda.inpainting.tiff import is_tiff, no_longer_true, turned_notes
from pconv_cuda.inpainting.windows import Box

if TYPE_CHECKING:
    from PIL import Image as PillowImage

    from pconv_cuda.inpainting.deep import DeepPicture

__all__ = ["FORMATS", "MAX_PIXELS", "READ_ONLY", "Picture", "open_pillow", "pillow", "read_picture"]

MAX_PIXELS = 500_000_000  # of a picture file, unless --max-pixels says otherwise; 1.5 GB as RGB

# The file name's ending decides what is written; reading goes by the file's content.
FORMATS = {
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".png": "PNG",
    ".webp": "WEBP",
    ".tif": "TIFF",
    ".tiff": "TIFF",
    ".bmp": "BMP",
}
# read, but written as png: their files cannot hold the pixels outside the hole unchanged
READ_ONLY = {".avif": "AVIF", ".heic": "HEIF", ".heif": "HEIF"}
_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr", "I;16")


def pillow(module: str = "PIL.Image") -> Any:
    """A module of Pillow, or the sentence that says how to install it."""
    return require(module, "inpaint", why="reading and writing pictures")


def open_pillow(path: Path, argument: str, max_pixels: int = MAX_PIXELS) -> PillowImage.Image:
    """Open (not yet decode) one picture file, or say which argument named something that is none."""
    Image = pillow()
    if path.suffix.lower() in (".heic", ".heif"):
        require("pillow_heif", "heic", why="reading HEIC").register_heif_opener()
    try:
        with _without_pixel_limit():
            image = Image.open(path)
    except FileNotFoundError:
        raise PConvError(f"{argument}: expected a picture file, but {path} does not exist") from None
    except Exception as error:  # decoders raise OSError, SyntaxError, struct.error, IndexError ...
        raise PConvError(f"{argument}: {path} cannot be read as a picture ({error or type(error).__name__})") from error
    if image.width * image.height > max_pixels:
        image.close()
        raise PConvError(
            f"{argument}: {path} is {image.width} x {image.height} px, and --max-pixels allows {max_pixels}; "
            "give a greater number if that is meant"
        )
    return image


@contextlib.contextmanager
def _without_pixel_limit() -> Iterator[None]:
    """Pillow's own limit is below the size of scans; ours is checked instead."""
    Image = pillow()
    before, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
    try:
        yield
    finally:
        Image.MAX_IMAGE_PIXELS = before


def read_picture(path: Path, max_pixels: int = MAX_PIXELS) -> Picture | DeepPicture:
    """Read a file of one of the :data:`FORMATS` or :data:`READ_ONLY`, with its EXIF orientation applied.

    Raises:
        PConvError: missing, unreadable, cut short, animated, above ``max_pixels``, or in a mode whose samples could
            not be kept.
    """
    from pconv_cuda.inpainting.deep import DeepPicture

    try:
        image = open_pillow(path, "IMAGE", max_pixels)
    except PConvError as error:
        # Pillow knows few combinations of bands
        if not (isinstance(error.__cause__, pillow().UnidentifiedImageError) and is_tiff(path)):
            raise
        return DeepPicture.read_tiff(path, max_pixels)
    try:
        with image, _without_pixel_limit():
            return _read(path, image)
    except (PConvError, MemoryError):
        raise
    except Exception as error:  # as above
        raise PConvError(f"IMAGE: {path} cannot be decoded ({error or type(error).__name__})") from error


def _read(path: Path, image: PillowImage.Image) -> Picture | DeepPicture:
    from pconv_cuda.inpainting.deep import DeepPicture, is_deep

    # phones write JPEG with further pictures behind the first ("MPO"); the first is the photo
    name = "JPEG" if image.format == "MPO" else str(image.format)
    if name not in (*FORMATS.values(), *READ_ONLY.values()):
        raise PConvError(f"IMAGE: expected jpg, png, webp, tiff, bmp, avif or heic, but {path} is {name}")
    count = getattr(image, "n_frames", 1)
    if count > 1 and name not in ("JPEG", "HEIF"):
        raise PConvError(f"IMAGE: expected a single picture, but {path} holds {count}")
    if is_deep(image):
        return DeepPicture.read_tiff(path) if name == "TIFF" else DeepPicture.read_png(path, image)
    orientation = image.getexif().get(0x0112, 1)  # before load(), which turns a TIFF
    image.load()
    tags = _tiff_tags(image) if name == "TIFF" else None
    jpeg = JpegSource.of(image, path) if name == "JPEG" else None
    chunks = kept_chunks(png_chunks(path)) if name == "PNG" else []
    upright = pillow("PIL.ImageOps").exif_transpose(image)
    if upright.mode == "I;16B":  # big-endian; Pillow's own conversion would not keep the values
        native = pillow().fromarray(np.asarray(upright).astype(np.uint16))
        native.info.update(upright.info)
        upright = native
    picture = Picture(upright, name, path, tags=tags, jpeg=jpeg, chunks=chunks)
    picture.orientation = orientation if orientation in range(1, 9) else 1
    if tags is not None and picture.orientation != 1:
        picture.notes += turned_notes(no_longer_true(tags))
    if count > 1:
        picture.notes.append(f"only the first of its {count} pictures is kept")
    if int(image.info.get("bit_depth") or 8) > 8:
        picture.notes.append(f"its {image.info['bit_depth']} bits a sample are read as 8")
    return picture


def _tiff_tags(image: PillowImage.Image) -> PillowImage.Exif:
    """Everything that a TIFF file says of itself, read while the file is open: a turned copy has lost it."""
    tags = image.getexif()
    for directory in (0x8769, 0x8825, 0xA005):  # EXIF, GPS, interoperability
        tags.get_ifd(directory)
    return tags


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
                "IMAGE: expected 8- or 16-bit grey, colour or palette samples, but "
                f"{source or 'the picture'} has mode {image.mode}"
            )
        self.notes: list[str] = []
        self.orientation = 1  # the EXIF orientation that was applied
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

    def save(self, path: Path, format_name: str) -> None:
        """Write atomically; see :func:`pconv_cuda.inpainting.storing.save_picture`."""
        from pconv_cuda.inpainting.storing import save_picture

        save_picture(self, path, format_name)


def _without_colour_key(image: PillowImage.Image) -> PillowImage.Image:
    """One colour stands for "transparent": a filled pixel could hit it, so it becomes an alpha channel."""
    if image.mode == "I;16":
        raise PConvError("IMAGE: a transparent grey value in a 16-bit picture is not supported; add an alpha")
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
