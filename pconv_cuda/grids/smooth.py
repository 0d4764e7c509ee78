"""Gaps filled by the smooth fill, plane by plane: any range, any unit, no weights."""

from __future__ import annotations

import torch
from torch import Tensor

from pconv_cuda.models.prefill import smooth_fill_around
from pconv_cuda.models.wrap import Wraps

__all__ = ["TOLERANCE", "SmoothGrid", "plate", "within"]

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
            planes = plate(values[gaps], known[gaps], self.wraps, self.tension)
            filled[gaps] = within(planes, values.dtype)
        return torch.where(known, values, filled)


def plate(planes: Tensor, known: Tensor, wraps: Wraps, tension: float) -> Tensor:
    """Planes with their gaps filled, in float64; each has a value.

    Their means are taken off first: a plate knows no level, but rounding does. And it is solved for values of about 1,
    by powers of two that change no digit, since squares of very large and very small ones are infinite or 0.
    """
    values, size = _of_one(torch.where(known, planes, 0).double())
    mean = values.sum((2, 3), keepdim=True) / known.sum((2, 3), keepdim=True)
    centred, spread = _of_one(torch.where(known, values - mean, 0.0))
    working = torch.float64 if planes.dtype == torch.float64 else torch.float32
    found = smooth_fill_around(centred.to(working), known, wraps, tension=tension, tolerance=TOLERANCE).double()
    return _times_power(_times_power(found, spread) + mean, size)


def within(values: Tensor, dtype: torch.dtype) -> Tensor:
    """``values`` in a dtype, cut to its finite numbers; NaN stays."""
    limits = torch.finfo(dtype)
    return values.clamp(limits.min, limits.max).to(dtype)


def _of_one(planes: Tensor) -> tuple[Tensor, Tensor]:
    """Planes whose largest absolute value is 0 or 0.5 to 1, and the exponents of 2 that were taken off."""
    exponent = torch.frexp(planes.abs().amax((2, 3), keepdim=True))[1]
    return _times_power(planes, -exponent), exponent


def _times_power(values: Tensor, exponent: Tensor) -> Tensor:
    """``values * 2**exponent``, in two steps, as 2**1074 is no float64."""
    half = torch.div(exponent, 2, rounding_mode="floor")
    return values * torch.pow(2.0, half.double()) * torch.pow(2.0, (exponent - half).double())
