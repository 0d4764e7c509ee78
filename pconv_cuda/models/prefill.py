"""The fill to which a network adds its answer."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from pconv_cuda.functional import smooth_fill
from pconv_cuda.models.wrap import Wraps, continued
from pconv_cuda.smooth import TENSION

__all__ = ["PREFILLS", "filled", "smooth_fill_around"]

PREFILLS = ("smooth",)


def filled(
    prefill: str | None,
    image: Tensor,
    mask: Tensor,
    fill: Tensor | None,
    wraps: Wraps = (False, False),
    tension: float = TENSION,
) -> Tensor | None:
    """The picture with its holes filled by the method ``prefill``; None without one.

    Args:
        image: ``(N, C, H, W)``, floating; a fill commutes with a change of brightness and contrast, so it may be
            normalised or not.
        mask: bool ``(N|1, 1|C, H, W)``, true where the picture is valid.
        fill: the answer, where the caller has it already.
        wraps: whether rows and columns go round.
        tension: of the smooth fill.

    Raises:
        ValueError: ``fill`` of another shape, dtype or device, or without a method; a picture without a valid pixel.
    """
    if fill is not None:
        if prefill is None:
            raise ValueError("fill: expected None, as this network has no prefill, got a tensor")
        if fill.shape != image.shape or fill.dtype != image.dtype or fill.device != image.device:
            raise ValueError(
                f"fill: expected the image's {tuple(image.shape)}, {image.dtype}, {image.device}, "
                f"got {tuple(fill.shape)}, {fill.dtype}, {fill.device}"
            )
        return fill
    return None if prefill is None else smooth_fill_around(image, mask, wraps, tension=tension)


def smooth_fill_around(image: Tensor, mask: Tensor, wraps: Wraps, **options: Any) -> Tensor:
    """:func:`~pconv_cuda.functional.smooth_fill` where axes go round.

    What goes round is continued by half its length at either side, so that a gap across the seam is one gap.
    """
    if not any(wraps):
        return smooth_fill(image, mask, **options)
    height, width = image.shape[-2:]
    (image, mask), (top, left) = continued((image, mask), wraps, max(height, width), 1)
    return smooth_fill(image, mask, **options)[..., top : top + height, left : left + width]
