"""Which picture is restored under which mask, in the paper's cells: hole share x holes at the border or not."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pconv_cuda.data.find import FileSet, find_files
from pconv_cuda.data.images import centre_square, load_rgb
from pconv_cuda.documents import document_page, find_fonts, pages_fingerprint
from pconv_cuda.errors import PConvError, require
from pconv_cuda.files import is_out_of_memory
from pconv_cuda.masks import hole_pixels
from pconv_cuda.masks.polarity import check_polarity, hole_where, no_hole_error, warn_if_inverted
from pconv_cuda.masks.shares import Limits
from pconv_cuda.masks.testset import PAPER_SHARES, paper_mask
from pconv_cuda.masks.values import THRESHOLD, mask_grey

__all__ = ["PAIRING", "Cell", "MaskSet", "Pages", "Pair", "Pictures", "open_masks", "open_pictures", "plan_pairs"]

PAIRING = "pair k of a cell is picture k modulo the number of pictures under the cell's mask k modulo their number"


@dataclass(frozen=True)
class Cell:
    """One column of the paper's table."""

    share: tuple[float, float]
    border: bool

    @property
    def key(self) -> str:
        return f"{self.share[0]:g}-{self.share[1]:g}/{'border' if self.border else 'inside'}"


ALL_CELLS = tuple(Cell(share, border) for border in (True, False) for share in PAPER_SHARES)


@dataclass(frozen=True)
class Pair:
    cell: Cell
    number: int
    image: int

    @property
    def key(self) -> str:
        return f"{self.cell.key}/{self.number:05d}"


class Pictures:
    """The files of a folder as squares: the middle of each, resized (Lanczos) to ``size``."""

    usual_count: int | None = None  # pairs of a cell where none are asked for: as many as there are files

    def __init__(self, folder: str | Path, size: int) -> None:
        self.size = size
        self._set = FileSet(folder, find_files(folder, "images"), "images", whole=True)
        self.identity = self._set.names_fingerprint

    def __len__(self) -> int:
        return len(self._set.files)

    def name(self, index: int) -> str:
        return self._set.names[index]

    def content(self, index: int) -> str:
        """A digest of the file, to detect that it was replaced."""
        return self._set.content(index)

    def load(self, index: int) -> np.ndarray:
        """(size, size, 3) uint8.

        Raises:
            PConvError: the file, which is named, cannot be read, or is another than at the start.
        """
        return centre_square(_load(self._set, index), self.size)


class Pages:
    """Drawn pages of documents, as many as are asked for, under the interface of :class:`Pictures`."""

    usual_count: int | None = 24

    def __init__(self, size: int, seed: int) -> None:
        self.size, self.seed, self.fonts = size, seed, find_fonts()
        self.identity = pages_fingerprint(size, seed, self.fonts)

    def __len__(self) -> int:
        return 10**6

    def name(self, index: int) -> str:
        return f"page-{index:05d}.png"

    def content(self, index: int) -> str:
        return ""  # the identity is enough

    def load(self, index: int) -> np.ndarray:
        return document_page(index, self.size, self.seed, self.fonts)


def open_pictures(images: str, size: int, seed: int) -> Pictures | Pages:
    """The pictures of a folder, or ``documents``: pages drawn by seed."""
    return Pages(size, seed) if images == "documents" else Pictures(images, size)


def _load(files: FileSet, index: int) -> np.ndarray:
    files.check(index)
    try:
        return load_rgb(files.files[index])
    except Exception as error:  # decoders raise OSError, SyntaxError, struct.error, zlib.error, ...
        if is_out_of_memory(error):
            raise
        raise PConvError(f"{files.files[index]} cannot be read: {error or type(error).__name__}") from error


@dataclass
class MaskSet:
    """``counts``: masks of each cell, None where any can be drawn; ``load(cell, k)``: bool (S, S), True valid.

    ``content(cell, k)`` is a digest of its file; "" of a drawn one, of which ``identity`` says everything.
    """

    counts: dict[Cell, int | None]
    load: Callable[[Cell, int], np.ndarray]
    identity: str
    notes: list[str]
    content: Callable[[Cell, int], str] = lambda cell, number: ""


def open_masks(masks: str, size: int, seed: int, polarity: str, cells: Sequence[Cell]) -> MaskSet:
    """The masks of a folder, or ``paper``: drawn by seed.

    A folder that is laid out as SHARE/border|inside, as ``pconv masks make`` does, is taken at its word; of any other
    one the cell of each mask is measured.

    Raises:
        PConvError: no folder, no mask in any cell, an unknown polarity.
    """
    check_polarity(polarity)
    if masks == "paper":

        def draw(cell: Cell, number: int) -> np.ndarray:
            return np.asarray(paper_mask(cell.share, cell.border, number, size=size, seed=seed))

        return MaskSet(dict.fromkeys(cells), draw, f"paper, mixed, seed {seed}", [])
    return _folder(Path(masks), size, polarity, cells)


