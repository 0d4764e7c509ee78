"""The picture of docs/photographs.md, by the commands of that page.

python -m benchmarks.photographs_picture [FOLDER]      writes docs/images/photographs.png; FOLDER keeps the commands' files
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from pconv_cuda import cli
from pconv_cuda.data.packaged import packaged_images

OUT = Path(__file__).resolve().parents[1] / "docs" / "images" / "photographs.png"
SCRATCHES = (  # (x, y) of the picture coffee, and the width
    ([(30, 20), (210, 130), (330, 330), (420, 390)], 3),
    ([(590, 60), (430, 150), (300, 260), (60, 350)], 4),
    ([(480, 10), (500, 190), (470, 300)], 2),
)
MAST = [(442, 119), (453, 119), (456, 188), (461, 192), (464, 232), (476, 368), (437, 368), (439, 188), (442, 188)]


def commands(folder: Path) -> None:
    """Writes scratched.png, scan.png and mast.png, what a user has, and what the commands make of them."""
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
    scan, photo = str(folder / "scan.png"), str(folder / "photo.png")
    for arguments in (
        [scan, "--mask-color", "#ff0000", "-o", str(folder / "repaired.png")],
        [photo, "--mask", str(folder / "mast.png"), "-o", str(folder / "without.png")],
    ):
        if cli.main(["inpaint", *arguments]):
            raise SystemExit(1)
    truth = np.asarray(photographs["coffee"], float)
    marked = (np.asarray(Image.open(scan)) == (255, 0, 0)).all(-1)
    error = (np.asarray(Image.open(folder / "repaired.png"), float) - truth)[marked]
    print(f"scratches: {marked.mean():.1%} of the picture, {10 * np.log10(255**2 / (error**2).mean()):.1f} dB in them")


def sheet(folder: Path) -> None:
    rows = (("scratched", "scan", "repaired"), ("photo", "mast", "without"))
    whole = Image.new("RGB", (3 * 306, 2 * 208), "white")
    for y, row in enumerate(rows):
        for x, name in enumerate(row):
            picture = Image.open(folder / f"{name}.png").convert("RGB")
            whole.paste(picture.resize((300, round(300 * picture.height / picture.width)), 1), (x * 306, y * 208))
    whole.save(OUT, optimize=True)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as temporary:
        place = Path(sys.argv[1] if len(sys.argv) > 1 else temporary)
        commands(place)
        sheet(place)
