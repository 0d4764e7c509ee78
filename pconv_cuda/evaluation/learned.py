"""LPIPS, FID and the distance of VGG16's features, where their networks' weights are in torch's cache or in a file.

Nothing is downloaded. Without weights the column is left out, and the reason stands in the report.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pconv_cuda.errors import MissingExtra, PConvError, require
from pconv_cuda.losses.vgg import VGG16Features, feature_distance
from pconv_cuda.models import IMAGENET_MEAN, IMAGENET_STD
from pconv_cuda.tensor_files import load_tensors

__all__ = [
    "FeatureDistance",
    "Inception",
    "Perceptual",
    "find_features",
    "find_inception",
    "find_perceptual",
    "frechet_distance",
]

_BACKBONES = {"alex": "alexnet-owt-7be5be79.pth", "vgg": "vgg16-397923af.pth"}  # the first that is there is taken
_INCEPTION = "weights-inception-2015-12-05-6726825d.pth"
_FEATURES = 2048


def _cache() -> Path:
    return Path(torch.hub.get_dir()) / "checkpoints"


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:12]


@dataclass
class Perceptual:
    """LPIPS of pictures (H, W, 3) uint8."""

    network: Any
    about: str
    identity: str

    @torch.no_grad()
    def __call__(self, restored: np.ndarray, truth: np.ndarray) -> float:
        pair = [torch.from_numpy(np.array(one)).permute(2, 0, 1)[None].float() for one in (restored, truth)]
        return float(self.network(*(one / 127.5 - 1 for one in pair)).squeeze())


def find_perceptual(wanted: str) -> tuple[Perceptual | None, str]:
    """The metric and a sentence about it, or None and why not.

    Args:
        wanted: auto (torch's cache), none, or a file of torchvision's AlexNet or VGG16 weights.

    Raises:
        PConvError: a file was named that is not one of these.
    """
    if wanted == "none":
        return None, "LPIPS was not asked for"
    if wanted == "auto":
        paths = {net: _cache() / file for net, file in _BACKBONES.items()}
        net = next((net for net, path in paths.items() if path.is_file()), None)
        if net is None:
            return None, f"LPIPS left out: no {' or '.join(_BACKBONES.values())} in {_cache()}; name one with `lpips`"
        path = paths[net]
    else:
        path, net = Path(wanted), ""
    state = load_tensors(path, "lpips")
    if not net:
        shape = list(state["features.0.weight"].shape) if "features.0.weight" in state else []
        net = "alex" if shape == [64, 3, 11, 11] else "vgg" if shape == [64, 3, 3, 3] else ""
        if not net:
            raise PConvError(f"lpips: expected torchvision's weights of AlexNet or VGG16, but {path} holds others")
    try:
        module = require("torchmetrics.functional.image.lpips", "eval", why="LPIPS")
    except MissingExtra as error:
        return None, f"LPIPS left out: {error}"
    # its own constructor would download the backbone: a random one takes the file's weights instead
    network = module._NoTrainLpips(net=net, pnet_rand=True)
    layers = {
        name: tensor
        for slice_ in network.net.children()
        if isinstance(slice_, nn.Sequential)
        for name, tensor in slice_.state_dict().items()
    }
    missing = [name for name in layers if f"features.{name}" not in state]
    if missing:
        raise PConvError(f"lpips: {path} lacks features.{missing[0]}")
    try:
        for slice_ in network.net.children():
            if isinstance(slice_, nn.Sequential):
                slice_.load_state_dict({name: state[f"features.{name}"] for name in slice_.state_dict()})
    except RuntimeError as error:
        raise PConvError(f"lpips: {path} does not fit: {error}") from error
    about = f"LPIPS on {'AlexNet' if net == 'alex' else 'VGG16'} ({path.name}), torchmetrics' linear weights"
    return Perceptual(network.eval(), about, f"{net} {_digest(path)}"), about


@dataclass
class FeatureDistance:
    """Of pictures (H, W, 3) uint8: the sum over VGG16's pool1 to pool3 of mean |difference| / mean |true feature|."""

    network: VGG16Features
    about: str
    identity: str

    @torch.no_grad()
    def __call__(self, restored: np.ndarray, truth: np.ndarray) -> float:
        mean, std = (torch.tensor(values).view(3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
        ours, true = (
            self.network(((torch.from_numpy(np.array(one)).permute(2, 0, 1) / 255 - mean) / std)[None])
            for one in (restored, truth)
        )
        return float(feature_distance(ours, true))


def find_features(wanted: str) -> tuple[FeatureDistance | None, str]:
    """As :func:`find_perceptual`; a named file holds torchvision's weights of VGG16, at least to its third pooling."""
    if wanted == "none":
        return None, "the VGG16 feature distance was not asked for"
    path = _cache() / _BACKBONES["vgg"] if wanted == "auto" else Path(wanted)
    if wanted == "auto" and not path.is_file():
        return None, f"VGG16 feature distance left out: no {path.name} in {_cache()}; name one with `vgg`"
    if not path.is_file():
        raise PConvError(f"vgg: expected a file of weights, but {path} is no file")
    about = (
        f"VGG16 feature distance ({path.name}): the sum over pool1 to pool3 of mean |difference| / mean |true feature|"
    )
    return FeatureDistance(VGG16Features(path), about, _digest(path)), about


@dataclass
class Inception:
    """Features (2048,) of pictures (H, W, 3) uint8, as FID takes them."""

    network: Any
    about: str
    identity: str

    @torch.no_grad()
    def __call__(self, picture: np.ndarray) -> np.ndarray:
        planes = torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None]
        return np.asarray(self.network(planes).reshape(-1).float().cpu().numpy())


def find_inception(wanted: str) -> tuple[Inception | None, str]:
    """As :func:`find_perceptual`, for the Inception network that FID is defined with."""
    if wanted == "none":
        return None, "FID was not asked for"
    path = _cache() / _INCEPTION if wanted == "auto" else Path(wanted)
    if wanted == "auto" and not path.is_file():
        return None, f"FID left out: no {_INCEPTION} in {_cache()}; name one with `fid`"
    load_tensors(path, "fid")
    try:
        require("torch_fidelity", "eval", why="FID")
        module = require("torchmetrics.image.fid", "eval", why="FID")
    except MissingExtra as error:
        return None, f"FID left out: {error}"
    try:
        network = module.NoTrainInceptionV3(
            name="inception-v3-compat", features_list=[str(_FEATURES)], feature_extractor_weights_path=str(path)
        )
    except (RuntimeError, KeyError, ValueError) as error:
        raise PConvError(f"fid: {path} does not hold the weights of FID's Inception network: {error}") from error
    about = f"FID on {_FEATURES} Inception features ({path.name}); biased upwards with few pictures, without interval"
    return Inception(network.eval(), about, _digest(path)), about


class _AsItIs(nn.Module):
    """Takes features instead of pictures."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.num_features = count

    def forward(self, features: Tensor) -> Tensor:
        return features


def frechet_distance(restored: Sequence[np.ndarray], truth: Sequence[np.ndarray]) -> float:
    """FID from features, at least two of each."""
    fid = require("torchmetrics.image.fid", "eval", why="FID")
    metric = fid.FrechetInceptionDistance(feature=_AsItIs(len(truth[0])))
    metric.set_dtype(torch.float64)
    metric.update(torch.from_numpy(np.stack(truth)), real=True)
    metric.update(torch.from_numpy(np.stack(restored)), real=False)
    return float(metric.compute())
