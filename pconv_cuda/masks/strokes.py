"""Brush strokes, several at a time."""

from __future__ import annotations

import math

import numpy as np

from pconv_cuda.masks.raster import fill_discs
from pconv_cuda.masks.shares import Limits

__all__ = ["random_dabs", "strokes"]

_DABS = 96  # of the longest stroke
_MEMORY = 0.9  # of the curvature from dab to dab: a random walk of the curvature bends smoothly


def strokes(limits: Limits, wanted: int, rng: np.random.Generator) -> np.ndarray:
    """A few wandering strokes that cover about ``wanted`` pixels: (height, width) bool, True where drawn."""
    return fill_discs(*random_dabs(limits, wanted, rng), limits.height, limits.width)


def random_dabs(limits: Limits, wanted: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The discs that make up the strokes: y, x and radius, (n,) each, pixels."""
    height, width = limits.height, limits.width
    side = min(height, width)
    count = int(rng.integers(2, 8))
    # a stroke of length l and radius r covers about 2 l r; some of it leaves the picture or overlaps
    radius = np.exp(rng.uniform(math.log(max(0.7, side / 100)), math.log(max(1.0, side / 14)), count))
    length = rng.uniform(0.1, 1.0, count) * math.hypot(height, width)
    scale = math.sqrt(1.2 * wanted / float((2 * length * radius).sum()))
    radius = np.clip(radius * scale, 0.7, max(1.0, side / 8))
    length = np.clip(length * scale, 0, 1.5 * math.hypot(height, width))

    spacing = np.maximum(radius / 2, length / _DABS)
    radius = np.maximum(radius, spacing / 1.5)  # dabs further apart than this would be a string of beads
    dabs = 1 + (length / spacing).astype(np.int64)
    steps = np.arange(int(dabs.max()))
    decay = np.tril(_MEMORY ** np.maximum(steps[:, None] - steps, 0))
    curvature = rng.normal(0, 0.12, (count, steps.size)) @ decay.T
    angle = rng.uniform(0, 2 * math.pi, (count, 1)) + np.cumsum(curvature, axis=1)
    edge = limits.edge if limits.border is False else 0
    start = rng.uniform(0, 1, (2, count, 1)) * np.array([height - 2 * edge, width - 2 * edge])[:, None, None] + edge
    y = start[0] + np.cumsum(spacing[:, None] * np.sin(angle), axis=1)
    x = start[1] + np.cumsum(spacing[:, None] * np.cos(angle), axis=1)
    # varying pressure
    pressure = 1 + 0.25 * np.sin(rng.uniform(0, 2 * math.pi, (count, 1)) + steps * rng.uniform(0.03, 0.2, (count, 1)))
    radii = np.maximum(radius[:, None] * pressure, 0.7)
    drawn = steps < dabs[:, None]
    return y[drawn], x[drawn], radii[drawn]
