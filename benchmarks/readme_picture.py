"""The README's first picture: `pconv inpaint` without --weights, on photographs that no network was trained on.

python -m benchmarks.readme_picture        writes docs/images/inpaint.png and prints PSNR inside the holes
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from pconv_cuda import inpaint
from pconv_cuda.data.masks import draw_mask
from pconv_cuda.data.packaged import packaged_images, split
from pconv_cuda.named import DEFAULT

SIZE, GAP, HEAD = 256, 6, 20
SHARES = ((0.05, 0.1), (0.1, 0.15), (0.15, 0.2))  # one a row: thin holes to wider ones
COLUMNS = ("before", "hole", "after", "truth")


def rows() -> list[tuple[np.ndarray, ...]]:
    """(before, hole, after, truth) of each held-out photograph, (SIZE, SIZE, 3) uint8."""
    _, held_out = split(packaged_images())
    found = []
    for number, (photograph, share) in enumerate(zip(held_out, SHARES, strict=True)):
        height, width = photograph.array.shape[:2]
        side = min(height, width)
        top, left = (height - side) // 2, (width - side) // 2
        square = Image.fromarray(photograph.array[top : top + side, left : left + side])
        truth = np.asarray(square.resize((SIZE, SIZE), Image.Resampling.LANCZOS))
        hole = ~draw_mask(SIZE, np.random.default_rng([2026, number]), "mixed", share)
        before = np.where(hole[..., None], np.uint8(255), truth)
        after = inpaint(DEFAULT, before, hole)
        error = np.square(after[hole].astype(float) - truth[hole]).mean()
        print(f"{photograph.name}: {hole.mean():.1%} hole, {10 * np.log10(255**2 / error):.2f} dB with {DEFAULT}")
        found.append((before, np.where(hole[..., None], np.uint8(255), np.uint8(0)).repeat(3, 2), after, truth))
    return found


def main(out: Path) -> None:
    pictures = rows()
    size = (GAP + len(COLUMNS) * (SIZE + GAP), HEAD + len(pictures) * (SIZE + GAP))
    sheet = Image.new("RGB", size, "white")
    pen = ImageDraw.Draw(sheet)
    for column, label in enumerate(COLUMNS):
        pen.text((GAP + column * (SIZE + GAP), 4), label, fill="black")
        for row, each in enumerate(pictures):
            sheet.paste(Image.fromarray(each[column]), (GAP + column * (SIZE + GAP), HEAD + row * (SIZE + GAP)))
    sheet.save(out)


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "docs/images/inpaint.png"))
