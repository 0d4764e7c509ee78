"""The receptive field of a U-Net, and the widest hole that its masks close, both derived from its windows.

A square hole stays a square: the valid pixels reach into it alike along rows and columns, so one axis is enough.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import cache

__all__ = ["closed_side", "context_radius", "mask_reach"]

Interval = tuple[int, int]  # first and last pixel of a hole; empty where first > last


@cache
def closed_side(windows: tuple[int, ...]) -> int:
    """The side in pixels of the largest square hole that closes wherever it lies on the grid.

    Args:
        windows: the encoder's window sizes, odd, stride 2; the decoder's are 3x3 over [doubled | skip].
    """
    return _largest(windows, all)


@cache
def mask_reach(windows: tuple[int, ...]) -> int:
    """About how far, in px, valid pixels reach into a hole in one run: half the largest square that closes at best.

    By where it lies on the 2**levels grid a square of up to a fourth less stays open: the last mask has the final say.
    """
    return _largest(windows, any) // 2


def _largest(windows: tuple[int, ...], of_offsets: Callable[[Iterable[bool]], bool]) -> int:
    def closes(side: int) -> bool:
        return of_offsets(_left_over(offset, offset + side - 1, windows) for offset in range(2 ** len(windows)))

    fails = 1
    while closes(fails):
        fails *= 2
    found = fails // 2
    while fails - found > 1:
        side = (found + fails) // 2
        found, fails = (side, fails) if closes(side) else (found, side)
    return found


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
