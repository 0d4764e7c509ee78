"""What every method of filling takes and gives: samples in any type, new colours for boxes of a picture."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from pconv_cuda.errors import PConvError
from pconv_cuda.inpainting.windows import Box

__all__ = ["Patch", "Progress", "as_unit_range", "known_pixels"]

Progress = Callable[[int, int], None]  # (pieces done, pieces in this pass)


@dataclass(frozen=True)
class Patch:
    """New colours for one box of a picture: float32 RGB (3, h, w) in [0, 1] on the CPU.

    Only the hole's pixels in it are meant to be written.
    """

    box: Box
    colours: Tensor


def as_unit_range(pixels: Tensor) -> Tensor:
    """uint8, uint16 or floating samples as float32 in [0, 1] (floating ones are taken as they are)."""
    if pixels.dtype.is_floating_point:
        return pixels.float()
    return pixels.float().div_(65535.0 if pixels.dtype == torch.uint16 else 255.0)


def known_pixels(wanted: Tensor, valid: Tensor | None) -> Tensor:
    """bool (H, W), true where the picture can be trusted: ``valid``, or all, and never where a colour is wanted.

    Raises:
        PConvError: there is no such pixel.
    """
    known = ~wanted if valid is None else valid & ~wanted
    if not bool(known.any()):
        raise PConvError("mask: the hole covers the whole picture, so there is nothing to restore it from")
    return known
