"""Four inks for a colour: how much of it is black is taken from the hole's surroundings, so that no seam shows."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["black_share", "inks_of"]


def black_share(inks: np.ndarray, known: np.ndarray) -> np.ndarray:
    """The share of black in what black could take over, interpolated where ``known`` is false.

    Args:
        inks: (H, W, 4) uint8: cyan, magenta, yellow, black; 255 is full ink.
        known: bool (H, W), with at least one true pixel.

    Returns:
        float32 (H, W) in [0, 1].
    """
    black = inks[..., 3].astype(np.float32)
    # a channel's light is (1 - ink) (1 - black), so black can be no more than the brightest channel's shadow
    brightest = (255 - inks[..., :3].min(axis=2).astype(np.float32)) / 255
    most = 255 - brightest * (255 - black)
    share = np.divide(black, most, out=np.zeros_like(black), where=most > 0)
    # a white pixel is consistent with every share
    told = torch.from_numpy(known & (most > 0))
    if not bool(told.any()):
        return np.zeros_like(black)
    return _interpolated(torch.from_numpy(share), told).numpy()


def inks_of(colours: np.ndarray, share: np.ndarray) -> np.ndarray:
    """Inks (h, w, 4), uint8, that Pillow shows as ``colours``, float RGB (h, w, 3) in [0, 1]."""
    light = colours.clip(0, 1) * 255
    black = np.rint(share * (255 - light.max(axis=2)))
    paper = (255 - black)[..., None]
    part = np.divide(light, paper, out=np.zeros_like(light), where=paper > 0)
    inks = np.rint(255 * (1 - part.clip(0, 1)))
    return np.concatenate([inks, black[..., None]], axis=2).astype(np.uint8)


def _interpolated(values: Tensor, known: Tensor) -> Tensor:
    """``values`` (H, W) with means over ever larger blocks of known ones where they are not known."""
    if bool(known.all()):
        return values
    height, width = values.shape
    pair = torch.stack([torch.where(known, values, 0), known.to(values)])[None]
    halves = F.avg_pool2d(F.pad(pair, (0, width % 2, 0, height % 2)), 2)[0]
    coarse = _interpolated(halves[0] / halves[1].clamp(min=1e-12), halves[1] > 0)
    large = F.interpolate(coarse[None, None], scale_factor=2, mode="bilinear", align_corners=False)[0, 0]
    return torch.where(known, values, large[:height, :width])
