"""Smooth noise by numpy alone, independent of the release of a picture library."""

from __future__ import annotations

import numpy as np

__all__ = ["line_noise", "smooth_noise"]


def _weights(length: int, cell: float) -> tuple[np.ndarray, np.ndarray, int]:
    """For each pixel the grid point before it and how far it is beyond, eased; and how many points there are."""
    place = np.arange(length, dtype=np.float32) / np.float32(cell)
    before = place.astype(np.int64)
    beyond = place - before
    return before, beyond * beyond * (3 - 2 * beyond), int(before[-1]) + 2


def smooth_noise(height: int, width: int, cell: float, rng: np.random.Generator) -> np.ndarray:
    """(height, width) float32 of mean 0 and deviation below 1, with features of ``cell`` pixels, both >= 1."""
    rows, down, row_count = _weights(height, max(1.0, cell))
    columns, across, column_count = _weights(width, max(1.0, cell))
    grid = rng.standard_normal((row_count, column_count), dtype=np.float32)
    wide = grid[:, columns]
    wide += (grid[:, columns + 1] - wide) * across
    tall = wide[rows]
    tall += (wide[rows + 1] - tall) * down[:, None]
    return tall


def line_noise(length: int, cell: float, rng: np.random.Generator) -> np.ndarray:
    """(length,) float32, as :func:`smooth_noise`."""
    points, beyond, count = _weights(length, max(1.0, cell))
    grid = rng.standard_normal(count, dtype=np.float32)
    line = grid[points] + (grid[points + 1] - grid[points]) * beyond
    return np.asarray(line, dtype=np.float32)
