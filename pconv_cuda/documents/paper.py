"""Paper: colour, texture at several scales, fibres, browning, light. Everything is numpy noise and Pillow's lines."""

from __future__ import annotations

import numpy as np

from pconv_cuda.documents.noise import smooth_noise
from pconv_cuda.errors import require

__all__ = ["old_paper"]

_COLOURS = ((236, 222, 190), (226, 206, 164), (218, 198, 160), (238, 230, 208), (206, 180, 136), (228, 214, 184))


def old_paper(height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    """Bare paper, (3, height, width) float32, about 0 to 255: planes, since numpy is slow along an axis of three."""
    side = max(1, min(height, width))
    first, second = rng.integers(0, len(_COLOURS), 2)
    part = rng.random()
    colour = np.array(_COLOURS, np.float32)[first] * part + np.array(_COLOURS, np.float32)[second] * (1 - part)
    grain = rng.standard_normal((height, width), dtype=np.float32)
    clouds = smooth_noise(height, width, side / 4, rng)
    blotches = smooth_noise(height, width, side / 14, rng)
    pulp = smooth_noise(height, width, 5, rng)
    light = 1 + 0.012 * grain + 0.016 * pulp + 0.02 * blotches + 0.03 * clouds
    light += _laid_lines(height, width, rng)
    light -= _fibres(height, width, rng)
    # lamps and bent pages: one slope, and a shadow towards the binding on some
    across = np.linspace(-1, 1, width, dtype=np.float32)
    down = np.linspace(-1, 1, height, dtype=np.float32)
    light *= 1 + rng.normal(0, 0.05) * across + (rng.normal(0, 0.05) * down)[:, None]
    if rng.random() < 0.4:
        towards = across if rng.random() < 0.5 else -across
        light *= 1 - rng.uniform(0.15, 0.45) * np.exp((towards - 1) * rng.uniform(5, 14))
    brown = _browning(across, down, clouds, blotches, rng) + _foxing(height, width, pulp, rng)
    # browning takes blue first, then green: that is what makes it look old and not dark
    taken = np.clip(brown, 0, 0.75)
    planes = np.empty((3, height, width), np.float32)
    for plane, shade, absorbed in zip(planes, colour.tolist(), (0.32, 0.56, 0.95), strict=True):
        np.multiply(light, shade * (1 - absorbed * taken), out=plane)
    return planes


def _laid_lines(height: int, width: int, rng: np.random.Generator) -> np.ndarray | np.float32:
    """The close wires of the mould, faint, upright or level, as hand-made paper shows them."""
    if rng.random() < 0.4:
        return np.float32(0)
    upright = rng.random() < 0.5
    place = np.arange(width if upright else height, dtype=np.float32)
    period = rng.uniform(3.2, 7)
    lines = np.float32(rng.uniform(0.004, 0.014)) * np.sin(2 * np.pi * place / period + np.sin(place / 60))
    return lines[None, :] if upright else lines[:, None]


def _fibres(height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    """Short bent threads, light and dark, as a share of light that they take."""
    pil_image, draw = require("PIL.Image", "inpaint"), require("PIL.ImageDraw", "inpaint")
    picture = pil_image.new("L", (width, height), 128)
    pen = draw.Draw(picture)
    count = int(rng.integers(40, 170) * height * width / 512**2)
    starts = rng.random((count, 2)) * (width, height)
    angles = rng.uniform(0, 2 * np.pi, count)
    turns, lengths = rng.normal(0, 0.5, count), rng.gamma(2, 4, count)
    shades = np.clip(rng.normal(146, 40, count), 60, 255).astype(int)
    steps = np.arange(4)
    for number in range(count):
        bends = angles[number] + turns[number] * steps
        x = starts[number, 0] + np.cumsum(np.cos(bends)) * lengths[number] / 4
        y = starts[number, 1] + np.cumsum(np.sin(bends)) * lengths[number] / 4
        pen.line(list(zip(x.tolist(), y.tolist(), strict=True)), fill=int(shades[number]), width=1)
    return (np.asarray(picture, dtype=np.float32) - 128) * np.float32(rng.uniform(0.0004, 0.0012))


def _browning(
    across: np.ndarray, down: np.ndarray, clouds: np.ndarray, blotches: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """How brown: air reaches a page from its edges, unevenly."""
    power = rng.uniform(3, 8)
    edge = np.maximum(np.abs(across) ** power, (np.abs(down) ** power)[:, None])
    return (rng.uniform(0.06, 0.34) * edge + 0.04) * (1 + 0.5 * clouds + 0.35 * blotches)


def _foxing(height: int, width: int, pulp: np.ndarray, rng: np.random.Generator) -> np.ndarray | np.float32:
    """Rusty spots and now and then the rim that water left."""
    brown = np.zeros((height, width), dtype=np.float32)
    side = min(height, width)
    for _ in range(int(rng.poisson(7)) if rng.random() < 0.7 else 0):
        radius = side * 0.004 * rng.gamma(2, 1) + 1
        _spot(brown, rng, radius, rng.uniform(0.15, 0.5), pulp)
    if rng.random() < 0.35:
        _tide(brown, rng, pulp)
    return brown


def _spot(brown: np.ndarray, rng: np.random.Generator, radius: float, depth: float, pulp: np.ndarray) -> None:
    height, width = brown.shape
    y, x = rng.uniform(0, height), rng.uniform(0, width)
    top, left, reach = max(0, int(y - 3 * radius)), max(0, int(x - 3 * radius)), int(6 * radius) + 2
    window = brown[top : top + reach, left : left + reach]
    rows = np.arange(top, top + window.shape[0], dtype=np.float32)[:, None] - y
    columns = np.arange(left, left + window.shape[1], dtype=np.float32) - x
    ragged = 1 + 0.5 * pulp[top : top + reach, left : left + reach]
    window += depth * np.exp(-(rows**2 + columns**2) / (radius**2)) * ragged


def _tide(brown: np.ndarray, rng: np.random.Generator, pulp: np.ndarray) -> None:
    """Dried water: a faintly darker area with a dark rim."""
    height, width = brown.shape
    side = min(height, width)
    rows = np.arange(height, dtype=np.float32)[:, None] - rng.choice([0.0, 1.0]) * height
    columns = np.arange(width, dtype=np.float32) - rng.uniform(0, width)
    bends = smooth_noise(height, width, side / 6, rng)
    beyond = np.sqrt(rows**2 + columns**2) / side - rng.uniform(0.15, 0.5) + 0.05 * bends + 0.006 * pulp
    rim = np.exp(-((beyond / 0.008) ** 2)) * rng.uniform(0.08, 0.22)
    brown += np.where(beyond < 0, 0.06, 0).astype(np.float32) + rim
