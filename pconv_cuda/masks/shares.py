"""How many hole pixels a mask may have, and where they may lie."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from pconv_cuda.errors import PConvError

__all__ = ["Limits", "border_band", "border_width", "hole_pixels"]

_BAND, _OF = 50, 512  # the paper's border: 50 px of 512


def hole_pixels(pixels: int, hole_share: tuple[float, float]) -> tuple[int, int]:
    """The least and the greatest number of hole pixels that ``hole_share`` = (low, high] allows.

    Open below and closed above as the paper's ranges are, so that neighbouring ranges share no mask.

    Raises:
        PConvError: not 0 <= low < high <= 1, or no number of pixels lies in the range.
    """
    try:
        low, high = hole_share
    except (TypeError, ValueError):
        raise PConvError(f"hole_share: expected two numbers (low, high), got {hole_share!r}") from None
    if not 0 <= low < high <= 1:
        raise PConvError(f"hole_share: expected 0 <= low < high <= 1, got ({low}, {high})")
    # shares such as 0.3 are rounded: floor(0.3 * 10) must be 3
    fewest, most = math.floor(low * pixels + 1e-6) + 1, math.floor(high * pixels + 1e-6)
    if fewest > most:
        raise PConvError(f"hole_share: no number of hole pixels out of {pixels} lies in ({low}, {high}]")
    return fewest, most


def border_width(height: int, width: int) -> int:
    """Width of the border band in pixels: the paper's 50 at 512, in proportion to the shorter side, at least 1."""
    return max(1, round(_BAND * min(height, width) / _OF))


def border_band(height: int, width: int) -> np.ndarray:
    """(height, width) bool: True for the pixels of the border band."""
    edge = border_width(height, width)
    band = np.ones((height, width), dtype=bool)
    band[edge : height - edge, edge : width - edge] = False
    return band


@dataclass(frozen=True)
class Limits:
    """The limits of a mask; :meth:`of` refuses impossible ones.

    ``fewest`` to ``most`` hole pixels; with ``border`` False none in the band ``edge`` px wide along the
    border, with True at least one there, with None either.
    """

    height: int
    width: int
    fewest: int
    most: int
    border: bool | None
    edge: int

    @staticmethod
    def of(height: int, width: int, hole_share: tuple[float, float], border: bool | None) -> Limits:
        """
        Raises:
            PConvError: no pixels, an invalid range, or one that no mask of this size and border meets.
        """
        if height < 1 or width < 1:
            raise PConvError(f"size: expected at least 1 x 1 pixels, got {height} x {width}")
        if border not in (True, False, None):
            raise PConvError(f"border: expected True, False or None, got {border!r}")
        fewest, most = hole_pixels(height * width, hole_share)
        edge = border_width(height, width)
        if border is False:
            inner = max(0, height - 2 * edge) * max(0, width - 2 * edge)
            if fewest > inner:
                raise PConvError(
                    f"hole_share: holes that keep {edge} px from the border of {height} x {width} pixels cover at "
                    f"most {inner / (height * width):.4f} of them, which is not in {_range(hole_share)}; "
                    "ask for a smaller share or border=True"
                )
            most = min(most, inner)
        return Limits(height, width, fewest, most, border, edge)

    @property
    def inner(self) -> tuple[slice, slice]:
        """Rows and columns inside the border band (empty where the picture is all band)."""
        rows, columns = max(self.edge, self.height - self.edge), max(self.edge, self.width - self.edge)
        return slice(self.edge, rows), slice(self.edge, columns)

    def in_band(self, pixels: np.ndarray) -> bool:
        """Whether ``pixels``, (height, width) bool, has one in the border band."""
        return bool(np.count_nonzero(pixels) > np.count_nonzero(pixels[self.inner]))

    def within(self, pixels: np.ndarray) -> np.ndarray:
        """``pixels`` without those where no hole may be; changes and returns the array."""
        if self.border is False:
            rows, columns = self.inner
            pixels[: rows.start] = pixels[rows.stop :] = False
            pixels[:, : columns.start] = pixels[:, columns.stop :] = False
        return pixels


def _range(hole_share: tuple[float, float]) -> str:
    return f"({hole_share[0]}, {hole_share[1]}]"
