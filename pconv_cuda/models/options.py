"""What a U-Net is built from: sizes, windows and the normalisation of its pictures, each checked."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

__all__ = ["IMAGENET_MEAN", "IMAGENET_STD", "checked_sizes", "column", "per_channel", "window_sizes"]

IMAGENET_MEAN = (0.485, 0.456, 0.406)
"""Of red, green and blue in [0, 1]: what pictures are normalised by unless a network says otherwise."""
IMAGENET_STD = (0.229, 0.224, 0.225)
"""The standard deviations that go with :data:`IMAGENET_MEAN`."""
# Beyond these a config is damaged or malicious: at 12 levels a picture is padded to a multiple of 4096 pixels.
_MOST = {
    "in_channels": 1024,
    "out_channels": 1024,
    "levels": 12,
    "width": 8192,
    "layers": 64,
    "blur": 255,
    "window": 255,
}


def checked_sizes(**sizes: Any) -> tuple[int, ...]:
    """The sizes, of any integer type, as ints: they are written to config.json.

    Raises:
        ValueError: one is not a positive integer, or is above the limit.
    """
    for name, value in sizes.items():
        if not isinstance(value, int | np.integer) or value < 1:
            raise ValueError(f"{name}: expected a positive integer, got {value!r}")
        if value > _MOST[name]:
            raise ValueError(f"{name}: expected at most {_MOST[name]}, got {value}")
    return tuple(int(value) for value in sizes.values())


def window_sizes(given: Any, levels: int) -> tuple[int, ...]:
    """The encoder's windows, by default the paper's."""
    windows = ([7, 5, 5] + [3] * levels)[:levels] if given is None else list(given)
    fits = [isinstance(size, int | np.integer) and size % 2 == 1 and 1 <= size <= _MOST["window"] for size in windows]
    if len(windows) != levels or not all(fits):
        most = _MOST["window"]
        raise ValueError(f"windows: expected {levels} odd sizes, one a level, of at most {most}, got {given!r}")
    return tuple(int(size) for size in windows)


def per_channel(
    name: str, given: Any, imagenet: tuple[float, ...], channels: int, least: float = 1e-6
) -> tuple[float, ...]:
    """One number a channel; those of ``std`` are at least ``least``."""
    if given is None:
        return imagenet if channels == 3 else (sum(imagenet) / 3,) * channels
    values = tuple(float(value) for value in given)
    if len(values) != channels:
        raise ValueError(f"{name}: expected {channels} numbers, one a channel, got {len(values)}")
    # Of subnormal size the quotient of a pixel is infinite.
    if not all(math.isfinite(value) for value in values) or (name == "std" and min(values) < least):
        expected = f"numbers of at least {least:g}" if name == "std" else "finite numbers"
        raise ValueError(f"{name}: expected {expected}, got {given!r}")
    return values


def column(values: tuple[float, ...], like: Tensor) -> Tensor:
    """Numbers of channels as ``(C, 1, 1)``."""
    return torch.tensor(values, dtype=like.dtype, device=like.device).view(-1, 1, 1)
