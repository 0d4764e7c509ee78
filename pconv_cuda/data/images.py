"""Training pictures: folders of files, random crops, every draw a function of (seed, step, sample)."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch.utils.data import Dataset

from pconv_cuda.data.draws import Stream, generator
from pconv_cuda.errors import PConvError, require

__all__ = [
    "CONTACT_SHEET",
    "IMAGE_SUFFIXES",
    "MANIFEST",
    "FolderImages",
    "ImageSource",
    "MemoryImages",
    "RandomCrops",
    "find_files",
    "load_rgb",
    "to_rgb_array",
]

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".bmp")
# what `pconv masks` writes beside its masks: the sheet is a picture of masks, and no mask
CONTACT_SHEET, MANIFEST = "sheet.png", "manifest.json"


def find_files(folder: str | Path, what: str) -> list[Path]:
    """Picture files under ``folder``, at any depth, in an order that does not depend on the file system.

    A contact sheet beside the manifest of mask files is left out.

    Args:
        folder: where to look.
        what: the argument's name, for the error.

    Raises:
        PConvError: ``folder`` is no folder, or holds no file with one of :data:`IMAGE_SUFFIXES`.
    """
    root = Path(folder)
    if not root.is_dir():
        raise PConvError(f"{what}: expected a folder of pictures, got {str(folder)!r}, which is no folder")
    files = [path for path in root.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file()]
    files = [path for path in files if path.name != CONTACT_SHEET or not path.with_name(MANIFEST).is_file()]
    if not files:
        kinds = " ".join(IMAGE_SUFFIXES)
        raise PConvError(f"{what}: no picture in {str(folder)!r}; looked for {kinds} in it and all folders below")
    return sorted(files, key=lambda path: path.relative_to(root).as_posix())


def to_rgb_array(picture: Any) -> np.ndarray:
    """A PIL picture of any mode as (H, W, 3) uint8, upright (EXIF orientation applied)."""
    image_ops = require("PIL.ImageOps", "inpaint", why="reading pictures")
    picture = image_ops.exif_transpose(picture)
    if picture.mode.startswith("I"):  # 16-bit grey: PIL's own conversion would clip at 255
        high_byte = (np.clip(np.asarray(picture), 0, 65535).astype(np.uint16) >> 8).astype(np.uint8)
        return np.repeat(high_byte[..., None], 3, axis=2)
    return np.array(picture.convert("RGB"))


def load_rgb(path: str | Path) -> np.ndarray:
    """The picture file as (H, W, 3) uint8. Raises whatever the decoder raises."""
    pil_image = require("PIL.Image", "inpaint", why="reading pictures")
    with pil_image.open(path) as picture:
        return to_rgb_array(picture)


class ImageSource(Protocol):
    """Numbered pictures."""

    def __len__(self) -> int: ...

    def load(self, index: int) -> np.ndarray | None:
        """Picture ``index`` as (H, W, 3) uint8, or None where it cannot be read."""
        ...

    @property
    def fingerprint(self) -> str:
        """Names the set of pictures, wherever it lies; two different sets have different ones."""
        ...


def _fingerprint(names: Sequence[str]) -> str:
    digest = hashlib.sha256("\n".join(names).encode("utf-8", "surrogateescape")).hexdigest()
    return f"{len(names)} files, {digest[:12]}"


class FolderImages:
    """The picture files of a folder. One that cannot be read is reported once and counts as absent."""

    def __init__(self, folder: str | Path, what: str = "data.images") -> None:
        self.files = find_files(folder, what)
        self.fingerprint = _fingerprint([path.relative_to(folder).as_posix() for path in self.files])
        # in shared memory, so that several loader processes report a broken file once between them
        self._reported = torch.zeros(len(self.files), dtype=torch.uint8).share_memory_()

    def __len__(self) -> int:
        return len(self.files)

    def load(self, index: int) -> np.ndarray | None:
        require("PIL.Image", "inpaint", why="reading pictures")  # its absence is no fault of the file
        try:
            return load_rgb(self.files[index])
        except Exception as error:  # decoders raise OSError, SyntaxError, struct.error, zlib.error, ...
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
        self.fingerprint = _fingerprint(list(names))

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
def _order(seed: int, epoch: int, count: int) -> np.ndarray:
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
        first = int(_order(self.seed, epoch, count)[place])
        for offset in range(count):
            array = self.images.load((first + offset) % count)
            if array is not None:
                crop = _random_crop(array, self.size, self.share, generator(self.seed, Stream.CROP, step, sample))
                return torch.from_numpy(crop.transpose(2, 0, 1).copy()).float().div_(255)
        raise PConvError(f"images: none of the {count} pictures can be read; the warnings above say why")
