"""Which picture is restored under which mask, in the paper's cells: hole share x holes at the border or not."""

from __future__ import annotations

import hashlib
import re
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pconv_cuda.data.documents import document_page, find_fonts, pages_fingerprint
from pconv_cuda.data.images import find_files, load_rgb
from pconv_cuda.data.masks import POLARITIES, hole_pixels
from pconv_cuda.data.masks.shares import Limits
from pconv_cuda.data.testset import PAPER_SHARES, paper_mask
from pconv_cuda.errors import PConvError, require

__all__ = ["PAIRING", "Cell", "MaskSet", "Pages", "Pair", "Pictures", "open_masks", "open_pictures", "plan_pairs"]

_WHITE = 128
_MUCH = 0.6  # masks with more hole than this are usually the wrong way round
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
        self.files, self.root, self.size = find_files(folder, "--images"), Path(folder), size

    def __len__(self) -> int:
        return len(self.files)

    def name(self, index: int) -> str:
        return self.files[index].relative_to(self.root).as_posix()

    @property
    def identity(self) -> str:
        return _fingerprint([self.name(index) for index in range(len(self))])

    def load(self, index: int) -> np.ndarray:
        """(size, size, 3) uint8. Raises PConvError, naming the file, where it cannot be read."""
        pil_image = require("PIL.Image", "inpaint", why="reading pictures")
        try:
            array = load_rgb(self.files[index])
        except Exception as error:  # decoders raise OSError, SyntaxError, struct.error, zlib.error, ...
            raise PConvError(f"{self.files[index]} cannot be read: {error or type(error).__name__}") from error
        side = min(array.shape[:2])
        top, left = (array.shape[0] - side) // 2, (array.shape[1] - side) // 2
        square = pil_image.fromarray(array[top : top + side, left : left + side])
        return np.asarray(square.resize((self.size, self.size), pil_image.Resampling.LANCZOS))


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

    def load(self, index: int) -> np.ndarray:
        return document_page(index, self.size, self.seed, self.fonts)


def open_pictures(images: str, size: int, seed: int) -> Pictures | Pages:
    """The pictures of a folder, or ``documents``: pages drawn by seed."""
    return Pages(size, seed) if images == "documents" else Pictures(images, size)


def _fingerprint(names: Sequence[str]) -> str:
    digest = hashlib.sha256("\n".join(names).encode("utf-8", "surrogateescape")).hexdigest()
    return f"{len(names)} files, {digest[:12]}"


@dataclass
class MaskSet:
    """``counts``: masks of each cell, None where any can be drawn; ``load(cell, k)``: bool (S, S), True valid."""

    counts: dict[Cell, int | None]
    load: Callable[[Cell, int], np.ndarray]
    identity: str
    notes: list[str]


def open_masks(masks: str, size: int, seed: int, polarity: str, cells: Sequence[Cell]) -> MaskSet:
    """The masks of a folder, or ``paper``: drawn by seed.

    A folder that is laid out as SHARE/border|inside, as ``pconv masks make`` does, is taken at its word; of any other
    one the cell of each mask is measured.

    Raises:
        PConvError: no folder, no mask in any cell, an unknown polarity.
    """
    if polarity not in POLARITIES:
        raise PConvError(f"--polarity: expected {' or '.join(POLARITIES)}, got {polarity!r}")
    if masks == "paper":

        def draw(cell: Cell, number: int) -> np.ndarray:
            return np.asarray(paper_mask(cell.share, cell.border, number, size=size, seed=seed))

        return MaskSet(dict.fromkeys(cells), draw, f"paper, mixed, seed {seed}", [])
    return _folder(Path(masks), size, polarity, cells)


def _folder(root: Path, size: int, polarity: str, cells: Sequence[Cell]) -> MaskSet:
    files = find_files(root, "--masks")
    names = [path.relative_to(root).as_posix() for path in files]
    notes: list[str] = []
    by_name = {cell.key: cell for cell in ALL_CELLS}
    laid_out = [
        by_name.get(match[0]) if (match := re.match(r"[^/]+/(border|inside)(?=/)", name)) else None for name in names
    ]
    found: dict[Cell, list[Path]] = {cell: [] for cell in cells}
    shares, outside, unreadable, resized = [], 0, [], 0
    every = max(1, len(files) // 16) if all(laid_out) else 1
    for number, (path, cell) in enumerate(zip(files, laid_out, strict=True)):
        if number % every == 0:
            try:
                valid, original = _read(path, size, polarity)
            except PConvError as error:
                unreadable.append(str(error))
                if every == 1:
                    continue
            else:
                shares.append(1 - valid.mean())
                resized += original != (size, size)
                if every == 1:
                    cell = cell_of(valid)
        if cell is None:
            outside += 1
        elif cell in found:
            found[cell].append(path)
    if shares and np.mean(shares) > _MUCH:
        other = POLARITIES[1 - POLARITIES.index(polarity)]
        warnings.warn(
            f"--masks: the masks in {root} are {np.mean(shares):.0%} hole when read as {polarity}; if they are the "
            f"other way round, add --polarity {other}",
            stacklevel=2,
        )
    if resized:
        notes.append(f"masks of another size than {size} x {size} were resized to the nearest pixel and thresholded")
    if outside:
        notes.append(
            f"{outside} of {len(files)} masks belong to no cell (their hole share is at most 0.01 or above 0.6)"
        )
    notes += [f"mask left out: {one}" for one in unreadable]
    if empty := [cell.key for cell in cells if not found[cell]]:
        notes.append(f"no mask for {', '.join(empty)}")
    if not any(found.values()):
        raise PConvError(f"--masks: no mask in {root} has a hole share that was asked for; {'; '.join(notes)}")
    for note in notes:
        warnings.warn(f"--masks: {note}", stacklevel=2)

    def load(cell: Cell, number: int) -> np.ndarray:
        return _read(found[cell][number], size, polarity)[0]

    counts: dict[Cell, int | None] = {cell: len(paths) for cell, paths in found.items()}
    return MaskSet(counts, load, f"{_fingerprint(names)}, {polarity}", notes)


def _read(path: Path, size: int, polarity: str) -> tuple[np.ndarray, tuple[int, int]]:
    """``(valid, original size)``: resized to the nearest pixel first, then thresholded, so that it stays binary."""
    pil_image = require("PIL.Image", "inpaint", why="reading masks")
    try:
        picture = pil_image.fromarray(load_rgb(path)).convert("L")
    except Exception as error:
        raise PConvError(f"{path} cannot be read: {error or type(error).__name__}") from error
    white = np.asarray(picture.resize((size, size), pil_image.Resampling.NEAREST)) >= _WHITE
    return (~white if polarity == "white-hole" else white), (picture.height, picture.width)


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
        raise PConvError(f"--count: expected at least 1, got {count}")
    pairs = []
    for cell, available in masks.counts.items():
        if available != 0:
            wanted = count or max(images, available or 0)
            pairs += [Pair(cell, number, number % images) for number in range(wanted)]
    return pairs
