"""How far a U-Net sees, and how wide a hole its masks close, both found by following its windows.

A square hole stays a square: the valid pixels reach into it alike along rows and columns, so one axis is enough.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

__all__ = ["closed_side", "context_radius"]

Interval = tuple[int, int]  # first and last pixel of a hole; empty where first > last


def closed_side(windows: Sequence[int]) -> int:
    """The side in pixels of the largest square hole that closes wherever it lies on the grid.

    Args:
        windows: the encoder's window sizes, odd, stride 2; the decoder's are 3x3 over [doubled | skip].
    """
    offsets = range(2 ** len(windows))
    closes, fails = 0, 2 ** (len(windows) + 4) + 64
    while fails - closes > 1:
        side = (closes + fails) // 2
        if all(_left_over(offset, offset + side - 1, windows) for offset in offsets):
            closes = side
        else:
            fails = side
    return closes


def _left_over(first: int, last: int, windows: Sequence[int]) -> bool:
    """Whether nothing is left of the hole from ``first`` to ``last``."""
    holes: list[Interval] = [(first, last)]
    for window in windows:
        # stays a hole where the window lies in the hole altogether
        first, last = holes[-1]
        half = window // 2
        holes.append((-((-first - half) // 2), (last - half) // 2))
    first, last = holes.pop()
    while holes:
        skip_first, skip_last = holes.pop()
        # a pixel of either source makes the window valid: the holes' common part, less a pixel on each side
        first, last = max(2 * first, skip_first) + 1, min(2 * last + 1, skip_last) - 1
        if first > last:
            return True
    return first > last


@cache
def context_radius(windows: tuple[int, ...]) -> int:
    """From how far away, in px, anything can change an output pixel.

    Intervals are followed back exactly: through each decoder stage (3x3, nearest upsampling) down to the
    bottleneck, then through the strided encoder. The worst position on the 2**levels grid counts.
    """
    radius = 0
    for pixel in range(2 ** len(windows)):
        low = high = pixel
        needed = []
        for _ in windows:
            low, high = low - 1, high + 1
            needed.append((low, high))
            low, high = low // 2, high // 2
        for level in reversed(range(len(windows))):
            padding = windows[level] // 2
            low = min(needed[level][0], 2 * low - padding)
            high = max(needed[level][1], 2 * high + padding)
        radius = max(radius, pixel - low, high - pixel)
    return radius
