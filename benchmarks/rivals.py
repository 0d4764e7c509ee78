"""Published implementations, rewritten from their arithmetic: the unfused layers that we compare with.

They are timed, not used as the truth (pconv_cuda.reference is).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pconv_cuda import InpaintingLoss, PConvUNet
from pconv_cuda.losses import gram_matrix, total_variation


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
        new_mask = count.clamp(0, 1)
        ratio = weight[0].numel() / (count + 1e-8) * new_mask
    return _renormalised(F.conv2d(x * full_mask, weight, bias, stride, padding), ratio, new_mask, bias), new_mask


def stock(x: Tensor, mask: Tensor, weight: Tensor, bias: Tensor | None, stride: int, padding: int) -> Tensor:
    """The best that stock operators do: a mask of one channel, a select, exact counts by a box sum."""
    with torch.no_grad():
        count = box_count(mask, tuple(weight.shape[2:]), stride, padding)
        ratio = torch.where(count > 0, weight[0, 0].numel() / count, 0.0).to(x.dtype)
    return _with_bias(F.conv2d(torch.where(mask, x, 0.0), weight, None, stride, padding) * ratio, count, bias)


def stock_stage(low: Tensor, low_mask: Tensor, skip: Tensor, skip_mask: Tensor, weight: Tensor, bias: Tensor | None):
    """The same for a decoder's stage: each source has its mask of one channel, counts are weighed by channels."""
    up_mask = F.interpolate(low_mask.float(), scale_factor=2, mode="nearest")
    with torch.no_grad():
        count = low.shape[1] * box_count(up_mask, (3, 3), 1, 1) + skip.shape[1] * box_count(skip_mask, (3, 3), 1, 1)
        ratio = torch.where(count > 0, weight[0].numel() / count, 0.0).to(low.dtype)
    # The select commutes with the doubling: a quarter of the pixels.
    up = F.interpolate(torch.where(low_mask, low, 0.0), scale_factor=2, mode="nearest")
    joined = torch.cat((up, torch.where(skip_mask, skip, 0.0)), dim=1)
    return _with_bias(F.conv2d(joined, weight, None, 1, 1) * ratio, count, bias)


def box_count(mask: Tensor, window: tuple[int, ...], stride: int, padding: int) -> Tensor:
    """Valid pixels of each window as floats, exact: (N, 1, P, Q)."""
    ones = torch.ones(1, 1, *window, device=mask.device)
    return F.conv2d(mask.float(), ones, None, stride, padding)


def _with_bias(y: Tensor, count: Tensor, bias: Tensor | None) -> Tensor:
    return y if bias is None else y + torch.where(count > 0, bias.view(1, -1, 1, 1), 0.0).to(y.dtype)


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


def usual_loss(loss: InpaintingLoss, mask: Tensor, output: Tensor, truth: Tensor) -> dict[str, Tensor]:
    """The six terms as popular trainers compute them: products with the mask, VGG16 run three times, NCHW."""
    assert loss.features is not None
    m = mask.to(output.dtype).expand_as(output)
    composite = m * truth + (1 - m) * output
    terms = {
        "valid": (m * (output - truth)).abs().mean(),
        "hole": ((1 - m) * (output - truth)).abs().mean(),
        "perceptual": output.new_zeros(()), "style_out": output.new_zeros(()), "style_comp": output.new_zeros(()),
        "tv": total_variation(composite, ~mask),
    }  # fmt: skip

    def features(x: Tensor) -> list[Tensor]:  # VGG16Features itself would turn the picture to channels_last
        found = []
        for layer in loss.features.features:
            x = layer(x)
            if isinstance(layer, nn.MaxPool2d):
                found.append(x)
        return found

    for out, comp, true in zip(features(output), features(composite), features(truth), strict=True):
        terms["perceptual"] = terms["perceptual"] + F.l1_loss(out, true) + F.l1_loss(comp, true)
        terms["style_out"] = terms["style_out"] + F.l1_loss(gram_matrix(out), gram_matrix(true))
        terms["style_comp"] = terms["style_comp"] + F.l1_loss(gram_matrix(comp), gram_matrix(true))
    return {name: weight * terms[name] for name, weight in loss.weights.items()}


def unfused_single(x: Tensor, mask: Tensor, weight: Tensor, bias: Tensor | None, stride: int, padding: int) -> Tensor:
    """The same with a mask of one channel, as its authors' default has it."""
    single = mask.to(x.dtype)
    with torch.no_grad():
        window = weight.new_ones(1, 1, *weight.shape[2:])
        count = F.conv2d(single, window, None, stride, padding)
        new_mask = count.clamp(0, 1)
        ratio = window.numel() / (count + 1e-8) * new_mask
    return _renormalised(F.conv2d(x * single, weight, bias, stride, padding), ratio, new_mask, bias)


def _renormalised(raw: Tensor, ratio: Tensor, new_mask: Tensor, bias: Tensor | None) -> Tensor:
    if bias is None:
        return raw * ratio
    column = bias.view(1, -1, 1, 1)
    return ((raw - column) * ratio + column) * new_mask
