"""Means with bootstrap intervals over pictures."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

__all__ = ["LEVEL", "interval"]

LEVEL = 0.95


Interval = tuple[float, float | None, float | None]


def interval(values: Sequence[float], pictures: Sequence[str], seed: int, resamples: int) -> Interval:
    """``(mean, low, high)``: the percentile bootstrap's interval of :data:`LEVEL`; of one picture there is none.

    Pictures are resampled, not values: values of one picture under several masks are not independent.

    Args:
        values: at least one.
        pictures: the picture of each.
    """
    names, place = np.unique(np.asarray(pictures), return_inverse=True)
    sums = np.bincount(place, np.asarray(values, np.float64))
    counts = np.bincount(place).astype(np.float64)
    if len(names) < 2:
        return float(sums.sum() / counts.sum()), None, None
    # keyed by the number of pictures too: methods of one cell meet the same draws
    draws = np.random.default_rng([seed, len(names)]).integers(len(names), size=(resamples, len(names)))
    means = sums[draws].sum(1) / counts[draws].sum(1)
    low, high = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(sums.sum() / counts.sum()), float(low), float(high)
