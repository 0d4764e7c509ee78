"""Training pictures: folders of files, random crops, every draw a function of (seed, step, sample)."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch.utils.data import Dataset

from pconv_cuda.data.find import CONTACT_SHEET, IMAGE_SUFFIXES, MANIFEST, FileSet, find_files
from pconv_cuda.errors import MissingExtra, PConvError, require
from pconv_cuda.files import is_out_of_memory
from pconv_cuda.rng import Stream, generator

__all__ = [
    "CONTACT_SHEET",
    "IMAGE_SUFFIXES",
    "MANIFEST",
    "PHOTOMETRIC",
    "FolderImages",
    "ImageSource",
    "MemoryImages",
    "RandomCrops",
    "black_is_zero",
    "centre_square",
    "draw_order",
    "find_files",
    "is_white_at_zero",
    "load_rgb",
    "to_rgb_array",
]

_MOST_PIXELS = 178_956_970  # of a picture that is read; Pillow's own limit, above which it takes a file for a bomb
PHOTOMETRIC, _WHITE_IS_ZERO = 262, 0  # a tag of TIFF, and one of its values


def is_white_at_zero(tags: Mapping[int, Any] | None) -> bool:
    """Whether a TIFF's tags say MinIsWhite: 0 is white."""
    return tags is not None and tags.get(PHOTOMETRIC) == _WHITE_IS_ZERO


def black_is_zero(picture: Any) -> Any:
    """A PIL picture in which 0 is black: Pillow leaves 16-bit grey of a MinIsWhite TIFF as it is stored.

    What it returns for such a TIFF is upright, as all that Pillow loads from TIFF; turned copies have lost the tag.
    """
    if picture.mode.startswith("I;16") and is_white_at_zero(getattr(picture, "tag_v2", None)):
        samples = 65535 - np.asarray(picture).astype(np.uint16)
        return require("PIL.Image", "inpaint", why="reading pictures").fromarray(samples)
    return picture


def to_rgb_array(picture: Any) -> np.ndarray:
    """A PIL picture as (H, W, 3) uint8, upright (EXIF orientation applied); of 16-bit grey the high byte.

    Raises:
        ValueError: samples whose white is not known: 32-bit or signed integers, floating-point numbers.
    """
    image_ops = require("PIL.ImageOps", "inpaint", why="reading pictures")
    # some releases of Pillow open a 16-bit PNG as 32-bit integers; every other file of that mode really holds them
    sixteen_bit = picture.mode.startswith("I;16") or (picture.mode == "I" and picture.format == "PNG")
    if picture.mode in ("I", "F") and not sixteen_bit:
        kind = "floating-point" if picture.mode == "F" else "signed or 32-bit integer"
        raise ValueError(f"expected 8 or 16 bits a sample, without sign, got {kind} samples (mode {picture.mode})")
    picture = image_ops.exif_transpose(black_is_zero(picture))
    if sixteen_bit:
        high_byte = (np.clip(np.asarray(picture), 0, 65535).astype(np.uint16) >> 8).astype(np.uint8)
        return np.repeat(high_byte[..., None], 3, axis=2)
    return np.array(picture.convert("RGB"))


def load_rgb(path: str | Path) -> np.ndarray:
    """The picture file as (H, W, 3) uint8. Raises whatever the decoder raises, and ValueError for a huge picture."""
    pil_image = require("PIL.Image", "inpaint", why="reading pictures")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", pil_image.DecompressionBombWarning)  # replaced by the limit below
        with pil_image.open(path) as picture:
            if picture.width * picture.height > _MOST_PIXELS:
                raise ValueError(f"expected at most {_MOST_PIXELS} pixels, got {picture.width} x {picture.height}")
            return to_rgb_array(picture)


def centre_square(array: np.ndarray, size: int) -> np.ndarray:
    """The middle of a picture (H, W, 3) uint8, resized (Lanczos) to (size, size, 3)."""
    pil_image = require("PIL.Image", "inpaint", why="resizing pictures")
    side = min(array.shape[:2])
    top, left = (array.shape[0] - side) // 2, (array.shape[1] - side) // 2
    square = pil_image.fromarray(array[top : top + side, left : left + side])
    return np.asarray(square.resize((size, size), pil_image.Resampling.LANCZOS))


class ImageSource(Protocol):
    """Numbered pictures."""

    def __len__(self) -> int: ...

    def load(self, index: int) -> np.ndarray | None:
        """Picture ``index`` as (H, W, 3) uint8, or None where it cannot be read."""
        ...

    @property
    def fingerprint(self) -> str:
        """A digest of the set of pictures, independent of its path."""
        ...