def _folder(root: Path, size: int, polarity: str, cells: Sequence[Cell]) -> MaskSet:
    files = FileSet(root, find_files(root, "masks"), "masks", whole=True)
    count = len(files.files)
    by_name = {cell.key: cell for cell in ALL_CELLS}
    laid_out = [
        by_name.get(match[0]) if (match := re.match(r"[^/]+/(border|inside)(?=/)", name)) else None
        for name in files.names
    ]
    found: dict[Cell, list[int]] = {cell: [] for cell in cells}
    shares: list[float] = []
    outside, unreadable, resized, scaled = 0, [], 0, 0
    named = all(laid_out)  # then a few files are read, for hints at a wrong polarity alone
    every = max(1, count // 16) if named else 1
    for number, cell in enumerate(laid_out):
        if number % every == 0 or not any(shares):
            try:
                one = _read(files, number, size, polarity)
            except PConvError as error:
                unreadable.append(str(error))
                if not named:
                    continue
            else:
                shares.append(float(1 - one.valid.mean()))
                resized += one.original != (size, size)
                scaled += one.scaled
                if not named:
                    cell = cell_of(one.valid)
        if cell is None:
            outside += 1
        elif cell in found:
            found[cell].append(number)
    if shares and not any(shares):
        raise no_hole_error("masks", root, count, polarity)
    warn_if_inverted("masks", root, shares, polarity, "add `polarity={}`")
    notes: list[str] = []
    if scaled:
        notes.append("masks whose brightest value is 1 are read as 0 and 255")
    if resized:
        notes.append(f"masks of another size than {size} x {size} were resized to the nearest pixel and thresholded")
    if outside:
        notes.append(f"{outside} of {count} masks belong to no cell (their hole share is at most 0.01 or above 0.6)")
    notes += [f"mask left out: {one}" for one in unreadable]
    if empty := [cell.key for cell in cells if not found[cell]]:
        notes.append(f"no mask for {', '.join(empty)}")
    if not any(found.values()):
        raise PConvError(f"masks: no mask in {root} has a hole share that was asked for; {'; '.join(notes)}")
    for note in notes:
        warnings.warn(f"masks: {note}", stacklevel=2)

    def load(cell: Cell, number: int) -> np.ndarray:
        return _read(files, found[cell][number], size, polarity).valid

    counts: dict[Cell, int | None] = {cell: len(numbers) for cell, numbers in found.items()}
    return MaskSet(
        counts,
        load,
        f"{files.names_fingerprint}, {polarity}",
        notes,
        lambda cell, number: files.content(found[cell][number]),
    )


@dataclass(frozen=True)
class _Read:
    valid: np.ndarray
    original: tuple[int, int]
    scaled: bool


def _read(files: FileSet, index: int, size: int, polarity: str) -> _Read:
    """Resized to the nearest pixel first, then thresholded, so that it stays binary."""
    pil_image = require("PIL.Image", "inpaint", why="reading masks")
    grey, scaled = mask_grey(_load(files, index))
    resized = pil_image.fromarray(grey).resize((size, size), pil_image.Resampling.NEAREST)
    hole = hole_where(np.asarray(resized) >= THRESHOLD, polarity)
    return _Read(~hole, (grey.shape[0], grey.shape[1]), scaled)


def cell_of(valid: np.ndarray) -> Cell | None:
    """The cell of a mask (S, S) by its hole share and by whether a hole lies within 50 px (at 512) of the border."""
    holes = int(np.count_nonzero(~valid))
    border = Limits.of(valid.shape[0], valid.shape[1], (0.0, 1.0), None).in_band(~valid)
    for share in PAPER_SHARES:
        fewest, most = hole_pixels(valid.size, share)
        if fewest <= holes <= most:
            return Cell(share, border)
    return None


def plan_pairs(images: int, masks: MaskSet, count: int | None) -> list[Pair]:
    """The pairs by :data:`PAIRING`, ``count`` a cell.

    By default as many as there are pictures, or masks in the cell if those are more, so that each is used.
    """
    if count is not None and count < 1:
        raise PConvError(f"count: expected at least 1, got {count}")
    pairs = []
    for cell, available in masks.counts.items():
        if available != 0:
            wanted = count or max(images, available or 0)
            pairs += [Pair(cell, number, number % images) for number in range(wanted)]
    return pairs
