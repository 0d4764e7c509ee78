"""The networks' base: normalisation, devices, files."""

from __future__ import annotations

import abc
import itertools
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from pconv_cuda import hub
from pconv_cuda.errors import PConvError
from pconv_cuda.models import weights
from pconv_cuda.models.options import IMAGENET_MEAN, IMAGENET_STD, checked_sizes, column, per_channel
from pconv_cuda.models.wrap import Mode, Wraps, padding_mode_of, wraps_of
from pconv_cuda.smooth import TENSION

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["InpaintingNetwork", "initialise"]


def initialise(network: nn.Module, negative_slope: float = 0.0) -> None:
    """He's normal weights for every convolution, and biases of 0; ``negative_slope`` is that of the LeakyReLU."""
    for module in network.modules():
        # on the meta device there is nothing to draw, and asking for it would import torch._dynamo, a second and a half
        if isinstance(module, nn.Conv2d) and not module.weight.is_meta:
            nn.init.kaiming_normal_(module.weight, a=negative_slope)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


class InpaintingNetwork(nn.Module, abc.ABC):
    """Base of the networks: ``forward(image, mask, fill=None) -> (output, new_mask)``, and files of one format.

    Args:
        in_channels: channels of the picture.
        mean, std: of each channel, for :meth:`normalize`. Default: ImageNet's for three channels, their averages else.
        out_channels: of the answer. Default: as many; fewer are the middle ones of the picture's, as the middle one
            of several time steps.
        padding_mode: ``"zeros"``: beyond the border there are holes. ``"circular"``: rows and columns go round. Or one
            for rows and one for columns, ``("zeros", "circular")`` for latitudes and all longitudes.
        values: ``"picture"``: [0, 1], to which answers are cut. ``"data"``: anything, in the unit of mean and std; for
            :func:`pconv_cuda.fill`.
        tension: of a prefill, as of :func:`pconv_cuda.functional.smooth_fill`: 0 for smooth fields without noise.
    """

    kind: ClassVar[str]  # the name in config.json
    prefill: str | None
    levels: int
    width: int
    conv: str

    def __init__(
        self,
        in_channels: int,
        mean: tuple[float, ...] | None,
        std: tuple[float, ...] | None,
        *,
        out_channels: int | None = None,
        padding_mode: Mode = "zeros",
        values: str = "picture",
        tension: float = TENSION,
    ) -> None:
        super().__init__()
        out_channels = in_channels if out_channels is None else out_channels
        in_channels, out_channels = checked_sizes(in_channels=in_channels, out_channels=out_channels)
        if values not in ("picture", "data"):
            raise ValueError(f"values: expected 'picture' or 'data', got {values!r}")
        if not isinstance(tension, int | float | np.number) or not 0 <= tension <= 1:
            raise ValueError(f"tension: expected 0 to 1, got {tension!r}")
        self.in_channels, self.out_channels, self.values = in_channels, out_channels, values
        self.tension = float(tension)
        self.padding_mode = padding_mode_of(padding_mode)
        self.mean = per_channel("mean", mean, IMAGENET_MEAN, in_channels)
        # the unit of data may be a small one
        least = 1e-6 if values == "picture" else 1e-30
        self.std = per_channel("std", std, IMAGENET_STD, in_channels, least)

    @property
    @abc.abstractmethod
    def config(self) -> dict[str, Any]:
        """What :meth:`from_pretrained` needs beside the weights; goes into config.json."""

    def _rare_options(self) -> list[str]:
        """The names of options of every network that differ from what they are for pictures."""
        rare = {"padding_mode": self.padding_mode != "zeros", "values": self.values != "picture"}
        rare["tension"] = self.tension != TENSION
        return ["out_channels"] * (self.out_channels != self.in_channels) + [
            name for name, here in rare.items() if here
        ]

    @property
    def wraps(self) -> Wraps:
        """Whether rows and columns go round."""
        return wraps_of(self.padding_mode)

    @property
    def not_for_pictures(self) -> str | None:
        """The option by which it is no network for pictures; None: what fills pictures takes it."""
        for name in self._rare_options():
            return f"{name}={getattr(self, name)!r}"
        return None

    @property
    def first_answer(self) -> int:
        """The channel of the picture that the answer's first one is.

        Raises:
            ValueError: there are more of the answer's.
        """
        if self.out_channels > self.in_channels:
            raise ValueError(
                f"out_channels: expected at most in_channels ({self.in_channels}) where an answer is to be in the "
                f"picture's unit, got {self.out_channels}"
            )
        return (self.in_channels - self.out_channels) // 2

    @property
    @abc.abstractmethod
    def grid(self) -> int:
        """Side in pixels of the cells by which it halves: windows that begin on them agree with the whole picture."""

    @property
    @abc.abstractmethod
    def context(self) -> int:
        """Distance in pixels beyond which nothing can change an output pixel; a prefill sees farther."""

    @property
    @abc.abstractmethod
    def mask_reach(self) -> int:
        """About how far, in pixels, one run fills into a hole; holes that are nearer than twice this share a box."""

    @property
    @abc.abstractmethod
    def bytes_per_pixel(self) -> int:
        """Memory of a float32 run for inference, measured; for choosing the size of what is filled at once."""

    def _check_image(self, image: Tensor, weight: Tensor) -> None:
        """ValueError or TypeError where ``image`` is no batch for a network with this parameter."""
        if image.dim() != 4 or image.shape[1] != self.in_channels or 0 in image.shape[2:]:
            raise ValueError(f"image: expected (N, {self.in_channels}, H, W), got shape {tuple(image.shape)}")
        if image.device != weight.device:
            raise ValueError(f"image: expected the parameters' device {weight.device}, got {image.device}")
        if image.dtype != weight.dtype and not torch.is_autocast_enabled(image.device.type):
            raise TypeError(f"image: expected the parameters' dtype {weight.dtype}, got {image.dtype}")

    def normalize(self, image: Tensor) -> Tensor:
        """``(..., C, H, W)`` in [0, 1], or data -> what the network takes; in fp32 where it is not floating."""
        image = image if image.dtype.is_floating_point else image.float()
        return (image - column(self.mean, image)) / column(self.std, image)

    def denormalize(self, image: Tensor) -> Tensor:
        """The network's output ``(..., C, H, W)`` -> [0, 1], clamped; or data, not clamped."""
        part = slice(self.first_answer, self.first_answer + self.out_channels)
        values = image * column(self.std[part], image) + column(self.mean[part], image)
        return values.clamp(0, 1) if self.values == "picture" else values

    def save_pretrained(self, folder: str | Path) -> Path:
        """Write ``model.safetensors`` (its config in the metadata too) and ``config.json``, each atomically.

        Raises:
            PConvError: ``folder`` is a file.
        """
        if Path(folder).exists() and not Path(folder).is_dir():
            raise PConvError(f"folder: expected a folder, or a name that is free, got {folder}, which is a file")
        return weights.save(self.state_dict(), self.config, Path(folder))

    def fuse(self) -> InpaintingNetwork:
        """The network for inference, with less work in each call, or itself."""
        return self

    def _tensor(self) -> Tensor:
        """One of its weights."""
        return next(itertools.chain(self.parameters(), self.buffers()))

    @property
    def device(self) -> torch.device:
        """The device of its weights."""
        return self._tensor().device

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of its weights."""
        return self._tensor().dtype

    def push_to_hub(
        self,
        repository: str,
        *,
        private: bool | None = None,
        message: str = "Upload a network of pconv_cuda",
        token: str | None = None,
    ) -> str:
        """Write the files of :meth:`save_pretrained` into a repository on the Hugging Face hub, a new one too.

        Args:
            repository: ``"user/repo"``.
            private: whether a new repository is private; None: as its owner's settings say.
            message: of the commit.
            token: default: that of ``hf auth login`` or ``HF_TOKEN``.

        Returns:
            The commit's address.

        Raises:
            PConvError: another name, no right to write, or no way to reach the hub.
            MissingExtra: huggingface_hub is not installed (extra ``[hub]``).
        """
        return hub.push(self, repository, private=private, message=message, token=token)

    @classmethod
    def from_pretrained(cls, path: str | Path, *, device: torch.device | str = "cpu") -> Self:
        """A model in eval mode from a folder of :meth:`save_pretrained`, or from one ``.safetensors`` file of it.

        Where there is no such path, and no folder of its first part's name, ``"user/repo"`` or ``"user/repo@revision"``
        is a repository on the Hugging Face hub.

        Raises:
            PConvError: no such file or one of another kind, no config, or tensors that do not fit it; no such
                repository, or no way to reach it; the message says which.
            MissingExtra: huggingface_hub is not installed (extra ``[hub]``).
        """
        return weights.load(path, {cls.kind: cls}).to(device).eval()
