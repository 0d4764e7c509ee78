"""What the U-Net and its fused form share: options, receptive field, and the pass through the levels."""

from __future__ import annotations

from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pconv_cuda.checks import as_valid, checked_mask, compact, padded_mask, same_in_all_channels
from pconv_cuda.models.base import InpaintingNetwork
from pconv_cuda.models.options import window_sizes
from pconv_cuda.models.prefill import filled
from pconv_cuda.models.receptive_field import closed_side, context_radius, mask_reach
from pconv_cuda.models.wrap import continued, missing_to_multiple

__all__ = ["LEAKY_SLOPE", "UNetBase"]

_OPTIONS = ("levels", "width", "conv", "windows", "first_bias", "head", "prefill", "negative_slope")
LEAKY_SLOPE = 0.2  # the paper's, of the decoder


class UNetBase(InpaintingNetwork):
    """``encoder`` and ``decoder`` are lists of modules with ``encode`` and ``decode``, from the top down and back."""

    kind = "unet"
    windows: tuple[int, ...]
    first_bias: bool
    head: str | None
    negative_slope: float
    encoder: nn.ModuleList
    decoder: nn.ModuleList
    head_conv: nn.Module

    def _take_options(self, other: UNetBase) -> None:
        for name in _OPTIONS:
            setattr(self, name, getattr(other, name))

    @property
    def config(self) -> dict[str, Any]:
        """What :meth:`from_pretrained` needs beside the weights; goes into config.json."""
        names = ["in_channels", "levels", "width", "conv", "mean", "std"]
        names += ["windows"] * (self.windows != window_sizes(None, self.levels))  # the paper's need no mention
        names += ["first_bias"] * self.first_bias + ["head"] * (self.head is not None)
        names += ["negative_slope"] * (self.negative_slope != LEAKY_SLOPE)
        names += ["prefill"] * (self.prefill is not None) + self._rare_options()
        return {name: getattr(self, name) for name in names}

    @property
    def reach(self) -> int:
        """Side in pixels of the largest square hole that the masks close wherever it lies.

        With a prefill the middle of a wider hole is the prefill's alone.

        Found by growing masks alone, for every offset to the grid of 2^levels pixels. With the paper's windows and
        from 3 levels on it is 3 * 2^levels + 14; well placed, a hole may be up to 2^(levels + 2) + 13 pixels wide.
        The returned mask tells whether a given hole closed.
        """
        return closed_side(self.windows)

    @property
    def mask_reach(self) -> int:
        return mask_reach(self.windows)

    @property
    def bytes_per_pixel(self) -> int:
        return 20 * self.width + 100  # seen: 1230 with width 64, 520 with 16, 160 with 4

    @property
    def grid(self) -> int:
        return 2**self.levels

    @property
    def context(self) -> int:
        return context_radius(self.windows)

    def forward(self, image: Tensor, mask: Tensor | None = None, fill: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Fill the holes of a batch.

        Args:
            image: ``(N, C, H, W)``, normalised (:meth:`normalize`), any H and W from 1 on; what lies in holes is
                not read.
            mask: ``(N|1, 1|C, H, W)``, bool, uint8 or floating: 1 is valid, 0 is a hole. None: all valid.
            fill: the prefill ``(N, C, H, W)``, where it is known already (of a larger picture); only with a prefill.

        Returns:
            ``(output, new_mask)``: ``(N, out_channels, H, W)``, still normalised and for every pixel, and a bool
            ``(N, 1, H, W)``. Where the new mask is 0 the output is 0 and means nothing: the hole was too large. With
            a prefill it is 1 everywhere.

        Raises:
            ValueError: an image of another shape, channel count or device, a mask or fill that does not fit it; with a
                prefill, a picture without a valid pixel.
            TypeError: an image of another dtype than the parameters, outside of autocast; a mask of another dtype.
        """
        self._check_image(image, self._tensor())
        height, width = image.shape[2:]
        if mask is None:
            mask = image.new_ones((1, 1, height, width), dtype=torch.bool)
        mask = as_valid(_one_channel_if_equal(compact(checked_mask(mask, image))))
        fill = filled(self.prefill, image, mask, fill, self.wraps, self.tension)
        if self.conv == "plain":  # the placeholder: 0 is the mean of a normalised picture
            image = torch.where(mask, image, 0.0) if fill is None else fill
        # Any size: holes are added below and right until every level halves evenly, and cut off again. What goes round
        # is continued instead, at either side: the network's own seam then lies far from what is kept.
        step = 2**self.levels
        top = left = 0
        if any(goes_round and size % step for goes_round, size in zip(self.wraps, image.shape[2:], strict=True)):
            (image, mask), (top, left) = continued((image, mask), self.wraps, self.context, step)
        extra = (0, missing_to_multiple(image.shape[3], step), 0, missing_to_multiple(image.shape[2], step))
        if extra != (0, 0, 0, 0):
            image, mask = F.pad(image, extra), padded_mask(mask, extra)

        features: list[tuple[Tensor, Tensor]] = [(image, mask)]
        for stage in self.encoder:
            features.append(cast(Any, stage).encode(*features[-1]))
        low, low_mask = features.pop()
        for stage in self.decoder:
            low, low_mask = cast(Any, stage).decode(low, low_mask, *features.pop())
        if self.conv == "plain":
            low_mask = torch.ones_like(low[:, :1], dtype=torch.bool)
        if self.head is not None:
            low = torch.where(low_mask, torch.sigmoid(self.head_conv(low)), 0.0)
        low, low_mask = (each[..., top : top + height, left : left + width] for each in (low, low_mask))
        low_mask = low_mask.expand(len(low), -1, -1, -1)
        if fill is not None:
            return fill + low, torch.ones_like(low_mask)  # low is 0 where its mask is
        return low, low_mask

    def extra_repr(self) -> str:
        names = ["in_channels", "levels", "width", "conv", *self._rare_options()]
        return ", ".join(f"{name}={getattr(self, name)!r}" for name in names)


def _one_channel_if_equal(mask: Tensor) -> Tensor:
    """Reduces a full-channel mask whose channels agree to one channel."""
    # Graphs under compilation cannot wait for values; fake tensors and those within vmap have none.
    unknown = torch.compiler.is_compiling() or mask.is_meta or type(mask) is not Tensor
    if mask.shape[1] == 1 or unknown or torch._C._are_functorch_transforms_active():
        return mask
    return mask[:, :1] if same_in_all_channels(mask) else mask
