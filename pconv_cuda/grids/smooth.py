"""Gaps filled by the smooth fill, plane by plane: any range, any unit, no weights."""

from __future__ import annotations

import torch
from torch import Tensor

from pconv_cuda.models.prefill import smooth_fill_around
from pconv_cuda.models.wrap import Wraps

__all__ = ["TOLERANCE", "SmoothGrid", "plate"]

# A hundredth of a picture's: measurements have more digits than grey levels, and it costs twice the time.
TOLERANCE = 1e-5
_PLANES = 64  # filled together


class SmoothGrid:
    """What :class:`pconv_cuda.grids.network.NetworkGrid` is with a network: see there."""

    in_channels = out_channels = 1
    first_answer = 0

    def __init__(self, wraps: Wraps, tension: float) -> None:
        self.wraps, self.tension = wraps, tension
        self.at_once = _PLANES

    def fill(self, values: Tensor) -> Tensor:
        """``(N, 1, H, W)`` with NaN where a value is missing; planes without a value stay as they are."""
        known = ~torch.isnan(values)
        some = known.flatten(1)
        gaps = some.any(1) & ~some.all(1)
        filled = values.clone()
        if bool(gaps.any()):
            filled[gaps] = plate(values[gaps], known[gaps], self.wraps, self.tension).to(values.dtype)
        return torch.where(known, values, filled)


def plate(planes: Tensor, known: Tensor, wraps: Wraps, tension: float) -> Tensor:
    """Planes with their gaps filled, in float64; each has a value.

    Their means are taken off first: a plate knows no level, but rounding does.
    """
    values = torch.where(known, planes, 0).double()
    mean = values.sum((2, 3), keepdim=True) / known.sum((2, 3), keepdim=True)
    working = torch.float64 if planes.dtype == torch.float64 else torch.float32
    centred = torch.where(known, values - mean, 0.0).to(working)
    return smooth_fill_around(centred, known, wraps, tension=tension, tolerance=TOLERANCE).double() + mean
