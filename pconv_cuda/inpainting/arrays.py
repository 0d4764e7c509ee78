"""A picture that is an array of samples: numpy users pass it, 16-bit colour files are read into it."""

from __future__ import annotations

import numpy as np

from pconv_cuda.inpainting.windows import Box

__all__ = ["LUMA", "ArrayPicture"]

LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R 601, as Pillow converts RGB to grey


class ArrayPicture:
    """Samples (H, W, C): C = 1 grey, 2 grey and alpha, 3 RGB, 4 RGBA; uint8, uint16 or floating in [0, 1].

    ``paint`` changes the array in place, and in the hole alone.
    """

    def __init__(self, samples: np.ndarray) -> None:
        self.samples = samples

    @property
    def size(self) -> tuple[int, int]:
        """(height, width)"""
        return self.samples.shape[0], self.samples.shape[1]

    @property
    def _white(self) -> float:
        return 1.0 if self.samples.dtype.kind == "f" else float(np.iinfo(self.samples.dtype).max)

    @property
    def _has_alpha(self) -> bool:
        return self.samples.shape[2] in (2, 4)

    def rgb(self) -> np.ndarray:
        """The colours (H, W, 3), of the samples' type; grey is repeated."""
        if self.samples.shape[2] <= 2:
            return np.broadcast_to(self.samples[..., :1], (*self.size, 3))
        return self.samples[..., :3]

    def alpha(self) -> np.ndarray | None:
        """The opacity (H, W) as uint8, rounded up so that 0 means exactly 0; None where there is none."""
        if not self._has_alpha:
            return None
        return np.ceil(self.samples[..., -1] / self._white * 255).astype(np.uint8)

    def paint(self, box: Box, colours: np.ndarray, hole: np.ndarray, *, opaque: bool = False) -> None:
        """Assign the box's hole pixels.

        Args:
            colours: float RGB (h, w, 3) in [0, 1].
            hole: bool (h, w); all other pixels stay untouched.
            opaque: also make the hole's pixels opaque; otherwise the alpha stays as it is.
        """
        if self.samples.shape[2] <= 2:
            colours = (colours @ LUMA)[..., None]
        values = colours.clip(0, 1) * self._white
        if self.samples.dtype.kind != "f":
            values = np.rint(values)
        part = self.samples[box.slices]
        part[..., : values.shape[2]][hole] = values[hole].astype(self.samples.dtype)
        if opaque and self._has_alpha:
            part[..., -1][hole] = self._white
