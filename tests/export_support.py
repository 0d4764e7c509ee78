"""Small random networks for the tests of exported files."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from pconv_cuda.export import plain_fill
from pconv_cuda.models import FillRefiner, InpaintingNetwork, PConvUNet

NETWORKS: dict[str, tuple[type[InpaintingNetwork], dict[str, Any]]] = {
    "unet": (PConvUNet, {"levels": 3, "width": 8}),
    "plain": (PConvUNet, {"levels": 2, "width": 4, "conv": "plain"}),
    "published": (PConvUNet, {"levels": 3, "width": 4, "head": "sigmoid", "first_bias": True, "windows": (5, 3, 3)}),
    "grey": (PConvUNet, {"in_channels": 1, "levels": 1, "width": 4}),
    "prefill": (PConvUNet, {"levels": 2, "width": 4, "prefill": "smooth"}),
    "plain-prefill": (PConvUNet, {"levels": 2, "width": 4, "conv": "plain", "prefill": "smooth"}),
    "refiner": (FillRefiner, {"levels": 2, "width": 4, "blur": 3}),
    "partial-refiner": (FillRefiner, {"levels": 2, "width": 4, "conv": "partial", "layers": 1}),
}


def network(name: str) -> InpaintingNetwork:
    """With weights, biases and statistics that leave nothing at 0 or 1, in eval mode."""
    torch.manual_seed(5)
    kind, options = NETWORKS[name]
    made = kind(**options)
    for parameter in made.parameters():
        if parameter.dim() == 1:
            nn.init.normal_(parameter, 0.1, 0.2)
    for module in made.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.3)  # type: ignore[union-attr]
            module.running_var.uniform_(0.5, 2)  # type: ignore[union-attr]
            nn.init.uniform_(module.weight, 0.5, 1.0)
    if isinstance(made, FillRefiner):
        nn.init.normal_(made.last.weight, 0, 0.05)
    elif made.prefill:
        nn.init.normal_(made.decoder[-1].conv.weight, 0, 0.05)  # type: ignore[union-attr]
    return made.eval()


def few_levels(monkeypatch: pytest.MonkeyPatch) -> None:
    """A smooth fill of two levels, which is traced in seconds; as wide as the holes of the check are, it converges to a
    smaller residual than ten levels need."""
    monkeypatch.setattr(plain_fill, "TOLERANCE", 1e-5)
    monkeypatch.setattr(plain_fill, "_HALVINGS", 1)
    monkeypatch.setattr(plain_fill, "LEVELS", 2)
