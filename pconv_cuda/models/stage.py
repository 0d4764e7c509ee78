"""One level of the U-Net: convolution, batch norm and activation."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pconv_cuda import reference
from pconv_cuda.checks import pair
from pconv_cuda.functional import STAGE_WINDOW, apply, partial_conv2d_sources
from pconv_cuda.models.wrap import Wraps, around, entering, within
from pconv_cuda.nn import PartialConv2d, PartialConvUpCat2d

__all__ = ["Stage", "down", "up"]


def down(
    x: Tensor,
    mask: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: tuple[int, int],
    padding: tuple[int, int],
    negative_slope: float = 1.0,
    wraps: Wraps = (False, False),
) -> tuple[Tensor, Tensor]:
    """The partial convolution of an encoder's level. The network has checked ``mask``, bool ``(N|1, 1|C, H, W)``.

    Returns:
        The output ``(N, K, P, Q)`` and the new mask, bool ``(N|1, 1, P, Q)``.
    """
    x, mask, (rows, columns) = entering(x, mask, wraps, padding)
    return apply(x, mask, weight, bias, stride, (rows, columns), (1, 1), 1, negative_slope=negative_slope)


def up(
    low: Tensor,
    low_mask: Tensor,
    skip: Tensor,
    skip_mask: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    phases: Tensor | None = None,
    negative_slope: float = 1.0,
    composed: bool = False,
    wraps: Wraps = (False, False),
) -> tuple[Tensor, Tensor]:
    """The partial convolution of a decoder's level: [doubled | skip], each block of channels with its own mask.

    The operator takes masks of one channel; a picture may have one for each of its channels.
    """
    if any(wraps):
        once, twice = widths(wraps)
        small, large = (around(low, once), around(low_mask, once)), (around(skip, twice), around(skip_mask, twice))
        x, mask = up(*small, *large, weight, bias, phases, negative_slope, composed)
        return within(x, twice), within(mask, twice)
    if not composed and skip_mask.shape[1] == 1:
        sources = skip, skip_mask, True, phases
        return apply(low, low_mask, weight, bias, *STAGE_WINDOW, *sources, negative_slope=negative_slope)
    doubled, masks = F.interpolate(low, scale_factor=2, mode="nearest"), (reference.doubled(low_mask), skip_mask)
    x, mask = partial_conv2d_sources((doubled, skip), masks, weight, bias, padding=1)
    return reference.activation(x, negative_slope), mask


def widths(wraps: Wraps) -> tuple[list[int], list[int]]:
    """By how many rows and columns a decoder's small and large source are continued."""
    once, twice = ([width * goes_round for goes_round in wraps] for width in (1, 2))
    return once, twice


class Stage(nn.Module):
    """On (features, mask) pairs.

    Args:
        conv: the level's convolution, partial or plain.
        norm: whether batch norm follows.
        activation: nn.ReLU, nn.LeakyReLU or None.
        composed: whether a decoder's stage doubles and joins, then convolves; else it runs as one operator.
        wraps: whether rows and columns go round.
    """

    def __init__(
        self,
        conv: nn.Conv2d,
        *,
        norm: bool,
        activation: nn.Module | None,
        composed: bool = False,
        wraps: Wraps = (False, False),
    ) -> None:
        super().__init__()
        self.conv = conv
        self.norm = nn.BatchNorm2d(conv.out_channels) if norm else nn.Identity()
        self.activation = activation if activation is not None else nn.Identity()
        self.composed, self.wraps = composed, wraps

    def encode(self, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """One level down. A plain convolution returns the mask unchanged (unused)."""
        conv = self.conv
        if isinstance(conv, PartialConv2d):
            window = pair("stride", conv.stride, 1), pair("padding", conv.padding, 0)
            x, mask = down(x, mask, conv.weight, conv.bias, *window, wraps=self.wraps)
        elif any(self.wraps):
            x, _, padding = entering(x, mask, self.wraps, pair("padding", conv.padding, 0))
            x = F.conv2d(x, conv.weight, conv.bias, conv.stride, padding)
        else:
            x = conv(x)
        return self.activation(self.norm(x)), mask

    def decode(self, low: Tensor, low_mask: Tensor, skip: Tensor, skip_mask: Tensor) -> tuple[Tensor, Tensor]:
        """One level up: [doubled | skip], each block of channels with its own mask."""
        conv = self.conv
        if isinstance(conv, PartialConvUpCat2d):
            parameters = conv.weight, conv.bias, None, 1.0, self.composed, self.wraps
            x, mask = up(low, low_mask, skip, skip_mask, *parameters)
        else:
            once, twice = widths(self.wraps)
            doubled = F.interpolate(around(low, once), scale_factor=2, mode="nearest")
            x, mask = within(conv(torch.cat((doubled, around(skip, twice)), dim=1)), twice), skip_mask
        return self.activation(self.norm(x)), mask
