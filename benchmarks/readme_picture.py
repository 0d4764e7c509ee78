"""The pictures of the packaged networks, on photographs and drawn pages that no network was trained on.

python -m benchmarks.readme_picture        writes docs/images/inpaint.png and document.png, prints PSNR inside the holes
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from pconv_cuda import inpaint
from pconv_cuda.data.documents import damage_mask, document_pages
from pconv_cuda.data.masks import draw_mask
from pconv_cuda.data.packaged import packaged_images, split

SIZE, GAP, HEAD = 256, 6, 20
SHARES = ((0.05, 0.1), (0.1, 0.15), (0.15, 0.2))  # one a row: thin holes to wider ones
IMAGES = Path(__file__).resolve().parents[1] / "docs" / "images"
Case = tuple[str, np.ndarray, np.ndarray]  # name, (SIZE, SIZE, 3) uint8, its hole


def photographs() -> Iterator[Case]:
    _, held_out = split(packaged_images())
    for number, (photograph, share) in enumerate(zip(held_out, SHARES, strict=True)):
        height, width = photograph.array.shape[:2]
        side = min(height, width)
        top, left = (height - side) // 2, (width - side) // 2
        square = Image.fromarray(photograph.array[top : top + side, left : left + side])
        truth = np.asarray(square.resize((SIZE, SIZE), Image.Resampling.LANCZOS))
        yield photograph.name, truth, ~draw_mask(SIZE, np.random.default_rng([2026, number]), "mixed", share)


def pages() -> Iterator[Case]:
    for number, (truth, share) in enumerate(zip(document_pages(len(SHARES), SIZE, seed=2026), SHARES, strict=True)):
        yield f"page {number}", truth, ~damage_mask(SIZE, SIZE, np.random.default_rng([2026, number]), share)


def filled(truth: np.ndarray, hole: np.ndarray, name: str) -> tuple[np.ndarray, float]:
    """The picture with its hole filled by ``name``, and the PSNR inside it."""
    result = inpaint(name, np.where(hole[..., None], np.uint8(255), truth), hole)
    error = np.square(result[hole].astype(float) - truth[hole]).mean()
    return result, 10 * np.log10(255**2 / error)


def sheet(cases: Iterator[Case], columns: dict[str, str], out: Path) -> None:
    """A row a case: before, hole, by each network of ``columns`` (label -> name), truth."""
    rows = []
    for case, truth, hole in cases:
        results = {label: filled(truth, hole, name) for label, name in columns.items()}
        said = ", ".join(f"{psnr:.2f} dB with {columns[label]}" for label, (_, psnr) in results.items())
        print(f"{case}: {hole.mean():.1%} hole, {said}")
        white_hole = np.where(hole[..., None], np.uint8(255), np.uint8(0)).repeat(3, 2)
        before = np.where(hole[..., None], np.uint8(255), truth)
        rows.append((before, white_hole, *(picture for picture, _ in results.values()), truth))
    labels = ("before", "hole", *columns, "truth")
    image = Image.new("RGB", (GAP + len(labels) * (SIZE + GAP), HEAD + len(rows) * (SIZE + GAP)), "white")
    pen = ImageDraw.Draw(image)
    for column, label in enumerate(labels):
        pen.text((GAP + column * (SIZE + GAP), 4), label, fill="black")
        for row, each in enumerate(rows):
            image.paste(Image.fromarray(each[column]), (GAP + column * (SIZE + GAP), HEAD + row * (SIZE + GAP)))
    image.save(out)


if __name__ == "__main__":
    sheet(photographs(), {"after": "photo"}, IMAGES / "inpaint.png")
    sheet(pages(), {"smooth": "smooth", "document": "document"}, IMAGES / "document.png")
