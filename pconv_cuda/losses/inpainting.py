"""The paper's loss of six terms (Liu et al. 2018, section 3.3, equations 3 to 7)."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pconv_cuda.checks import as_valid, check_binary, check_tensor
from pconv_cuda.losses.vgg import VGG16Features

__all__ = ["PRESETS", "InpaintingLoss", "Preset", "gram_matrix", "total_variation"]


@dataclass(frozen=True)
class Preset:
    """Weights of the terms, and where the total variation is taken: ``"hole"`` or everywhere (``"image"``)."""

    weights: Mapping[str, float]
    tv_region: str


PRESETS: dict[str, Preset] = {
    "paper": Preset(
        {"valid": 1, "hole": 6, "perceptual": 0.05, "style_out": 120, "style_comp": 120, "tv": 0.1}, "hole"
    ),
    # the weights of bobqywei/inpainting-partial-conv: 240 on each style term, TV over the whole composite
    "bobqywei": Preset(
        {"valid": 1, "hole": 6, "perceptual": 0.05, "style_out": 240, "style_comp": 240, "tv": 2}, "image"
    ),
}
"""Presets by name: ``"paper"``, and ``"bobqywei"``, the weights of that repository."""
_ALIASES = {"review": "bobqywei"}  # former names
_FEATURE_TERMS = ("perceptual", "style_out", "style_comp")


class InpaintingLoss(nn.Module):
    """Weighted terms ``valid, hole, perceptual, style_out, style_comp, tv``; their sum is the objective.

    Every norm is averaged over all of its elements (the author's "size-averaged"). With M the mask and
    I_comp = select(M, I_gt, I_out):

        valid       mean |M (I_out - I_gt)|
        hole        mean |(1 - M) (I_out - I_gt)|
        perceptual  sum over pool1..3 of mean |Psi(I_out) - Psi(I_gt)| + mean |Psi(I_comp) - Psi(I_gt)|
        style_*     sum over pool1..3 of mean |G(I_*) - G(I_gt)|, G the Gram matrix / (C H W), in fp32
        tv          see :func:`total_variation`

    A truth that has gaps of its own, as measurements have, takes ``target_mask`` beside it: nothing is asked of the
    output where the truth is unknown. There it stands for the truth in the features, without a gradient, I_comp is the
    output, and ``valid`` and ``hole`` are averaged over what is known.

    Args:
        preset: ``"paper"``, or ``"bobqywei"`` for that repository's weights (:data:`PRESETS`).
        vgg: ``"imagenet"`` (torchvision's weights), a path to a local file or its state dict, ``"random"`` (tests
            only), or ``"none"``: then the three terms that need features are left out, as with other than three
            channels, where one warning says so.
        weights: replaces single weights of the preset, by term; finite, at least 0.

    Raises:
        ValueError: an unknown preset or term, or a weight that is not a finite number of at least 0.
        TypeError: ``vgg`` of another type.
        PConvError: VGG weights that cannot be had; the message says both ways to get them.
    """

    def __init__(
        self,
        preset: str = "paper",
        vgg: str | Path | Mapping[str, Tensor] = "imagenet",
        *,
        weights: Mapping[str, float] | None = None,
    ) -> None:
        super().__init__()
        preset = _ALIASES.get(preset, preset)
        if preset not in PRESETS:
            raise ValueError(f"preset: expected one of {', '.join(PRESETS)}, got {preset!r}")
        chosen = dict(PRESETS[preset].weights)
        if unknown := set(weights or ()) - set(chosen):
            raise ValueError(f"weights: expected terms out of {', '.join(chosen)}, got {', '.join(sorted(unknown))}")
        for term, weight in (weights or {}).items():
            chosen[term] = _as_weight(term, weight)
        self.tv_region = PRESETS[preset].tv_region
        self.features = None if vgg == "none" else VGG16Features(vgg)
        if self.features is None:
            chosen = {term: weight for term, weight in chosen.items() if term not in _FEATURE_TERMS}
        self.weights = chosen
        self._said = False

    def forward(
        self, input: Tensor, mask: Tensor, output: Tensor, ground_truth: Tensor, target_mask: Tensor | None = None
    ) -> dict[str, Tensor]:
        """The weighted terms, each a scalar.

        Args:
            input: ``(N, C, H, W)``, the picture with holes; its valid pixels are the ground truth's, so that it
                is not used. It is an argument because other implementations of the loss have it.
            mask: ``(N|1, 1|C, H, W)`` or ``(1|C, H, W)``, bool, uint8 or floating: 1 is valid.
            output: ``(N, C, H, W)``, the network's, with a graph.
            ground_truth: ``(N, C, H, W)``. All three normalised by the ImageNet mean and std.
            target_mask: where the truth is known, as ``mask``; what lies elsewhere, NaN included, is not looked at.
                None: everywhere.

        Raises:
            ValueError: shapes that differ, a mask that does not fit, a ``target_mask`` without a known value.
            TypeError: pictures of another dtype than VGG16's weights, outside autocast; a mask that is no tensor.
        """
        for name, tensor in (("input", input), ("ground_truth", ground_truth)):
            if tensor.shape != output.shape:
                raise ValueError(
                    f"{name}: expected the output's shape {tuple(output.shape)}, got {tuple(tensor.shape)}"
                )
        _, c, h, w = output.shape
        valid = _fitting("mask", mask, output)
        features = self._features_for(c)
        if features is not None and min(h, w) < 8:
            raise ValueError(f"output: VGG16 needs (N, 3, H, W) of at least 8 x 8 pixels, got {tuple(output.shape)}")
        if features is not None:
            if ground_truth.dtype != output.dtype:
                features.check_dtype("ground_truth", ground_truth.dtype, output.device.type)
            # the composite has the wider dtype of both
            features.check_dtype("output", torch.promote_types(output.dtype, ground_truth.dtype), output.device.type)
        ground_truth, given = ground_truth.detach(), valid
        scale: float | Tensor = 1.0
        if target_mask is not None:
            known = _fitting("target_mask", target_mask, output)
            share = known.expand_as(output).float().mean()
            if not torch.compiler.is_compiling() and not bool(share > 0):
                raise ValueError("target_mask: expected at least one known value, got none")
            ground_truth = torch.where(known, ground_truth, output.detach())
            scale, given = 1 / share, valid & known
        composite = torch.where(given, ground_truth, output)
        distance = (output - ground_truth).abs()  # 0 where the truth is unknown
        terms = {
            "valid": scale * torch.where(valid, distance, 0.0).mean(),
            "hole": scale * torch.where(valid, 0.0, distance).mean(),
            "tv": total_variation(composite, ~valid if self.tv_region == "hole" else None),
        }
        if features is not None:
            terms.update(_feature_terms(features, output, composite, ground_truth))
        return {term: weight * terms[term] for term, weight in self.weights.items() if term in terms}

    def _features_for(self, channels: int) -> VGG16Features | None:
        """VGG16 knows three channels: with others its terms are left out, and one warning says so."""
        if self.features is None or channels == 3:
            return self.features
        if not self._said and not torch.compiler.is_compiling():
            self._said = True
            warnings.warn(
                f"output: VGG16 takes 3 channels, got {channels}: the loss is without {', '.join(_FEATURE_TERMS)}; "
                "vgg='none' says so from the start",
                UserWarning,
                stacklevel=4,
            )
        return None


def _feature_terms(
    features: VGG16Features, output: Tensor, composite: Tensor, ground_truth: Tensor
) -> dict[str, Tensor]:
    # One pass over both pictures that have a gradient; the truth without a graph.
    both = features(torch.cat((output, composite)))
    with torch.no_grad():
        truth = features(ground_truth)
    perceptual, style_out, style_comp = [], [], []
    for pair, true in zip(both, truth, strict=True):
        out, comp = pair.chunk(2)
        perceptual += [F.l1_loss(out, true), F.l1_loss(comp, true)]
        true_gram = gram_matrix(true)
        style_out.append(F.l1_loss(gram_matrix(out), true_gram))
        style_comp.append(F.l1_loss(gram_matrix(comp), true_gram))
    return {
        "perceptual": sum(perceptual[1:], perceptual[0]),
        "style_out": sum(style_out[1:], style_out[0]),
        "style_comp": sum(style_comp[1:], style_comp[0]),
    }


def _as_weight(term: str, given: Any) -> float:
    try:
        weight = math.nan if isinstance(given, str) else float(given)
    except (TypeError, ValueError, OverflowError, RuntimeError):  # the last is torch's, for more than one element
        weight = math.nan
    if not 0 <= weight < math.inf:
        raise ValueError(f"weights: expected finite numbers of at least 0, got {given!r} for {term!r}")
    return weight


def _fitting(name: str, mask: Tensor, output: Tensor) -> Tensor:
    """A mask as bool, four-dimensional."""
    check_tensor(name, mask)
    n, c, h, w = output.shape
    own = mask.unsqueeze(0) if mask.dim() == 3 else mask
    if own.dim() != 4 or own.shape[0] not in (1, n) or own.shape[1] not in (1, c) or own.shape[2:] != (h, w):
        raise ValueError(f"{name}: expected ({n}|1, 1|{c}, {h}, {w}), got shape {tuple(mask.shape)}")
    check_binary(own, name)
    return as_valid(own)


def gram_matrix(features: Tensor) -> Tensor:
    """``(N, C, H, W)`` -> ``(N, C, C)``, sums of products over the pixels / (C H W), in fp32 at least.

    Under autocast too: the sums overflow fp16.
    """
    n, c, h, w = features.shape
    with torch.autocast(features.device.type, enabled=False):
        wide = features.to(torch.promote_types(features.dtype, torch.float32))
        # Pixels before channels, as channels_last features lie: their gradient then lies so too, and nothing has to be
        # turned about on the way back (which took as long as a layer of VGG16).
        flat = wide.permute(0, 2, 3, 1).flatten(1, 2)
        return flat.transpose(1, 2) @ flat / (c * h * w)


def total_variation(image: Tensor, hole: Tensor | None) -> Tensor:
    """Sum of absolute differences between neighbours, right and below.

    Args:
        image: ``(N, C, H, W)``.
        hole: ``(N|1, 1|C, H, W)`` bool, True in the hole: pairs with both pixels in the hole dilated by a 3x3 square,
            the sum divided by N C H W (the paper's). None: the mean over all horizontal pairs plus the mean over
            all vertical ones (bobqywei's).
    """
    right = (image[..., 1:] - image[..., :-1]).abs()
    below = (image[..., 1:, :] - image[..., :-1, :]).abs()
    if hole is None:
        # A picture of one column has no horizontal pair, whose mean would be NaN.
        return sum((d.mean() for d in (right, below) if d.numel()), image.new_zeros(()))
    region = F.max_pool2d(hole.float(), 3, stride=1, padding=1) > 0
    in_right, in_below = region[..., 1:] & region[..., :-1], region[..., 1:, :] & region[..., :-1, :]
    wide = torch.promote_types(image.dtype, torch.float32)  # a sum over many pixels can overflow fp16
    total = torch.where(in_right, right, 0.0).sum(dtype=wide) + torch.where(in_below, below, 0.0).sum(dtype=wide)
    return total / image.numel()
