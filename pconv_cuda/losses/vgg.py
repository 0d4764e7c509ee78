"""VGG16's features after its first three poolings, for the perceptual and the style terms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from pconv_cuda.errors import PConvError
from pconv_cuda.ops import winograd
from pconv_cuda.tensor_files import load_tensors

__all__ = ["VGG16Features", "feature_distance"]

# Channels of the convolutions up to pool3; torchvision numbers its layers features.0 to features.16 the same way.
_PLAN: tuple[int | str, ...] = (64, 64, "pool", 128, 128, "pool", 256, 256, 256, "pool")


class VGG16Features(nn.Module):
    """``(N, 3, H, W)``, normalised by the ImageNet mean and std -> features after pool1, pool2, pool3.

    Simonyan and Zisserman 2014 (arXiv 1409.1556). Frozen, always in eval mode; gradients flow to the input alone.

    Args:
        source: ``"imagenet"`` for torchvision's weights (downloaded once into torch's hub cache), a path to a local
            ``.pt``/``.pth``/``.safetensors`` file with torchvision's keys (``features.0.weight``, ...), what such a
            file holds, or ``"random"`` for tests: random weights, useless for training.

    Raises:
        PConvError: weights that cannot be had or do not fit.
    """

    def __init__(self, source: str | Path | Mapping[str, Tensor] = "imagenet") -> None:
        super().__init__()
        if not isinstance(source, str | Path | Mapping):
            found = type(source).__name__
            raise TypeError(f"vgg: expected 'imagenet', 'random', 'none', a file or its state dict, got {found}")
        layers: list[nn.Module] = []
        channels = 3
        for item in _PLAN:
            if isinstance(item, str):
                layers.append(nn.MaxPool2d(2))
                continue
            layers += [nn.Conv2d(channels, item, 3, padding=1), nn.ReLU(inplace=True)]
            channels = item
        self.features = nn.Sequential(*layers)
        if source == "random":
            self._randomise()
        elif isinstance(source, Mapping):
            self._load(source, "the state dict")
        else:
            self._load(_imagenet_weights() if source == "imagenet" else _file_weights(Path(source)), source)
        self.requires_grad_(False)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # the layout that convolutions like best
        self.eval()

    def train(self, mode: bool = True) -> VGG16Features:
        return super().train(False)  # stays in eval mode

    def forward(self, image: Tensor) -> list[Tensor]:
        """Features ``(N, 64, H/2, W/2)``, ``(N, 128, H/4, W/4)``, ``(N, 256, H/8, W/8)``.

        Raises:
            ValueError: an image that is not ``(N, 3, H, W)`` of at least 8 x 8 pixels.
        """
        if image.dim() != 4 or image.shape[1] != 3 or min(image.shape[2:]) < 8:
            raise ValueError(f"image: expected (N, 3, H, W) of at least 8 x 8 pixels, got shape {tuple(image.shape)}")
        self.check_dtype("image", image.dtype, image.device.type)
        x = image
        if not torch._C._are_functorch_transforms_active():  # vmap knows no layouts
            x = image.contiguous(memory_format=torch.channels_last)
        found = []
        for layer in self.features:
            if isinstance(layer, nn.Conv2d):
                x = _conv_relu(x, layer)
            elif isinstance(layer, nn.MaxPool2d):
                x = layer(x)
                found.append(x)
        return found

    def check_dtype(self, name: str, dtype: torch.dtype, device: str) -> None:
        """TypeError, naming the argument ``name``, where pictures of ``dtype`` cannot be convolved by these weights."""
        own = next(self.parameters()).dtype
        cast = torch.is_autocast_enabled(device) and dtype != torch.float64  # which autocast leaves as it is
        if dtype != own and not cast:
            raise TypeError(
                f"{name}: expected {own}, the dtype of VGG16's weights (which .to(dtype) changes), or a dtype that "
                f"autocast casts, under autocast, got {dtype}"
            )

    def _randomise(self) -> None:
        generator = torch.Generator().manual_seed(0)
        for layer in self.features:
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, generator=generator)
                nn.init.zeros_(layer.bias)  # type: ignore[arg-type]

    def _load(self, weights: Mapping[str, Tensor], source: str | Path) -> None:
        wanted = self.state_dict()
        missing = [key for key in wanted if key not in weights]
        if missing:
            raise PConvError(f"vgg: {source} lacks {', '.join(missing[:3])}; expected torchvision's keys of VGG16")
        for key, tensor in wanted.items():
            if not isinstance(weights[key], Tensor):
                raise PConvError(f"vgg: {source}: {key}: expected a tensor, got {type(weights[key]).__name__}")
            if weights[key].shape != tensor.shape:
                raise PConvError(
                    f"vgg: {source}: {key}: expected shape {tuple(tensor.shape)}, got {tuple(weights[key].shape)}"
                )
        self.load_state_dict({key: weights[key] for key in wanted})


def feature_distance(found: Sequence[Tensor], true: Sequence[Tensor]) -> Tensor:
    """Of two pictures' features: the sum over the poolings of mean |difference| / mean |true feature|.

    Args:
        found, true: what :class:`VGG16Features` returns of ``(N, 3, H, W)``.

    Returns:
        ``(N,)`` float32, a number for each picture.
    """
    parts = [
        (ours - theirs).abs().flatten(1).mean(1, dtype=torch.float32)
        / theirs.abs().flatten(1).mean(1, dtype=torch.float32)
        for ours, theirs in zip(found, true, strict=True)
    ]
    return torch.stack(parts).sum(0)


def _conv_relu(x: Tensor, layer: nn.Conv2d) -> Tensor:
    """A convolution and the ReLU behind it."""
    if winograd.serves(x, layer.weight, layer.bias):
        return winograd.conv3x3(x, None, layer.weight, layer.bias, True)
    return torch.relu_(layer(x))


def _imagenet_weights() -> dict[str, Tensor]:
    from torchvision.models import VGG16_Weights

    try:
        return dict(VGG16_Weights.IMAGENET1K_V1.get_state_dict(progress=True, check_hash=True))
    except Exception as error:  # offline, a proxy, a full disk: the remedies are the same
        file = VGG16_Weights.IMAGENET1K_V1.url.rsplit("/", 1)[-1]
        raise PConvError(
            f"vgg: the ImageNet weights of VGG16 could not be downloaded ({type(error).__name__}: {error}). Either "
            f"fetch {file} yourself and put it into {torch.hub.get_dir()}/checkpoints, or pass a local file: vgg=PATH "
            "(a state_dict with torchvision's keys)"
        ) from error


def _file_weights(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise PConvError(f"vgg: expected 'imagenet', 'random', 'none' or a file of weights, found no file {path}")
    return load_tensors(path, "vgg")
