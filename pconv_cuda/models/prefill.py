"""The fill to which a network adds its answer."""

from __future__ import annotations

from torch import Tensor

from pconv_cuda.functional import smooth_fill

__all__ = ["PREFILLS", "filled"]

PREFILLS = ("smooth",)


def filled(prefill: str | None, image: Tensor, mask: Tensor, fill: Tensor | None) -> Tensor | None:
    """The picture with its holes filled by the method ``prefill``; None without one.

    Args:
        image: ``(N, C, H, W)``, floating; a fill commutes with a change of brightness and contrast, so it may be
            normalised or not.
        mask: bool ``(N|1, 1|C, H, W)``, true where the picture is valid.
        fill: the answer, where the caller has it already.

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
    return None if prefill is None else smooth_fill(image, mask)
