"""The networks: the paper's U-Net, and a small one that adds to the smooth fill."""

from __future__ import annotations

from pathlib import Path

import torch

from pconv_cuda.models import weights
from pconv_cuda.models.base import InpaintingNetwork
from pconv_cuda.models.fused import FusedUNet
from pconv_cuda.models.options import IMAGENET_MEAN, IMAGENET_STD
from pconv_cuda.models.refiner import FillRefiner
from pconv_cuda.models.unet import PConvUNet

__all__ = [
    "IMAGENET_MEAN",
    "IMAGENET_STD",
    "FillRefiner",
    "FusedUNet",
    "InpaintingNetwork",
    "PConvUNet",
    "load_network",
]

_KINDS: dict[str, type[InpaintingNetwork]] = {kind.kind: kind for kind in (PConvUNet, FillRefiner)}


def load_network(path: str | Path, *, device: torch.device | str = "cpu") -> InpaintingNetwork:
    """A network of any class in eval mode, from a folder or a ``.safetensors`` file; its config says which.

    Raises:
        PConvError: as :meth:`InpaintingNetwork.from_pretrained`.
    """
    return weights.load(path, _KINDS).to(device).eval()