class FolderImages:
    """The picture files of a folder. One that cannot be read is reported once and counts as absent.

    Loading a file that was removed or changed since the start is an error.
    """

    def __init__(self, folder: str | Path, what: str = "data.images") -> None:
        self.files = find_files(folder, what)
        self._set = FileSet(folder, self.files, what)
        self.fingerprint = self._set.fingerprint
        # in shared memory, so that several loader processes report a broken file once between them
        self._reported = torch.zeros(len(self.files), dtype=torch.uint8).share_memory_()

    def __len__(self) -> int:
        return len(self.files)

    def load(self, index: int) -> np.ndarray | None:
        self._set.check(index)
        try:
            return load_rgb(self.files[index])
        except MissingExtra:  # no fault of the file
            raise
        except Exception as error:  # decoders raise OSError, SyntaxError, struct.error, zlib.error, ...
            if is_out_of_memory(error):
                raise
            self._set.check(index)
            if not self._reported[index]:
                self._reported[index] = 1
                reason = str(error) or type(error).__name__
                warnings.warn(f"skipped {self.files[index]}, which cannot be read: {reason}", stacklevel=2)
            return None


class MemoryImages:
    """Pictures that are in memory already, (H, W, 3) uint8 each."""

    def __init__(self, arrays: Sequence[np.ndarray], names: Sequence[str]) -> None:
        if not arrays:
            raise PConvError("images: expected at least one picture, got none")
        self.arrays = list(arrays)
        digest = hashlib.sha256()
        for name, array in zip(names, arrays, strict=True):
            digest.update(f"{name} {array.shape} ".encode("utf-8", "surrogateescape") + array.tobytes())
        self.fingerprint = f"{len(arrays)} pictures, {digest.hexdigest()[:12]}"

    def __len__(self) -> int:
        return len(self.arrays)

    def load(self, index: int) -> np.ndarray:
        return self.arrays[index]


def _random_crop(
    array: np.ndarray, size: int, share: tuple[float, float] | None, rng: np.random.Generator
) -> np.ndarray:
    """A random square of the picture as ``size`` x ``size``, mirrored every other time.

    Its side is ``share`` of the picture's short side, resized; without a share it is ``size`` pixels at the
    picture's own scale, and a smaller picture is enlarged just enough.
    """
    pil_image = require("PIL.Image", "inpaint", why="reading pictures")
    height, width = array.shape[:2]
    shorter = min(height, width)
    side = min(size, shorter) if share is None else max(1, round(shorter * rng.uniform(*share)))
    top, left = int(rng.integers(height - side + 1)), int(rng.integers(width - side + 1))
    crop = array[top : top + side, left : left + side]
    if side != size:
        crop = np.asarray(pil_image.fromarray(crop).resize((size, size), pil_image.Resampling.BICUBIC))
    return crop[:, ::-1] if rng.integers(2) else crop


@lru_cache(maxsize=4)
def draw_order(seed: int, epoch: int, count: int) -> np.ndarray:
    """The permutation of ``count`` pictures or steps in one epoch."""
    return generator(seed, Stream.ORDER, epoch).permutation(count)


class RandomCrops(Dataset[torch.Tensor]):
    """Random square crops, addressed by (step, sample).

    Every picture comes once in each epoch: draw ``step * batch_size + sample`` walks through one
    permutation after the other. What cannot be read is replaced by the next picture of the source.

    Args:
        images: where the pictures come from.
        size: side of the crops, pixels.
        batch_size: samples of a step, over all processes.
        seed: >= 0.
        share: range of the crop's side as a share of the picture's short side, resized to ``size``; None crops
            at the picture's own scale.
    """

    def __init__(
        self,
        images: ImageSource,
        size: int,
        batch_size: int,
        seed: int,
        share: tuple[float, float] | None = None,
    ) -> None:
        self.images, self.size, self.batch_size, self.seed, self.share = images, size, batch_size, seed, share

    def __getitem__(self, key: tuple[int, int]) -> torch.Tensor:
        """``key`` = (step, sample). Returns float32 (3, size, size) in [0, 1], RGB.

        Raises:
            PConvError: not one picture of the source can be read.
        """
        step, sample = key
        count = len(self.images)
        epoch, place = divmod(step * self.batch_size + sample, count)
        first = int(draw_order(self.seed, epoch, count)[place])
        for offset in range(count):
            array = self.images.load((first + offset) % count)
            if array is not None:
                crop = _random_crop(array, self.size, self.share, generator(self.seed, Stream.CROP, step, sample))
                return torch.from_numpy(crop.transpose(2, 0, 1).copy()).float().div_(255)
        raise PConvError(f"images: none of the {count} pictures can be read; the warnings above say why")
