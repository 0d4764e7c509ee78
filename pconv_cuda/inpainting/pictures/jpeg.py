"""JPEG written again so that nothing changes but the blocks that the hole touches.

A JPEG is a grid of blocks of 8 x 8 quantised coefficients. The painted picture is compressed with the tables and the
subsampling of the file that it came from; blocks away from the hole are then replaced by the file's own coefficients.
What a reader decodes there is the same to the bit, but for one column or row of pixels beside a replaced block, where
subsampled colours are interpolated.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pconv_cuda.errors import require

if TYPE_CHECKING:
    from PIL import Image as PillowImage

__all__ = ["JpegSource", "with_blocks_of"]

_ORIENTATION = 0x0112
_PLANES = ("Y", "Cb", "Cr")


@dataclass(frozen=True)
class JpegSource:
    """How a JPEG file was written, and the file itself.

    ``options`` are Pillow's for writing it again with its own quantisation and subsampling; empty where Pillow cannot.
    ``info`` holds its metadata before it was turned upright, ``orientation`` its EXIF orientation.
    """

    data: bytes
    options: dict[str, Any]
    info: dict[str, Any]
    orientation: int

    @classmethod
    def of(cls, image: PillowImage.Image, path: Path) -> JpegSource:
        """Of an opened file of JPEG's, or of MPO's, which holds several."""
        info: dict[str, Any] = {str(name): image.info[name] for name in ("exif", "xmp") if name in image.info}
        return cls(path.read_bytes(), _options(image), info, image.getexif().get(_ORIENTATION, 1))


def _options(image: PillowImage.Image) -> dict[str, Any]:
    tables = dict(getattr(image, "quantization", {}))
    values = [value for table in tables.values() for value in table]
    if not tables or sorted(tables) != list(range(len(tables))) or not 1 <= min(values) <= max(values) <= 255:
        return {}
    options: dict[str, Any] = {"qtables": [list(tables[number]) for number in sorted(tables)]}
    subsampling = require("PIL.JpegImagePlugin", "inpaint").get_sampling(image)
    if subsampling >= 0:  # else one that Pillow cannot write
        options["subsampling"] = subsampling
    if image.info.get("progressive"):
        options["progressive"] = True
    return options


def with_blocks_of(old: bytes, new: bytes, hole: np.ndarray) -> bytes | None:
    """The JPEG ``new`` with ``old``'s coefficients in all blocks that the hole does not touch.

    Args:
        old, new: whole files of pictures of one size, as stored.
        hole: bool (H, W), as stored.

    Returns:
        A whole file with ``new``'s metadata, or None where the two do not fit (other tables, subsampling or colour
        space), or jpeglib is not installed.
    """
    try:
        import jpeglib
    except ImportError:
        return None
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder, name) for name in ("old.jpg", "new.jpg", "both.jpg")]
        for path, data in zip(paths, (old, new), strict=False):
            path.write_bytes(data)
        try:
            before, after = (jpeglib.read_dct(str(path)) for path in paths[:2])
            if not _fit(before, after):
                return None
            _take_blocks(before, after, hole)
            after.write_dct(str(paths[2]))
        except OSError:  # jpeglib's word for a damaged file; Pillow could read it none the less
            return None
        return paths[2].read_bytes()


def _take_blocks(before: Any, after: Any, hole: np.ndarray) -> None:
    most = np.max(after.samp_factor, axis=0)
    for number, name in enumerate(_PLANES):
        plane = getattr(after, name)
        if plane is not None:
            down, right = 8 * most // after.samp_factor[number]
            touched = _blocks(hole, plane.shape[:2], int(down), int(right))
            setattr(after, name, np.where(touched[..., None, None], plane, getattr(before, name)))


def _fit(one: Any, other: Any) -> bool:
    if one.jpeg_color_space != other.jpeg_color_space or one.num_components not in (1, 3):
        return False
    tables = [np.stack([image.qt[number] for number in image.quant_tbl_no]) for image in (one, other)]
    same = np.array_equal(tables[0], tables[1]) and np.array_equal(one.samp_factor, other.samp_factor)
    return same and all(np.shape(getattr(one, name)) == np.shape(getattr(other, name)) for name in _PLANES)


def _blocks(hole: np.ndarray, count: tuple[int, int], down: int, right: int) -> np.ndarray:
    """Which of ``count`` blocks of ``down`` x ``right`` px hold a pixel of the hole: bool, shape ``count``."""
    rows, columns = count
    padded = np.zeros((rows * down, columns * right), bool)
    # a picture's last rows may lie in a block that only the subsampled planes have
    part = hole[: padded.shape[0], : padded.shape[1]]
    padded[: part.shape[0], : part.shape[1]] = part
    return np.asarray(padded.reshape(rows, down, columns, right).any(axis=(1, 3)))
