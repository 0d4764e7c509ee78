"""Random draws that are a function of (seed, step, sample) alone.

No generator keeps state during training: each draw gets a fresh one, keyed by its purpose. A run that is resumed, or
that has other numbers of workers or processes, sees the same pictures and masks to the bit, and a checkpoint has no
random state to save.
"""

from __future__ import annotations

from enum import IntEnum

import numpy as np

__all__ = ["Stream", "generator"]


class Stream(IntEnum):
    """What a draw is for; part of the key, so that uses with the same step and sample do not correlate."""

    ORDER = 0
    CROP = 1
    MASK = 2
    PAGE = 3


def generator(seed: int, stream: Stream, *key: int) -> np.random.Generator:
    """A generator for one draw. ``seed`` and every part of ``key`` are integers >= 0."""
    return np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, int(stream), *key])))
