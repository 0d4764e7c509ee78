"""How wide a hole the masks of a U-Net close, found by growing them.

A square hole stays a square: the valid pixels reach into it alike along rows and columns, so one axis is enough.
"""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["closed_side"]

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
