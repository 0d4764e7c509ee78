"""The paper's test masks: six ranges of hole shares, with and without holes near the border.

Each mask is a function of (kind, seed, size, share, border, number) alone: what ``pconv masks make`` writes to files
and what an evaluation draws in memory are the same bits.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from pconv_cuda.errors import PConvError
from pconv_cuda.masks.drawing import draw_mask
from pconv_cuda.rng import Stream, generator

__all__ = ["PAPER_COUNT", "PAPER_SHARES", "PaperMask", "paper_mask", "paper_masks"]

PAPER_SHARES: tuple[tuple[float, float], ...] = (
    (0.01, 0.1),
    (0.1, 0.2),
    (0.2, 0.3),
    (0.3, 0.4),
    (0.4, 0.5),
    (0.5, 0.6),
)
PAPER_COUNT = 1000  # masks of each share and border

_TEST_STEP = 2**31 + 1  # step index outside training, so test masks are disjoint


@dataclass(frozen=True)
class PaperMask:
    """A test mask and its place; ``valid`` is (size, size) bool, True where valid."""

    share: tuple[float, float]
    border: bool
    number: int
    valid: np.ndarray

    @property
    def name(self) -> str:
        """Where its file lies in the test set's folder, such as "0.1-0.2/border/00012.png"."""
        return f"{self.share[0]}-{self.share[1]}/{'border' if self.border else 'inside'}/{self.number:05d}.png"


def paper_mask(
    share: tuple[float, float], border: bool, number: int, *, size: int = 512, seed: int = 0, kind: str = "mixed"
) -> np.ndarray:
    """Test mask ``number`` of a range and border: (size, size) bool, True where valid.

    Args:
        share: one of :data:`PAPER_SHARES`.
        border: True puts at least one hole pixel within 50 px (at 512) of the border, False none.
        number: from 0.

    Raises:
        PConvError: another share, or what :func:`~pconv_cuda.masks.draw_mask` refuses.
    """
    share = (float(share[0]), float(share[1]))
    if share not in PAPER_SHARES:
        known = ", ".join(f"({low}, {high}]" for low, high in PAPER_SHARES)
        raise PConvError(f"share: expected one of {known}, got {share}")
    if number < 0 or seed < 0:
        raise PConvError(f"number, seed: expected at least 0, got {number}, {seed}")
    rng = generator(seed, Stream.MASK, _TEST_STEP, PAPER_SHARES.index(share), int(border), number)
    return draw_mask(size, rng, kind, share, bool(border))


def paper_masks(
    count: int = PAPER_COUNT, *, size: int = 512, seed: int = 0, kind: str = "mixed"
) -> Iterator[PaperMask]:
    """All of the test set: ``count`` masks of each share, with holes near the border, then without."""
    for share in PAPER_SHARES:
        for border in (True, False):
            for number in range(count):
                yield PaperMask(
                    share, border, number, paper_mask(share, border, number, size=size, seed=seed, kind=kind)
                )
