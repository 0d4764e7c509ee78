"""Which of a mask's two colours is the hole, and when a mask looks inverted."""

from __future__ import annotations

from typing import TypeVar

import numpy as np
from torch import Tensor

from pconv_cuda.errors import PConvError

__all__ = ["BLACK_HOLE", "INVERTED_SHARE", "POLARITIES", "WHITE_HOLE", "check_polarity", "hole_where", "other_polarity"]

WHITE_HOLE, BLACK_HOLE = POLARITIES = ("white-hole", "black-hole")
INVERTED_SHARE = 0.6  # a larger hole is more likely an inverted mask
Mask = TypeVar("Mask", np.ndarray, Tensor)


def check_polarity(polarity: object, argument: str = "polarity", also: tuple[str | None, ...] = ()) -> None:
    """PConvError where ``polarity`` is neither valid nor one of ``also``."""
    if polarity not in (*also, *POLARITIES):
        expected = " or ".join([*map(str, also), *POLARITIES])
        raise PConvError(f"{argument}: expected {expected}, got {polarity!r}")


def other_polarity(polarity: str) -> str:
    """The opposite polarity."""
    return BLACK_HOLE if polarity == WHITE_HOLE else WHITE_HOLE


def hole_where(white: Mask, polarity: str) -> Mask:
    """Where the hole is, of where a mask is white or set, both bool."""
    return white if polarity == WHITE_HOLE else ~white
