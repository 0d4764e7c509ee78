"""The pictures of the packaged networks, on photographs and drawn pages that no network was trained on.

python -m benchmarks.readme_picture        writes docs/images/inpaint.png and document.png, prints PSNR inside the holes
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from pconv_cuda.data.images import centre_square
from pconv_cuda.data.packaged import packaged_images, split
from pconv_cuda.documents import damage_mask, document_pages
from pconv_cuda.evaluation.methods import BASELINES, baselines
from pconv_cuda.masks import draw_mask
from pconv_cuda.quickstart import Case, hole_psnr, packaged_network, restore_all, write_cases

SIZE = 256
SHARES = ((0.05, 0.1), (0.1, 0.15), (0.15, 0.2))  # one a row: thin holes to wider ones
IMAGES = Path(__file__).resolve().parents[1] / "docs" / "images"


def photographs() -> Iterator[Case]:
    _, held_out = split(packaged_images())
    for number, (photograph, share) in enumerate(zip(held_out, SHARES, strict=True)):
        truth = centre_square(photograph.array, SIZE)
        yield Case(photograph.name, truth, draw_mask(SIZE, np.random.default_rng([2026, number]), "mixed", share))


def pages() -> Iterator[Case]:
    for number, (truth, share) in enumerate(zip(document_pages(len(SHARES), SIZE, seed=2026), SHARES, strict=True)):
        yield Case(f"page {number}", truth, damage_mask(SIZE, SIZE, np.random.default_rng([2026, number]), share))


def sheet(cases: list[Case], columns: dict[str, str], out: Path) -> None:
    """A row a case; ``columns``: label -> what fills the holes."""
    methods = [baselines((name,)) if name in BASELINES else packaged_network(name) for name in columns.values()]
    results = {label: restore_all(own, cases)[own[0].name] for label, own in zip(columns, methods, strict=True)}
    psnr = {label: hole_psnr(pictures, cases) for label, pictures in results.items()}
    for row, case in enumerate(cases):
        said = ", ".join(f"{psnr[label][row]:.2f} dB with {columns[label]}" for label in columns)
        print(f"{case.name}: {1 - case.valid.mean():.1%} hole, {said}")
    write_cases(out, cases, results)


if __name__ == "__main__":
    sheet(list(photographs()), {"after": "photo"}, IMAGES / "inpaint.png")
    sheet(list(pages()), {"smooth": "smooth", "document": "document"}, IMAGES / "document.png")
