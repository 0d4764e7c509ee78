"""Networks and pictures for the inpainting tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from pconv_cuda.inpainting.pictures import read_picture, save_picture
from pconv_cuda.inpainting.tiling import Box
from pconv_cuda.models import PConvUNet

SIZES = [(1, 1), (1, 7), (5, 3), (17, 23)]  # (H, W)


def small_network(levels: int, width: int = 4, seed: int = 0, **options: Any) -> PConvUNet:
    """A random network whose answers spread over [0, 1] instead of saturating, so that differences show.

    Its statistics come from two pictures of noise; with He initialisation alone the last layer overshoots.
    """
    torch.manual_seed(seed)
    model = PConvUNet(levels=levels, width=width, **options).train()
    side = 2 ** (levels + 1)
    noise = torch.rand(2, 3, side, side)
    for _ in range(20):
        model(model.normalize(noise), (torch.rand(2, 1, side, side) > 0.2))
    last = model.decoder[-1].conv
    with torch.no_grad():
        last.weight *= 0.15
    return model.eval()


def square_hole(height: int, width: int, top: int, left: int, side: int) -> np.ndarray:
    hole = np.zeros((height, width), bool)
    hole[top : top + side, left : left + side] = True
    return hole


def smooth_picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    """uint8 RGB: slow colour waves with a little noise, somewhat like a photograph."""
    rng = np.random.default_rng(seed)
    rows, columns = np.linspace(0, 6, height)[:, None], np.linspace(0, 8, width)[None]
    waves = [np.sin(rows + k) * np.cos(columns * (1 + k / 3)) for k in range(3)]
    picture = 127 + 90 * np.stack(waves, -1) + rng.normal(0, 6, (height, width, 3))
    return picture.clip(0, 255).astype(np.uint8)


def random_hole(height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    hole = rng.random((height, width)) < 0.4
    if height * width > 1:
        hole[0, 0], hole[-1, -1] = False, True
    return hole


def paint_and_save(source: Path, target: Path, hole: np.ndarray, colours: np.ndarray, **options) -> None:
    picture = read_picture(source)
    assert picture.size == hole.shape
    rows, columns = np.flatnonzero(hole.any(1)), np.flatnonzero(hole.any(0))
    if len(rows):
        box = Box(int(rows[0]), int(columns[0]), int(rows[-1]) + 1, int(columns[-1]) + 1)
        picture.paint(box, colours[box.slices], hole[box.slices], **options)
    save_picture(picture, target, picture.format)
