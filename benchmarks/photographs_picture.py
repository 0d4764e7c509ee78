"""The picture of docs/photographs.md, by the commands of that page.

python -m benchmarks.photographs_picture [FOLDER]        writes docs/images/photographs.png; FOLDER keeps the files
"""

from __future__ import annotations

import re
import shlex
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from pconv_cuda import cli
from pconv_cuda.data.packaged import packaged_images

DOCS = Path(__file__).resolve().parents[1] / "docs"
SCRATCHES = (  # (x, y) of the picture coffee, and the width
    ([(30, 20), (210, 130), (330, 330), (420, 390)], 3),
    ([(590, 60), (430, 150), (300, 260), (60, 350)], 4),
    ([(480, 10), (500, 190), (470, 300)], 2),
)
MAST = [(442, 119), (453, 119), (456, 188), (461, 192), (464, 232), (476, 368), (437, 368), (439, 188), (442, 188)]


def inputs(folder: Path) -> None:
    """What a user has: scratched.png and, painted over, scan.png; photo.png and mast.png."""
    photographs = {photograph.name: Image.fromarray(photograph.array) for photograph in packaged_images()}
    for name, colour in (("scratched", "#e8e0d0"), ("scan", "#ff0000")):  # as it came, and painted over
        picture = photographs["coffee"].copy()
        for points, width in SCRATCHES:
            width += 3 * (name == "scan")
            ImageDraw.Draw(picture).line(points, fill=colour, width=width, joint="curve")
        picture.save(folder / f"{name}.png")
    photographs["rocket"].save(folder / "photo.png")
    hole = Image.new("1", photographs["rocket"].size)
    ImageDraw.Draw(hole).polygon(MAST, fill=1)
    hole.save(folder / "mast.png")


def run(folder: Path) -> float:
    """The page's commands, in the folder; PSNR in the scratches."""
    page = (DOCS / "photographs.md").read_text(encoding="utf-8")
    for command in re.findall(r"^ +pconv (inpaint .*)$", page, re.M):
        if cli.main([str(folder / word) if word.endswith(".png") else word for word in shlex.split(command)]):
            raise SystemExit(1)
    (truth,) = (photograph.array for photograph in packaged_images() if photograph.name == "coffee")
    marked = (np.asarray(Image.open(folder / "scan.png")) == (255, 0, 0)).all(-1)
    error = (np.asarray(Image.open(folder / "repaired.png"), float) - truth)[marked]
    return 10 * float(np.log10(255**2 / (error**2).mean()))


def sheet(folder: Path) -> None:
    rows = (("scratched", "scan", "repaired"), ("photo", "mast", "without"))
    whole = Image.new("RGB", (3 * 306 - 6, 2 * 208 - 8), "white")
    for y, row in enumerate(rows):
        for x, name in enumerate(row):
            picture = Image.open(folder / f"{name}.png").convert("RGB")
            whole.paste(picture.resize((300, round(300 * picture.height / picture.width)), 1), (x * 306, y * 208))
    whole.save(DOCS / "images" / "photographs.png", optimize=True)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as temporary:
        place = Path(sys.argv[1] if len(sys.argv) > 1 else temporary)
        inputs(place)
        print(f"{run(place):.1f} dB in the scratches")
        sheet(place)
