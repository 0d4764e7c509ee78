"""``python -m pconv_cuda.documents OUT.png``: a contact sheet of pages and of damaged pages."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pconv_cuda.contact_sheet import contact_sheet
from pconv_cuda.documents.damage import damage_mask
from pconv_cuda.documents.fonts import find_fonts
from pconv_cuda.documents.sources import document_pages
from pconv_cuda.errors import PConvError, require
from pconv_cuda.files import atomic_path

if TYPE_CHECKING:
    from PIL import Image as PillowImage

_COLUMNS, _ROWS, _DAMAGED = 4, 3, 1  # the last row shows damage
_SIDE, _GAP = 184, 4


def pages_sheet(seed: int, folders: list[str] | None, page: int = 400) -> PillowImage.Image:
    """Rows of pages drawn at ``page`` px and reduced; the last row shows damage in white."""
    pil_image = require("PIL.Image", "inpaint", why="the sheet")
    rows: list[list[np.ndarray]] = [[] for _ in range(_ROWS)]
    for number, one in enumerate(document_pages(_COLUMNS * _ROWS, page, seed, find_fonts(folders))):
        row = number // _COLUMNS
        if row >= _ROWS - _DAMAGED:
            valid = damage_mask(page, page, np.random.default_rng([seed, number]), (0.03, 0.25))
            one = np.where(valid[..., None], one, np.uint8(255))
        small = pil_image.fromarray(one).resize((_SIDE, _SIDE), pil_image.Resampling.LANCZOS)
        rows[row].append(np.asarray(small))
    return contact_sheet(rows, _SIDE, gap=_GAP)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser("python -m pconv_cuda.documents", description=__doc__)
    parser.add_argument("out", metavar="OUT.png")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--fonts", metavar="DIR", action="append", help="fonts from here; repeatable")
    args = parser.parse_args(arguments)
    try:
        if Path(args.out).suffix.lower() != ".png":
            raise PConvError(f"OUT.png: expected a name ending in .png, got {args.out}")
        sheet = pages_sheet(args.seed, args.fonts)
    except PConvError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    pil_image = require("PIL.Image", "inpaint")
    picture = sheet.quantize(
        200, pil_image.Quantize.MAXCOVERAGE, kmeans=1, dither=pil_image.Dither.NONE
    )  # a third of the bytes
    with atomic_path(Path(args.out)) as temporary:
        picture.save(temporary, format="PNG", optimize=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
