"""What people run today, written down again from its arithmetic: the unfused layers that we are compared with.

None of them is the truth (that is pconv_cuda.reference); they are here to be timed.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from pconv_cuda import PConvUNet


def plain(x: Tensor, mask: Tensor, weight: Tensor, bias: Tensor | None, stride: int, padding: int) -> Tensor:
    """The plain convolution of the same shape: the floor, not a rival."""
    return F.conv2d(x, weight, bias, stride, padding)


def floor(x: Tensor, mask: Tensor, weight: Tensor, bias: Tensor | None, stride: int, padding: int) -> Tensor:
    """The least that passes around a library's convolution cost: one masked copy, one pass in place. Wrong result."""
    return F.conv2d(torch.where(mask, x, 0.0), weight, bias, stride, padding).mul_(1.0)


def unfused_full(x: Tensor, mask: Tensor, weight: Tensor, bias: Tensor | None, stride: int, padding: int) -> Tensor:
    """The layer as NVIDIA published it: a full-channel mask, convolved with ones; the bias taken off and put back."""
    return published(x, mask.to(x.dtype).expand_as(x).contiguous(), weight, bias, stride, padding)[0]


def published(
    x: Tensor, full_mask: Tensor, weight: Tensor, bias: Tensor | None, stride: int, padding: int
) -> tuple[Tensor, Tensor]:
    """That layer with both its results: the output and a new mask of every channel, floating."""
    with torch.no_grad():
        count = F.conv2d(full_mask, torch.ones_like(weight), None, stride, padding)
        alive = count.clamp(0, 1)
        ratio = weight[0].numel() / (count + 1e-8) * alive
    return _renormalised(F.conv2d(x * full_mask, weight, bias, stride, padding), ratio, alive, bias), alive


def published_network(model: PConvUNet, image: Tensor, mask: Tensor) -> Tensor:
    """The U-Net as the published trainers run it: masks of every channel, doubled, joined and convolved as images are.

    With the parameters of ``model``; sizes have to halve evenly.
    """
    features = [(image, mask.to(image.dtype).expand_as(image).contiguous())]
    for stage in model.encoder:
        conv = stage.conv
        x, m = published(*features[-1], conv.weight, conv.bias, conv.stride[0], conv.padding[0])
        features.append((stage.activation(stage.norm(x)), m))
    x, m = features.pop()
    for stage in model.decoder:
        skip, skip_mask = features.pop()
        x, m = (F.interpolate(each, scale_factor=2, mode="nearest") for each in (x, m))
        joined = torch.cat((x, skip), dim=1), torch.cat((m, skip_mask), dim=1)
        x, m = published(*joined, stage.conv.weight, stage.conv.bias, 1, 1)
        x = stage.activation(stage.norm(x))
    return x


def unfused_single(x: Tensor, mask: Tensor, weight: Tensor, bias: Tensor | None, stride: int, padding: int) -> Tensor:
    """The same with a mask of one channel, as its authors' default has it."""
    single = mask.to(x.dtype)
    with torch.no_grad():
        window = weight.new_ones(1, 1, *weight.shape[2:])
        count = F.conv2d(single, window, None, stride, padding)
        alive = count.clamp(0, 1)
        ratio = window.numel() / (count + 1e-8) * alive
    return _renormalised(F.conv2d(x * single, weight, bias, stride, padding), ratio, alive, bias)


def _renormalised(raw: Tensor, ratio: Tensor, alive: Tensor, bias: Tensor | None) -> Tensor:
    if bias is None:
        return raw * ratio
    column = bias.view(1, -1, 1, 1)
    return ((raw - column) * ratio + column) * alive
