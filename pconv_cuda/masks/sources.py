"""Where masks come from in training: drawn on line, or the files of a folder."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Protocol

import numpy as np
import torch

from pconv_cuda.data.images import FolderImages
from pconv_cuda.errors import PConvError, require
from pconv_cuda.masks.drawing import KINDS, VERSION, draw_mask
from pconv_cuda.masks.polarity import check_polarity, hole_where, no_hole_error, warn_if_inverted
from pconv_cuda.masks.shares import hole_pixels
from pconv_cuda.masks.values import THRESHOLD, mask_grey

__all__ = ["DrawnMasks", "FolderMasks", "MaskSource"]


class MaskSource(Protocol):
    """Draws a mask from a generator, without other state."""

    def draw(self, size: int, rng: np.random.Generator) -> np.ndarray:
        """A (size, size) bool mask, True where valid."""
        ...

    @property
    def fingerprint(self) -> str: ...


class DrawnMasks:
    """:func:`draw_mask` of one kind as a source of masks."""

    def __init__(self, kind: str, hole_share: tuple[float, float]) -> None:
        if kind not in KINDS:
            raise PConvError(f"data.masks: expected one of {', '.join(KINDS)}, got {kind!r}")
        hole_pixels(10**9, hole_share)  # validate the range early
        self.kind, self.hole_share = kind, hole_share
        # the version rises when the same generator gives other masks, which a resumed run must not get
        self.fingerprint = f"{kind}, version {VERSION}"

    def draw(self, size: int, rng: np.random.Generator) -> np.ndarray:
        return draw_mask(size, rng, self.kind, self.hole_share)


class FolderMasks:
    """Mask files of a folder: one is drawn, resized to the nearest pixel, then thresholded.

    Args:
        folder: searched at any depth.
        polarity: "white-hole" (what this package writes) or "black-hole".

    Raises:
        PConvError: unknown polarity, no folder, no file, not one file with a hole, or (when drawing) not one readable
            file.
    """

    def __init__(self, folder: str | Path, polarity: str = "white-hole", what: str = "data.masks") -> None:
        check_polarity(polarity, "data.polarity")
        self.polarity = polarity
        self.files = FolderImages(folder, what)
        self.fingerprint = self.files.fingerprint
        self._what = what
        self._told = torch.zeros(1, dtype=torch.uint8).share_memory_()  # once for all loader processes
        self._check_shares(folder)

    def draw(self, size: int, rng: np.random.Generator) -> np.ndarray:
        first = int(rng.integers(len(self.files)))
        for offset in range(len(self.files)):
            mask = self._mask((first + offset) % len(self.files), size)
            if mask is not None:
                return mask
        raise PConvError(f"data.masks: none of the {len(self.files)} files can be read; the warnings say why")

    def _mask(self, index: int, size: int | None = None) -> np.ndarray | None:
        array = self.files.load(index)
        if array is None:
            return None
        grey, scaled = mask_grey(array)
        if scaled and not self._told:
            self._told[0] = 1
            warnings.warn(
                f"{self._what}: the brightest value of {self.files.files[index]} is 1; 0 and 1 are read as 0 and 255",
                stacklevel=2,
            )
        if size is not None:
            pil_image = require("PIL.Image", "inpaint", why="reading masks")
            grey = np.asarray(pil_image.fromarray(grey).resize((size, size), pil_image.Resampling.NEAREST))
        return ~hole_where(grey >= THRESHOLD, self.polarity)

    def _check_shares(self, folder: str | Path) -> None:
        """A few masks, spread over the folder, tell whether they look inverted; without any hole among them, all."""
        every = max(1, len(self.files) // 16)
        masks = [self._mask(index) for index in range(0, len(self.files), every)]
        shares = [float(1 - mask.mean()) for mask in masks if mask is not None]
        if shares and not any(shares):
            rest = (self._mask(index) for index in range(len(self.files)) if index % every)
            if all(mask is None or mask.all() for mask in rest):
                raise no_hole_error(self._what, folder, len(self.files), self.polarity)
        warn_if_inverted(self._what, folder, shares, self.polarity, "set data.polarity={}")
