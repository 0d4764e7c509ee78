"""One level of the U-Net: convolution, batch norm and activation."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pconv_cuda import reference
from pconv_cuda.checks import pair
from pconv_cuda.functional import partial_conv2d, partial_conv2d_sources, partial_conv2d_upcat
from pconv_cuda.models.wrap import Wraps, around, entering, within
from pconv_cuda.nn import PartialConv2d, PartialConvUpCat2d

__all__ = ["Stage"]


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
            x, mask, padding = entering(x, mask, self.wraps, pair("padding", conv.padding, 0))
            x, mask = partial_conv2d(x, mask, conv.weight, conv.bias, conv.stride, padding)
        elif any(self.wraps):
            x, _, padding = entering(x, mask, self.wraps, pair("padding", conv.padding, 0))
            x = F.conv2d(x, conv.weight, conv.bias, conv.stride, padding)
        else:
            x = conv(x)
        return self.activation(self.norm(x)), mask

    def decode(self, low: Tensor, low_mask: Tensor, skip: Tensor, skip_mask: Tensor) -> tuple[Tensor, Tensor]:
        """One level up: [doubled | skip], each block of channels with its own mask."""
        if not any(self.wraps):
            x, mask = self._convolved(low, low_mask, skip, skip_mask)
        else:
            once, twice = ([width * goes_round for goes_round in self.wraps] for width in (1, 2))
            small, large = (around(low, once), around(low_mask, once)), (around(skip, twice), around(skip_mask, twice))
            x, mask = (within(each, twice) for each in self._convolved(*small, *large))
        return self.activation(self.norm(x)), mask

    def _convolved(self, low: Tensor, low_mask: Tensor, skip: Tensor, skip_mask: Tensor) -> tuple[Tensor, Tensor]:
        conv = self.conv
        if not isinstance(conv, PartialConvUpCat2d):
            up = F.interpolate(low, scale_factor=2, mode="nearest")
            return conv(torch.cat((up, skip), dim=1)), skip_mask
        # A picture may have a mask for each of its channels: the stage's operator has not.
        if not self.composed and skip_mask.shape[1] == 1:
            return partial_conv2d_upcat(low, low_mask, skip, skip_mask, conv.weight, conv.bias)
        up, masks = F.interpolate(low, scale_factor=2, mode="nearest"), (reference.doubled(low_mask), skip_mask)
        return partial_conv2d_sources((up, skip), masks, conv.weight, conv.bias, padding=1)
