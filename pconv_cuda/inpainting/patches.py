"""Types shared by the filling methods: new colours for boxes of a picture."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pconv_cuda.errors import PConvError
from pconv_cuda.inpainting.tiling import Box

__all__ = ["Patch", "Patches", "Progress", "as_unit_range", "known_pixels"]

Progress = Callable[[int, int], None]  # (pieces done, pieces in this pass)


@dataclass(frozen=True)
class Patch:
    """New colours for one box of a picture: float32 RGB (3, h, w) in [0, 1] on the CPU.

    Only the hole's pixels in it are valid.
    """

    box: Box
    colours: Tensor


class Patches:
    """Patches of one picture, found by where they lie."""

    def __init__(self, patches: Sequence[Patch]) -> None:
        self._patches = patches
        edges = [(patch.box.top, patch.box.left, patch.box.bottom, patch.box.right) for patch in patches]
        self._edges = torch.tensor(edges).reshape(-1, 4).T

    def over(self, view: Box, colours: Tensor, known: Tensor) -> Tensor:
        """``colours`` (3, h, w) of the box ``view``, the patches' in its place where ``known`` (h, w) is false.

        What no patch covers is 0 there.
        """
        filled = torch.where(known, colours, 0.0)
        top, left, bottom, right = self._edges
        near = (top < view.bottom) & (bottom > view.top) & (left < view.right) & (right > view.left)
        for number in near.nonzero().flatten().tolist():
            patch = self._patches[number]
            part = patch.box.inside(view)
            here, there = part.seen_from(view).slices, part.seen_from(patch.box).slices
            target = filled[(slice(None), *here)]
            target[:] = torch.where(known[here], target, patch.colours[(slice(None), *there)])
        return filled


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
