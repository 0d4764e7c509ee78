"""Which of a mask's two colours is the hole, and when a mask looks inverted."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
from torch import Tensor

from pconv_cuda.errors import PConvError
from pconv_cuda.masks.values import THRESHOLD

__all__ = [
    "BLACK_HOLE",
    "INVERTED_SHARE",
    "POLARITIES",
    "WHITE_HOLE",
    "check_polarity",
    "hole_where",
    "no_hole_error",
    "other_polarity",
    "warn_if_inverted",
]

WHITE_HOLE, BLACK_HOLE = "white-hole", "black-hole"
POLARITIES = (WHITE_HOLE, BLACK_HOLE)
"""What ``polarity`` takes: ``"white-hole"``, ``"black-hole"``."""
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


def no_hole_error(what: str, folder: str | Path, count: int, polarity: str) -> PConvError:
    """For a folder of ``count`` mask files none of which has a hole; ``what`` is the argument's name."""
    return PConvError(
        f"{what}: expected masks with holes, but not one of the {count} files in {str(folder)!r} has a pixel that is "
        f"hole when read as {polarity} (from brightness {THRESHOLD} on a pixel is white)"
    )


def warn_if_inverted(what: str, folder: str | Path, shares: Sequence[float], polarity: str, advice: str) -> None:
    """Warns where masks of these hole shares look inverted; ``advice`` has {} for the other polarity."""
    if shares and np.mean(shares) > INVERTED_SHARE:
        warnings.warn(
            f"{what}: the masks in {str(folder)!r} are {np.mean(shares):.0%} hole when read as {polarity}; if they are "
            f"the other way round, {advice.format(other_polarity(polarity))}",
            stacklevel=3,
        )
