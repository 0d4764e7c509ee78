"""A picture that is an array of samples: numpy users pass it, 16-bit colour files are read into it."""

from __future__ import annotations

import numpy as np

from pconv_cuda.inpainting.tiling import Box

__all__ = ["LUMA", "ArrayPicture"]

LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R 601, as Pillow converts RGB to grey


class ArrayPicture:
    """Samples (H, W, C), uint8, uint16 or floating in [0, 1]: grey or RGB, then perhaps alpha and further bands.

    ``paint`` changes the array in place, and in the hole alone; further bands are never changed.

    Args:
        samples: the array.
        alpha: which band is the opacity; None for none. By default the last of 2 or 4 bands.
        colours: how many bands are colours, 1 or 3. By default 1 of up to 2 bands, else 3.
        premultiplied: whether the colours are stored as products with the opacity.
    """

    orientation = 1  # the EXIF orientation that was applied

    def __init__(
        self,
        samples: np.ndarray,
        *,
        alpha: int | None = -1,
        colours: int | None = None,
        premultiplied: bool = False,
    ) -> None:
        self.samples, self.premultiplied = samples, premultiplied
        bands = samples.shape[2]
        self.colours = (1 if bands <= 2 else 3) if colours is None else colours
        self.alpha_band = (bands - 1 if bands in (2, 4) else None) if alpha == -1 else alpha

    @property
    def size(self) -> tuple[int, int]:
        """(height, width)"""
        return self.samples.shape[0], self.samples.shape[1]

    @property
    def _white(self) -> float:
        return 1.0 if self.samples.dtype.kind == "f" else float(np.iinfo(self.samples.dtype).max)

    def rgb(self) -> np.ndarray:
        """The colours (H, W, 3), of the samples' type; grey is repeated."""
        colours = self.samples[..., : self.colours]
        if self.premultiplied and self.alpha_band is not None:
            opacity = self.samples[..., self.alpha_band, None].astype(np.float32) / self._white
            seen = np.divide(colours, opacity, out=np.zeros(colours.shape, np.float32), where=opacity > 0)
            colours = np.rint(seen.clip(0, self._white)).astype(self.samples.dtype)
        return np.broadcast_to(colours, (*self.size, 3))

    def alpha(self) -> np.ndarray | None:
        """The opacity (H, W) as uint8, rounded up so that 0 means exactly 0; None where there is none."""
        if self.alpha_band is None:
            return None
        return np.ceil(self.samples[..., self.alpha_band] / self._white * 255).astype(np.uint8)

    def prepare(self, hole: np.ndarray) -> None:
        """Called with the whole hole (H, W) before anything is painted."""

    def paint(self, box: Box, colours: np.ndarray, hole: np.ndarray, *, opaque: bool = False) -> None:
        """Assign the box's hole pixels.

        Args:
            colours: float RGB (h, w, 3) in [0, 1].
            hole: bool (h, w); all other pixels stay untouched.
            opaque: also make the hole's pixels opaque; otherwise the alpha stays as it is.
        """
        if self.colours == 1:
            colours = (colours @ LUMA)[..., None]
        part = self.samples[box.slices]
        if opaque and self.alpha_band is not None:
            part[..., self.alpha_band][hole] = self._white
        values = colours.clip(0, 1) * self._white
        if self.premultiplied and self.alpha_band is not None:
            values = values * (part[..., self.alpha_band, None] / self._white)
        if self.samples.dtype.kind != "f":
            values = np.rint(values)
        part[..., : self.colours][hole] = values[hole].astype(self.samples.dtype)
