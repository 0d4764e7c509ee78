"""Twins of the networks in operators that every exporter knows: for inference, with pictures in [0, 1] in and out."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pconv_cuda.errors import PConvError
from pconv_cuda.export.plain_fill import PlainSmoothFill
from pconv_cuda.models import FillRefiner, InpaintingNetwork, PConvUNet
from pconv_cuda.models.fused import FusedStage
from pconv_cuda.models.options import IMAGENET_MEAN, IMAGENET_STD, per_channel
from pconv_cuda.models.stage import Stage

__all__ = ["PlainNetwork", "plain_twin"]

_SLOPE = 0.1  # of FillRefiner's LeakyReLU


class PlainNetwork(nn.Module):
    """``forward(image, mask) -> (output, new_mask)``, all float32.

    ``image`` is (N, C, H, W) in [0, 1], ``mask`` (N, 1, H, W), 1 where the picture is valid and 0 in holes, where
    nothing is read. ``output`` is the picture where it is valid and the network's answer in holes, in [0, 1];
    ``new_mask`` (N, 1, H, W) is 0 where there is no answer, as the hole is too wide: there the output is 0.

    Args:
        mean, std: of each channel, as the network's.
        half: whether the network's weights and features are float16; a smooth fill stays float32.
    """

    def __init__(self, mean: Sequence[float], std: Sequence[float], half: bool) -> None:
        super().__init__()
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.tensor(mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(-1, 1, 1), persistent=False)
        self.kind = torch.float16 if half else torch.float32
        self.fill: PlainSmoothFill | None = None

    def answer(self, image: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """For a normalised picture whose holes are 0: a normalised picture and its mask."""
        raise NotImplementedError

    def filled(self, image: Tensor, mask: Tensor) -> Tensor:
        """The smooth fill within the range of pictures, as pconv_cuda.inpaint gives it to a network."""
        assert self.fill is not None
        colours = self.fill(image, mask) * self.std + self.mean
        return (colours.clamp(0, 1) - self.mean) / self.std

    def forward(self, image: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        normal = torch.where(mask > 0, (image - self.mean) / self.std, 0.0)
        output, new_mask = self.answer(normal, mask)
        colours = torch.where(new_mask > 0, (output * self.std + self.mean).clamp(0, 1), 0.0)
        return torch.where(mask > 0, image, colours), new_mask


def plain_twin(model: InpaintingNetwork | None, half: bool = False) -> PlainNetwork:
    """The twin of a network, which is not changed; of None, the smooth fill of pictures with three channels.

    Raises:
        PConvError: a network of another class, or one that is not for pictures.
    """
    if model is None:
        return _Fill()
    if isinstance(model, InpaintingNetwork) and model.not_for_pictures:
        raise PConvError(
            f"model: expected a network for pictures, in and out, got one with {model.not_for_pictures}, which "
            "the export does not know"
        )
    if isinstance(model, PConvUNet):
        return _UNet(model, half)
    if isinstance(model, FillRefiner):
        return _Refiner(model, half)
    raise PConvError(f"model: expected a PConvUNet or a FillRefiner, got {type(model).__name__}")


class _Fill(PlainNetwork):
    def __init__(self) -> None:
        mean, std = (per_channel("", None, each, 3) for each in (IMAGENET_MEAN, IMAGENET_STD))
        super().__init__(mean, std, half=False)
        self.fill = PlainSmoothFill(3)

    def answer(self, image: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        return self.filled(image, mask), torch.ones_like(mask)


class _Partial(nn.Module):
    """A partial convolution of several sources, each with a mask of one channel, and what follows it."""

    def __init__(self, channels: Sequence[int], weight: Tensor, bias: Tensor | None, stride: int, slope: float) -> None:
        super().__init__()
        self.weight, self.bias, self.weigh = (
            nn.Parameter(each, requires_grad=False)
            for each in (
                weight.detach().clone().contiguous(),
                (weight.new_zeros(len(weight)) if bias is None else bias.detach().clone()).view(-1, 1, 1).float(),
                # a valid pixel counts once for each channel of its source
                torch.tensor(channels, dtype=torch.float32).view(1, -1, 1, 1).repeat(1, 1, *weight.shape[2:]),
            )
        )
        self.stride, self.slope = stride, slope
        self.padding = tuple(side // 2 for side in weight.shape[2:])
        self.full = float(weight[0].numel())

    def forward(self, *sources: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        features = torch.cat([torch.where(mask > 0, x, 0.0) for x, mask in sources], 1)
        where: dict[str, Any] = {"stride": self.stride, "padding": self.padding}
        count = F.conv2d(torch.cat([mask for _, mask in sources], 1), self.weigh, **where)
        seen = count > 0.5
        ratio = torch.where(seen, self.full / count.clamp(min=1), 0.0)
        x = F.conv2d(features, self.weight, **where).float() * ratio + self.bias  # counts are no half numbers
        if self.slope != 1:
            x = F.leaky_relu(x, self.slope) if self.slope else F.relu(x)
        return x.to(self.weight.dtype), seen.float()


class _UNet(PlainNetwork):
    def __init__(self, model: PConvUNet, half: bool) -> None:
        super().__init__(model.mean, model.std, half)
        model = copy.deepcopy(model).cpu().float().eval()
        self.partial, self.step = model.conv == "partial", model.grid
        self.fill = PlainSmoothFill(model.in_channels) if model.prefill else None
        stages = [cast(Stage, stage) for stage in (*model.encoder, *model.decoder)]
        self.levels = model.levels
        if self.partial:
            self.stages = nn.ModuleList(_folded(stage, 2 if i < self.levels else 1) for i, stage in enumerate(stages))
        else:
            self.stages = nn.ModuleList(nn.Sequential(each.conv, each.norm, each.activation) for each in stages)
        self.head = model.head_conv if model.head else None
        for module in (self.head, *(each if not self.partial else None for each in self.stages)):
            if module is not None:
                module.to(self.kind)
        for each in self.stages:
            if isinstance(each, _Partial):
                each.weight.data = each.weight.data.to(self.kind)

    def answer(self, image: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        height, width = image.shape[-2:]
        fill = None if self.fill is None else self.filled(image, mask)
        if not self.partial and fill is not None:
            image = fill
        image, given = _padded(image.to(self.kind), self.step), _padded(mask, self.step)
        features, x, valid = [(image, given)], image, given
        for stage in self.stages[: self.levels]:
            x, valid = stage((x, valid)) if self.partial else (stage(x), valid)
            features.append((x, valid))
        features.pop()
        for stage in self.stages[self.levels :]:
            skip, skip_valid = features.pop()
            x = F.interpolate(x, scale_factor=2, mode="nearest")
            if self.partial:
                valid = F.interpolate(valid, scale_factor=2, mode="nearest")
                x, valid = stage((x, valid), (skip, skip_valid))
            else:
                x = stage(torch.cat([x, skip], 1))
        if self.head is not None:
            x = torch.sigmoid(self.head(x))
        x = x.float()[..., :height, :width]
        valid = valid[..., :height, :width] if self.partial else torch.ones_like(mask)
        x = torch.where(valid > 0, x, 0.0)
        return (x, valid) if fill is None else (fill + x, torch.ones_like(mask))


def _folded(stage: Stage, stride: int) -> _Partial:
    """A stage with its batch norm in weight and bias."""
    folded = FusedStage(stage)
    low = getattr(stage.conv, "low_channels", None)
    channels = [stage.conv.in_channels] if low is None else [low, stage.conv.in_channels - low]
    return _Partial(channels, folded.weight, folded.bias, stride, folded.negative_slope)


class _Refiner(PlainNetwork):
    def __init__(self, model: FillRefiner, half: bool) -> None:
        super().__init__(model.mean, model.std, half)
        model = copy.deepcopy(model).cpu().float().eval()
        self.fill = PlainSmoothFill(model.in_channels)
        self.step, self.radius = model.grid, model.blur
        first = cast(nn.Conv2d, cast(nn.ModuleList, model.down[0])[0]).weight
        channels = [model.in_channels] * 2
        self.first = _Partial(channels, first, None, 1, _SLOPE) if model.conv == "partial" else None
        self.down, self.up, self.last = model.down.to(self.kind), model.up.to(self.kind), model.last.to(self.kind)
        if self.first is not None:
            self.first.weight.data = self.first.weight.data.to(self.kind)
        box = torch.ones(model.in_channels, 1, 2 * self.radius + 1, 1)
        self.box: Tensor
        self.register_buffer("box", box, persistent=False)

    def answer(self, image: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        fill = self.filled(image, mask)
        height, width = image.shape[-2:]
        detail = _padded(fill - self._blurred(fill), self.step).to(self.kind)
        valid = _padded(mask, self.step)
        x = self._first(detail, valid)
        skips: list[Tensor] = []
        for number, block in enumerate(cast("list[nn.ModuleList]", self.down)):
            x = _block(block, x if number == 0 else _layer(block[0], x))
            skips.append(x)
        skips.pop()
        for block in cast("list[nn.ModuleList]", self.up):
            joined = torch.cat([F.interpolate(x, scale_factor=2, mode="nearest"), skips.pop()], 1)
            x = _block(block, _layer(block[0], joined))
        return fill + self.last(x).float()[..., :height, :width], torch.ones_like(mask)

    def _first(self, detail: Tensor, valid: Tensor) -> Tensor:
        if self.first is None:
            layer = cast(nn.ModuleList, self.down[0])[0]
            return _layer(layer, torch.cat([detail, valid.to(self.kind)], 1))
        # the filled picture's detail has no holes, but there is nothing beyond its border
        return self.first((detail, valid), (detail, torch.ones_like(valid)))[0]

    def _blurred(self, x: Tensor) -> Tensor:
        """Box means, twice; beyond the border there is nothing."""
        ones = torch.ones_like(x[:1, :1])
        lines = self.box, self.box.transpose(2, 3)
        for line in (*lines, *lines):
            padding = (self.radius, 0) if line is lines[0] else (0, self.radius)
            x = F.conv2d(x, line, padding=padding, groups=len(line)) / F.conv2d(ones, line[:1], padding=padding)
        return x


def _layer(conv: nn.Module, x: Tensor) -> Tensor:
    return F.leaky_relu(conv(x), _SLOPE)


def _block(block: nn.ModuleList, x: Tensor) -> Tensor:
    for layer in list(block)[1:]:
        x = x + _layer(layer, x)
    return x


def _padded(x: Tensor, step: int) -> Tensor:
    """Zeros below and right until every level halves evenly."""
    height, width = x.shape[-2:]
    wide, high = (width + step - 1) // step * step, (height + step - 1) // step * step
    return F.pad(x, (0, wide - width, 0, high - height))
