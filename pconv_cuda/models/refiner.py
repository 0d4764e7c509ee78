"""A small network that adds to the smooth fill, from full resolution down and back."""

from __future__ import annotations

from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pconv_cuda.checks import as_valid, checked_mask, padded_mask
from pconv_cuda.functional import STAGE_WINDOW, apply
from pconv_cuda.models.base import InpaintingNetwork, initialise
from pconv_cuda.models.options import checked_sizes
from pconv_cuda.models.prefill import filled
from pconv_cuda.models.wrap import Mode, continued, missing_to_multiple
from pconv_cuda.smooth import TENSION

__all__ = ["FillRefiner"]

_SLOPE = 0.1  # of the LeakyReLU


class FillRefiner(InpaintingNetwork):
    """The smooth fill, and what a small network adds to it.

    A residual U-Net without normalisation layers. Where the paper's network has one convolution at full resolution,
    this one has ``2 * layers``: that is where a small budget is best spent (docs/training.md). It sees detail, the
    filled picture less a blur of it, and has no biases: brightness has no influence on its answer. The last convolution
    begins at 0, so that an untrained network returns the smooth fill. Valid pixels come back to the bit.

    Args:
        in_channels: channels of the picture, in and out.
        levels: sizes at which it works; every one after the first is half the size before.
        width: channels at full size; they double three times and then stay.
        layers: 3x3 convolutions at each size on the way down, and again on the way up.
        blur: radius in px of the blur, a box twice.
        conv: of the first layer, the only one that knows of holes. ``"plain"``: a convolution of the filled picture's
            detail and the mask as one more channel. ``"partial"``: a partial convolution of two sources, the detail of
            the valid pixels under the mask and that of the filled picture; contrast scales the network's answer.
        mean, std: of each channel, for :meth:`normalize`. Default: ImageNet's for three channels, their averages else.
        prefill: ``"smooth"``.
        padding_mode: ``"zeros"``, ``"circular"``, or one for rows and one for columns: what goes round is continued by
            as far as the network sees, at most by half its length, at either side.
        values, tension: as of :class:`PConvUNet`.
    """

    kind = "refiner"

    def __init__(
        self,
        in_channels: int = 3,
        levels: int = 3,
        width: int = 24,
        layers: int = 2,
        blur: int = 8,
        conv: str = "plain",
        *,
        mean: tuple[float, ...] | None = None,
        std: tuple[float, ...] | None = None,
        prefill: str = "smooth",
        padding_mode: Mode = "zeros",
        values: str = "picture",
        tension: float = TENSION,
    ) -> None:
        super().__init__(in_channels, mean, std, padding_mode=padding_mode, values=values, tension=tension)
        in_channels = self.in_channels
        levels, width, layers, blur = checked_sizes(levels=levels, width=width, layers=layers, blur=blur)
        if conv not in ("partial", "plain"):
            raise ValueError(f"conv: expected 'partial' or 'plain', got {conv!r}")
        if prefill != "smooth":
            raise ValueError(f"prefill: expected 'smooth', got {prefill!r}")
        self.levels, self.width, self.layers, self.blur = levels, width, layers, blur
        self.conv, self.prefill = conv, prefill
        widths = [width * min(2**level, 8) for level in range(levels)]

        def same(channels: int, out: int, stride: int = 1) -> nn.Conv2d:
            return nn.Conv2d(channels, out, 3, stride, 1, bias=False)

        def more(channels: int) -> list[nn.Conv2d]:
            return [same(channels, channels) for _ in range(layers - 1)]

        first = same(2 * in_channels if conv == "partial" else in_channels + 1, width)
        self.down = nn.ModuleList([nn.ModuleList([first, *more(width)])])
        for before, after in zip(widths, widths[1:], strict=False):
            self.down.append(nn.ModuleList([same(before, after, 2), *more(after)]))
        self.up = nn.ModuleList(
            nn.ModuleList([same(low + skip, skip), *more(skip)])
            for low, skip in reversed(list(zip(widths[1:], widths, strict=False)))
        )
        self.last = same(width, in_channels)
        initialise(self, _SLOPE)
        nn.init.zeros_(self.last.weight)

    @property
    def config(self) -> dict[str, Any]:
        names = [
            "in_channels",
            "levels",
            "width",
            "layers",
            "blur",
            "conv",
            "mean",
            "std",
            "prefill",
            *self._rare_options(),
        ]
        return {"network": self.kind, **{name: getattr(self, name) for name in names}}

    @property
    def bytes_per_pixel(self) -> int:
        return 26 * self.width + 100  # seen: 696 with width 24, 480 with 16, both of 4 levels

    @property
    def grid(self) -> int:
        return 2 ** (self.levels - 1)

    @property
    def mask_reach(self) -> int:
        return 2 ** (self.levels + 1) + 4  # no hole is too wide: it decides alone which holes share a box

    @property
    def context(self) -> int:
        more, deepest = self.layers - 1, self.levels - 1
        down = self.layers + sum(2 ** (level - 1) + more * 2**level for level in range(1, self.levels))
        up = self.layers * (2**deepest - 1)
        # one more for the last layer; doubling and halving shift by up to a pixel of each level
        return down + up + 1 + 2**deepest - 1 + 2 * self.blur

    def forward(self, image: Tensor, mask: Tensor | None = None, fill: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Fill the holes of a batch.

        Args:
            image: ``(N, C, H, W)``, normalised (:meth:`normalize`), any H and W from 1 on; what lies in holes is
                not read.
            mask: ``(N|1, 1, H, W)``, bool, uint8 or floating: 1 is valid, 0 is a hole. None: all valid.
            fill: the smooth fill ``(N, C, H, W)``, where it is known already (of a larger picture).

        Returns:
            ``(output, new_mask)``: ``(N, C, H, W)``, still normalised, the image itself where it is valid; and a bool
            ``(N, 1, H, W)``, 1 everywhere.

        Raises:
            ValueError: an image of another shape, channel count or device, a mask or fill that does not fit it; a
                picture without a valid pixel.
            TypeError: an image of another dtype than the parameters, outside of autocast; a mask of another dtype.
        """
        valid = self._checked(image, mask)
        fill = filled(self.prefill, image, valid, fill, self.wraps, self.tension)
        assert fill is not None
        height, width = fill.shape[2:]
        (start, seen), (top, left) = continued((fill, valid), self.wraps, self.context, 1)
        start = start.contiguous(memory_format=_layout(start))
        answer = self._answer(start - _blurred(start, self.blur), seen.expand(len(image), -1, -1, -1))
        answer = answer[..., top : top + height, left : left + width]
        output = torch.where(valid, image, fill + answer)
        return output, torch.ones_like(output[:, :1], dtype=torch.bool)

    def _checked(self, image: Tensor, mask: Tensor | None) -> Tensor:
        """The mask as bool ``(N|1, 1, H, W)``, both arguments checked."""
        self._check_image(image, self.last.weight)
        if mask is None:
            return image.new_ones((1, 1, *image.shape[2:]), dtype=torch.bool)
        valid = checked_mask(mask, image)
        if valid.shape[1] != 1:
            n, _, height, width = image.shape
            raise ValueError(f"mask: expected ({n}|1, 1, {height}, {width}), got {tuple(mask.shape)}")
        return as_valid(valid)

    def _answer(self, detail: Tensor, valid: Tensor) -> Tensor:
        """What is added to the fill, for every pixel."""
        # any size: zeros are added below and right until every level halves evenly, and cut off again
        height, width = detail.shape[2:]
        extra = (0, missing_to_multiple(width, self.grid), 0, missing_to_multiple(height, self.grid))
        if extra != (0, 0, 0, 0):
            detail, valid = F.pad(detail, extra), padded_mask(valid, extra)
        x = self._first(detail, valid)
        skips = []
        for number, block in enumerate(cast("list[nn.ModuleList]", self.down)):
            x = _block(block, x if number == 0 else _layer(block[0], x))
            skips.append(x)
        skips.pop()
        for block in cast("list[nn.ModuleList]", self.up):
            x = _block(block, _layer(block[0], torch.cat([F.interpolate(x, scale_factor=2), skips.pop()], 1)))
        return cast(Tensor, self.last(x))[..., :height, :width]

    def _first(self, detail: Tensor, valid: Tensor) -> Tensor:
        """The only layer that sees the mask."""
        layer = cast(nn.Conv2d, cast(nn.ModuleList, self.down[0])[0])
        if self.conv == "plain":
            x = torch.cat([detail, valid.to(detail)], 1)
            return _layer(layer, x.contiguous(memory_format=_layout(x)))
        x, _ = apply(detail, valid, layer.weight, None, *STAGE_WINDOW, detail, None)
        return F.leaky_relu(x, _SLOPE)

    def extra_repr(self) -> str:
        names = ["in_channels", "levels", "width", "layers", "blur", "conv", *self._rare_options()]
        return ", ".join(f"{name}={getattr(self, name)!r}" for name in names)


def _layout(x: Tensor) -> torch.memory_format:
    """CPU libraries take two thirds of the time for so few channels where they lie side by side, GPUs somewhat more."""
    return torch.channels_last if x.device.type == "cpu" else torch.contiguous_format


def _blurred(x: Tensor, radius: int) -> Tensor:
    """Box means over ``2 * radius + 1`` px, twice; beyond the border there is nothing."""
    taps, channels = 2 * radius + 1, x.shape[1]
    # In float32 at least: sums of half types are coarse, and depthwise convolutions of theirs take minutes on a CPU.
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    with torch.autocast(x.device.type, enabled=False):
        boxes = []
        for shape, padding in (((taps, 1), (radius, 0)), ((1, taps), (0, radius))):
            one = wide.new_ones((1, 1, *shape))
            sides = [side if tap > 1 else 1 for side, tap in zip(x.shape[2:], shape, strict=True)]
            line = wide.new_ones((1, 1, *sides))
            boxes.append((one.expand(channels, -1, -1, -1), padding, F.conv2d(line, one, padding=padding)))
        for kernel, padding, count in 2 * boxes:
            # depthwise convolution, which takes a fifth of avg_pool2d's time on a CPU
            wide = F.conv2d(wide, kernel, padding=padding, groups=channels) / count
    return wide.to(x.dtype)


def _layer(conv: nn.Module, x: Tensor) -> Tensor:
    return F.leaky_relu(conv(x), _SLOPE, inplace=True)


def _block(block: nn.ModuleList, x: Tensor) -> Tensor:
    """The layers after a block's first one; each adds to what it is given."""
    for layer in block[1:]:
        x = x + _layer(layer, x)
    return x
