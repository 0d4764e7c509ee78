"""Photographs that lie inside the scikit-image and scikit-learn wheels: real pictures without a download.

Left out of the same folders: diagrams and colour charts (color, logo, chessboards), medical and
microscope pictures (retina, cell, ihc, microaneurysms), the phantom, scanned text, silhouettes, the
motion-blur test, and star fields (hubble_deep_field is black but for points).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pconv_cuda.data.images import load_rgb
from pconv_cuda.errors import PConvError, require

__all__ = ["HELD_OUT_SCENES", "Photograph", "packaged_images", "split"]

# (package, file, scene): pictures of one scene never stand on both sides of a split
_PHOTOGRAPHS = (
    ("skimage", "astronaut.png", "astronaut"),
    ("skimage", "brick.png", "brick"),
    ("skimage", "camera.png", "camera"),
    ("skimage", "chelsea.png", "chelsea"),
    ("skimage", "coffee.png", "coffee"),
    ("skimage", "coins.png", "coins"),
    ("skimage", "grass.png", "grass"),
    ("skimage", "gravel.png", "gravel"),
    ("skimage", "moon.png", "moon"),
    ("skimage", "motorcycle_left.png", "motorcycle"),
    ("skimage", "motorcycle_right.png", "motorcycle"),
    ("skimage", "rocket.jpg", "rocket"),
    ("sklearn", "china.jpg", "china"),
    ("sklearn", "flower.jpg", "flower"),
)
_FOLDERS = {"skimage": "data", "sklearn": "datasets/images"}

# an animal, a building with sky, a still life; no other picture shows these scenes
HELD_OUT_SCENES = ("chelsea", "china", "coffee")


@dataclass(frozen=True)
class Photograph:
    """``array`` is (H, W, 3) uint8, RGB; grey pictures have three equal channels."""

    name: str
    scene: str
    array: np.ndarray


def packaged_images() -> list[Photograph]:
    """All photographs that the two installed packages carry.

    Raises:
        MissingExtra: scikit-image or scikit-learn is not installed.
        PConvError: neither carries any of the pictures that are known by name.
    """
    found = []
    for package, file, scene in _PHOTOGRAPHS:
        module = require(package, "quickstart", why="the packaged photographs")
        path = Path(module.__path__[0]) / _FOLDERS[package] / file
        if path.is_file():  # other releases of the packages may carry fewer
            found.append(Photograph(path.stem, scene, load_rgb(path)))
    if not found:
        names = ", ".join(file for _, file, _ in _PHOTOGRAPHS)
        raise PConvError(f"packaged photographs: none found in scikit-image and scikit-learn; looked for {names}")
    return found


def split(
    images: Sequence[Photograph], held_out: Sequence[str] = HELD_OUT_SCENES
) -> tuple[list[Photograph], list[Photograph]]:
    """(training, held-out) pictures; the scenes named in ``held_out`` go to the second.

    Raises:
        PConvError: a scene that no picture has, or nothing left on one of the two sides.
    """
    scenes = {image.scene for image in images}
    if unknown := sorted(set(held_out) - scenes):
        raise PConvError(f"held_out: no picture of {', '.join(unknown)}; scenes are {', '.join(sorted(scenes))}")
    training = [image for image in images if image.scene not in held_out]
    tests = [image for image in images if image.scene in held_out]
    if not training or not tests:
        raise PConvError(f"held_out: one side of the split is empty ({len(training)} and {len(tests)} pictures)")
    return training, tests
