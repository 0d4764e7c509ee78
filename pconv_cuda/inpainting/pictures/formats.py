"""Which picture files are read and written, and Pillow, through which most of them are."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pconv_cuda.errors import PConvError, require

if TYPE_CHECKING:
    from PIL import Image as PillowImage

__all__ = ["FORMATS", "MAX_PIXELS", "READ_ONLY", "PictureTooLarge", "open_pillow", "pillow", "without_pixel_limit"]

MAX_PIXELS = 500_000_000  # of a picture file, by default; 1.5 GB as RGB

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


class PictureTooLarge(PConvError):
    """A picture file of more pixels than are allowed; ``place`` names the argument and the file."""

    def __init__(self, argument: str, path: Path, size: str, max_pixels: int) -> None:
        self.place, self.size = f"{argument}: {path}", size
        super().__init__(
            f"{self.place} is {size}, and `max_pixels` allows {max_pixels}; give a greater number if that is meant"
        )


def pillow(module: str = "PIL.Image") -> Any:
    """A module of Pillow, or the sentence that says how to install it."""
    return require(module, "inpaint", why="reading and writing pictures")


def open_pillow(path: Path, argument: str, max_pixels: int = MAX_PIXELS) -> PillowImage.Image:
    """Open (not yet decode) one picture file, or raise PConvError that names the argument."""
    Image = pillow()
    if path.suffix.lower() in (".heic", ".heif"):
        require("pillow_heif", "heic", why="reading HEIC").register_heif_opener()
    try:
        with without_pixel_limit():
            image = Image.open(path)
    except FileNotFoundError:
        raise PConvError(f"{argument}: expected a picture file, but {path} does not exist") from None
    except Exception as error:  # decoders raise OSError, SyntaxError, struct.error, IndexError ...
        raise PConvError(f"{argument}: {path} cannot be read as a picture ({error or type(error).__name__})") from error
    if image.width * image.height > max_pixels:
        image.close()
        raise PictureTooLarge(argument, path, f"{image.width} x {image.height} px", max_pixels)
    return image


_limit_lock = threading.Lock()
_limit: dict[str, Any] = {"readers": 0, "before": None}


@contextlib.contextmanager
def without_pixel_limit() -> Iterator[None]:
    """Pillow's own limit is below the size of scans; ours is checked instead.

    Pillow has one limit for the whole process: the first of several readers takes it away, the last puts it back.
    """
    Image = pillow()
    with _limit_lock:
        if not _limit["readers"]:
            _limit["before"], Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        _limit["readers"] += 1
    try:
        yield
    finally:
        with _limit_lock:
            _limit["readers"] -= 1
            if not _limit["readers"]:
                Image.MAX_IMAGE_PIXELS = _limit["before"]
