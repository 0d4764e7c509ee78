"""Pictures side by side, with headings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from pconv_cuda.errors import require

if TYPE_CHECKING:
    from PIL import Image as PillowImage

__all__ = ["contact_sheet"]

_LINE = 18  # px of a line of text


def contact_sheet(
    rows: Sequence[Sequence[np.ndarray]],
    side: int,
    *,
    headings: Sequence[str] = (),
    labels: Sequence[str] = (),
    gap: int = 6,
    background: str = "white",
) -> PillowImage.Image:
    """The pictures of each row side by side, under one line of headings.

    Args:
        rows: square pictures, (S, S, 3) or (S, S) uint8 each; what is not ``side`` px is resized.
        side: of each picture on the sheet, px.
        headings: one for each column.
        labels: one for each row, above it.
        gap: px between pictures.
        background: a colour.

    Returns:
        An RGB picture.
    """
    pil_image = require("PIL.Image", "inpaint", why="the sheet")
    head, line = (_LINE + 4 if headings else gap), (_LINE if labels else 0)
    columns = max(len(row) for row in rows)
    size = gap + columns * (side + gap), head + len(rows) * (line + side + gap)
    sheet = pil_image.new("RGB", size, background)
    pen = require("PIL.ImageDraw", "inpaint").Draw(sheet)
    for column, heading in enumerate(headings):
        pen.text((gap + column * (side + gap), 5), heading, fill="black")
    for number, row in enumerate(rows):
        top = head + number * (line + side + gap)
        if labels:
            pen.text((gap, top + 3), labels[number], fill="black")
        for column, picture in enumerate(row):
            one = pil_image.fromarray(picture)
            if one.size != (side, side):
                one = one.resize((side, side), pil_image.Resampling.BOX)
            sheet.paste(one, (gap + column * (side + gap), top + line))
    return sheet
