"""The pictures of the packaged networks, on photographs and drawn pages that no network was trained on.

python -m benchmarks.readme_picture        writes docs/images/inpaint.png and document.png, prints PSNR inside the holes
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from pconv_cuda.data.packaged import packaged_images, split
from pconv_cuda.documents import damage_mask, document_pages
from pconv_cuda.masks import draw_mask
from pconv_cuda.quickstart import Case, hole_psnr, restore, write_sheet

SIZE = 256
SHARES = ((0.05, 0.1), (0.1, 0.15), (0.15, 0.2))  # one a row: thin holes to wider ones
IMAGES = Path(__file__).resolve().parents[1] / "docs" / "images"


def photographs() -> Iterator[Case]:
    _, held_out = split(packaged_images())
    for number, (photograph, share) in enumerate(zip(held_out, SHARES, strict=True)):
        height, width = photograph.array.shape[:2]
        side = min(height, width)
        top, left = (height - side) // 2, (width - side) // 2
        square = Image.fromarray(photograph.array[top : top + side, left : left + side])
        truth = np.asarray(square.resize((SIZE, SIZE), Image.Resampling.LANCZOS))
        yield Case(photograph.name, truth, draw_mask(SIZE, np.random.default_rng([2026, number]), "mixed", share))


def pages() -> Iterator[Case]:
    for number, (truth, share) in enumerate(zip(document_pages(len(SHARES), SIZE, seed=2026), SHARES, strict=True)):
        yield Case(f"page {number}", truth, damage_mask(SIZE, SIZE, np.random.default_rng([2026, number]), share))


def sheet(cases: list[Case], columns: dict[str, str], out: Path) -> None:
    """A row a case; ``columns``: label -> what fills the holes."""
    results = {label: [restore(name, case) for case in cases] for label, name in columns.items()}
    for row, case in enumerate(cases):
        said = ", ".join(f"{hole_psnr(results[label][row], case):.2f} dB with {columns[label]}" for label in columns)
        print(f"{case.name}: {1 - case.valid.mean():.1%} hole, {said}")
    write_sheet(out, cases, results)


if __name__ == "__main__":
    sheet(list(photographs()), {"after": "photo"}, IMAGES / "inpaint.png")
    sheet(list(pages()), {"smooth": "smooth", "document": "document"}, IMAGES / "document.png")
