"""Drawn pages and damage as sources for training and evaluation."""

from __future__ import annotations

import numpy as np

from pconv_cuda.documents import damage, page
from pconv_cuda.documents.fonts import Fonts, find_fonts
from pconv_cuda.errors import PConvError
from pconv_cuda.masks.shares import hole_pixels
from pconv_cuda.rng import Stream, generator

__all__ = ["DamageMasks", "DocumentPages", "document_page", "document_pages", "pages_fingerprint"]

_PAGES = 100_000  # of an epoch: each run sees other pages for as long as it lasts
_TEST_PAGE = 2**31 + 1  # outside training, so that test pages are disjoint


def pages_fingerprint(size: int, seed: int, fonts: Fonts) -> str:
    """A fingerprint of a set of pages, which depends on the fonts."""
    return f"documents, version {page.VERSION}, {size} px, seed {seed}, fonts {fonts.fingerprint}"


class DocumentPages:
    """Numbered pages that are drawn when they are asked for: an :class:`~pconv_cuda.data.images.ImageSource`.

    Args:
        size: side of the square pages, pixels, >= 1.
        seed: >= 0.
        count: of pages.
        fonts: None takes those of this machine.

    Raises:
        PConvError: no pixels, no pages.
        MissingExtra: Pillow is not installed.
    """

    def __init__(self, size: int, seed: int = 0, count: int = _PAGES, fonts: Fonts | None = None) -> None:
        if size < 1 or count < 1 or seed < 0:
            raise PConvError(f"size, count, seed: expected >= 1, >= 1, >= 0, got {size}, {count}, {seed}")
        self.size, self.seed, self.count = size, seed, count
        self.fonts = find_fonts() if fonts is None else fonts
        self.fingerprint = f"{count} {pages_fingerprint(size, seed, self.fonts)}"

    def __len__(self) -> int:
        return self.count

    def load(self, index: int) -> np.ndarray:
        """Page ``index``, (size, size, 3) uint8."""
        rng = generator(self.seed, Stream.PAGE, index)
        return page.render_page(self.size, self.size, rng, self.fonts)


class DamageMasks:
    """:func:`damage_mask` as a source of masks."""

    def __init__(self, hole_share: tuple[float, float]) -> None:
        hole_pixels(10**9, hole_share)  # validate the range early
        self.hole_share = hole_share
        self.fingerprint = f"damage, version {damage.VERSION}"

    def draw(self, size: int, rng: np.random.Generator) -> np.ndarray:
        return damage.damage_mask(size, size, rng, self.hole_share)


def document_page(number: int, size: int = 512, seed: int = 0, fonts: Fonts | None = None) -> np.ndarray:
    """Test page ``number``, (size, size, 3) uint8: no :class:`DocumentPages` of any seed holds it."""
    if number < 0 or seed < 0:
        raise PConvError(f"number, seed: expected at least 0, got {number}, {seed}")
    return page.render_page(size, size, generator(seed, Stream.PAGE, _TEST_PAGE, number), fonts)


def document_pages(count: int, size: int = 512, seed: int = 0, fonts: Fonts | None = None) -> list[np.ndarray]:
    """The first ``count`` test pages of a seed.

    Raises:
        PConvError: ``count`` below 1, and as :func:`render_page`.
    """
    if count < 1:
        raise PConvError(f"count: expected at least 1, got {count}")
    return [document_page(number, size, seed, fonts) for number in range(count)]
