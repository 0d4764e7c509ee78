"""The paper's U-Net, of partial convolutions or, as its baseline, of plain ones."""

from __future__ import annotations

from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pconv_cuda.checks import as_valid, check_binary, padded_mask, same_in_all_channels
from pconv_cuda.models.base import InpaintingNetwork, initialise
from pconv_cuda.models.options import check_sizes, window_sizes
from pconv_cuda.models.prefill import filled
from pconv_cuda.models.receptive_field import closed_side, context_radius
from pconv_cuda.models.stage import Stage
from pconv_cuda.nn import PartialConv2d, PartialConvUpCat2d

__all__ = ["PConvUNet"]


class PConvUNet(InpaintingNetwork):
    """The network of Liu et al. 2018 (arXiv 1804.07723, table 2 of its appendix) for any image size.

    The encoder halves the picture at every level (7x7, 5x5, 5x5, then 3x3 windows, ReLU), the decoder doubles it by
    nearest neighbours, joins the encoder's features and convolves by 3x3 (LeakyReLU 0.2); batch normalisation
    everywhere but in the first and the last layer, a bias in the last one alone, He initialisation.
    Masks stay one channel a source. A hole is filled as far as the masks grow: see :attr:`reach`.

    Args:
        in_channels: channels of the picture, in and out.
        levels: halvings: 8 is the paper's network for 512 x 512, 7 the usual one for 256 x 256.
        width: channels of the first level; they double three times and then stay.
        conv: ``"partial"``, or ``"plain"`` for the paper's baseline: ordinary convolutions, holes filled with 0 (the
            mean of normalised pictures) and an all-valid mask returned.
        mean, std: of each channel, for :meth:`normalize`. Default: ImageNet's for three channels, their averages else.
        fused: whether decoder stages run as one operator (:class:`pconv_cuda.PartialConvUpCat2d`); False doubles and
            joins in memory: the same numbers but for rounding, for comparison.
        windows, first_bias, head: of published networks that differ from the paper's (see ``pconv convert``): the
            encoder's window sizes, odd, one a level; a bias in the first convolution; ``"sigmoid"`` puts LeakyReLU, a
            1x1 convolution and a sigmoid behind the last stage.
        prefill: ``"smooth"``: the output is :func:`~pconv_cuda.functional.smooth_fill` of the picture plus the
            network's answer, which begins at 0, so no hole is too wide. None: the paper's network.
    """

    kind = "unet"

    def __init__(
        self,
        in_channels: int = 3,
        levels: int = 8,
        width: int = 64,
        conv: str = "partial",
        *,
        mean: tuple[float, ...] | None = None,
        std: tuple[float, ...] | None = None,
        fused: bool = True,
        windows: tuple[int, ...] | None = None,
        first_bias: bool = False,
        head: str | None = None,
        prefill: str | None = None,
    ) -> None:
        super().__init__(in_channels, mean, std)
        check_sizes(levels=levels, width=width)
        if conv not in ("partial", "plain"):
            raise ValueError(f"conv: expected 'partial' or 'plain', got {conv!r}")
        if head not in (None, "sigmoid"):
            raise ValueError(f"head: expected None or 'sigmoid', got {head!r}")
        if prefill not in (None, "smooth"):
            raise ValueError(f"prefill: expected None or 'smooth', got {prefill!r}")
        if prefill and head:
            raise ValueError(f"head: expected None with a prefill, to which a sigmoid cannot be added, got {head!r}")
        self.levels, self.width, self.conv = levels, width, conv
        self.windows, self.first_bias, self.head = window_sizes(windows, levels), bool(first_bias), head
        self.prefill = prefill

        widths = [in_channels] + [width * min(2**level, 8) for level in range(levels)]
        partial = conv == "partial"
        down = PartialConv2d if partial else nn.Conv2d
        self.encoder = nn.ModuleList(
            Stage(
                down(widths[i], widths[i + 1], window, 2, window // 2, bias=self.first_bias and i == 0),
                norm=i > 0,
                activation=nn.ReLU(inplace=True),
            )
            for i, window in enumerate(self.windows)
        )

        def up(low: int, skip: int, out: int, bias: bool = False) -> nn.Conv2d:
            if partial:
                return PartialConvUpCat2d(low, skip, out, bias=bias)
            return nn.Conv2d(low + skip, out, 3, 1, 1, bias=bias)

        def leaky() -> nn.Module:
            return nn.LeakyReLU(0.2, inplace=True)

        # From the deepest to the last, which joins the picture itself and ends without norm and activation.
        self.decoder = nn.ModuleList(
            Stage(
                up(widths[i + 1], widths[i], widths[i]),
                norm=True,
                activation=leaky(),
                fused=fused,
            )
            for i in range(levels - 1, 0, -1)
        )
        last = up(widths[1], in_channels, in_channels, bias=True)
        self.decoder.append(Stage(last, norm=False, activation=leaky() if head else None, fused=fused))
        self.head_conv = nn.Conv2d(in_channels, in_channels, 1) if head else nn.Identity()
        initialise(self)
        if prefill:
            nn.init.zeros_(last.weight)
        self._frozen_encoder = False
        self._folded = False
        self.register_load_state_dict_pre_hook(_refuse_loading)

    @property
    def config(self) -> dict[str, Any]:
        """What :meth:`from_pretrained` needs beside the weights; goes into config.json."""
        names = ["in_channels", "levels", "width", "conv", "mean", "std"]
        names += ["windows"] * (self.windows != window_sizes(None, self.levels))  # the paper's need no mention
        names += ["first_bias"] * self.first_bias + ["head"] * (self.head is not None)
        names += ["prefill"] * (self.prefill is not None)
        return {name: getattr(self, name) for name in names}

    @property
    def reach(self) -> int:
        """Side in pixels of the largest square hole that the masks close wherever it lies.

        With a prefill the middle of a wider hole is the prefill's alone.

        Found by growing masks alone, for every offset to the grid of 2^levels pixels; well placed, a hole may be
        up to 2^(levels + 2) + 13 pixels wide. Whether a given hole closed, the returned mask says.
        """
        if self.windows != window_sizes(None, self.levels):
            return closed_side(self.windows)
        return {1: 8, 2: 18}.get(self.levels, 3 * 2**self.levels + 14)

    @property
    def bytes_per_pixel(self) -> int:
        return 20 * self.width + 100  # seen: 1230 with width 64, 520 with 16, 160 with 4

    @property
    def grid(self) -> int:
        return 2**self.levels

    @property
    def context(self) -> int:
        return context_radius(self.windows)

    def forward(self, image: Tensor, mask: Tensor | None, fill: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Fill the holes of a batch.

        Args:
            image: ``(N, C, H, W)``, normalised (:meth:`normalize`), any H and W from 1 on; what lies in holes is
                not read.
            mask: ``(N|1, 1|C, H, W)``, bool, uint8 or floating: 1 is valid, 0 is a hole. None: all valid.
            fill: the prefill ``(N, C, H, W)``, where it is known already (of a larger picture); only with a prefill.

        Returns:
            ``(output, new_mask)``: ``(N, C, H, W)``, still normalised and for every pixel, and a bool
            ``(N, 1, H, W)``. Where the new mask is 0 the output is 0 and means nothing: the hole was too large. With
            a prefill it is 1 everywhere.

        Raises:
            ValueError: an image of another shape, channel count or device, a mask or fill that does not fit it; with a
                prefill, a picture without a valid pixel.
            TypeError: an image of another dtype than the parameters, outside of autocast; a complex mask.
        """
        self._check_image(image, cast(Stage, self.encoder[0]).conv.weight)
        height, width = image.shape[2:]
        if mask is None:
            mask = image.new_ones((1, 1, height, width), dtype=torch.bool)
        check_binary(mask)
        mask = as_valid(_one_channel_if_equal(mask))
        fits = mask.dim() == 4 and mask.shape[0] in (1, image.shape[0]) and mask.shape[1] in (1, self.in_channels)
        if not fits or mask.shape[2:] != image.shape[2:]:
            raise ValueError(
                f"mask: expected ({image.shape[0]}|1, 1|{self.in_channels}, {height}, {width}), got {tuple(mask.shape)}"
            )
        fill = filled(self.prefill, image, mask, fill)
        if self.conv == "plain":  # the placeholder: 0 is the mean of a normalised picture
            image = torch.where(mask, image, 0.0) if fill is None else fill
        # Any size: holes are added below and right until every level halves evenly, and cut off again.
        step = 2**self.levels
        extra = (0, -width % step, 0, -height % step)
        if extra != (0, 0, 0, 0):
            image, mask = F.pad(image, extra), padded_mask(mask, extra)

        if self._folded:
            self._check_folded()
        features: list[tuple[Tensor, Tensor]] = [(image, mask)]
        for stage in self.encoder:
            features.append(cast(Stage, stage).encode(*features[-1]))
        low, low_mask = features.pop()
        for stage in self.decoder:
            low, low_mask = cast(Stage, stage).decode(low, low_mask, *features.pop())
        if self.conv == "plain":
            low_mask = torch.ones_like(low[:, :1], dtype=torch.bool)
        if self.head is not None:
            low = torch.where(low_mask, torch.sigmoid(self.head_conv(low)), 0.0)
        low, low_mask = low[..., :height, :width], low_mask[..., :height, :width]
        if fill is not None:
            return fill + low, torch.ones_like(low_mask)  # low is 0 where its mask is
        return low, low_mask

    def freeze_encoder_bn(self, frozen: bool = True) -> PConvUNet:
        """For fine-tuning (paper, section 4.2): the encoder's batch norms keep their statistics and parameters.

        It outlives :meth:`train`. Returns the model.
        """
        self._frozen_encoder = frozen
        for norm in self._encoder_norms():
            norm.requires_grad_(not frozen)
        return self.train(self.training)

    def train(self, mode: bool = True) -> PConvUNet:
        if mode and self._folded:
            raise RuntimeError("train: the model is fused for inference; call unfuse() first")
        super().train(mode)
        if self._frozen_encoder:
            for norm in self._encoder_norms():
                norm.eval()
        return self

    def fuse(self) -> PConvUNet:
        """For inference: fold every batch norm into its convolution and run the activation inside the operator.

        The returned values are the same but for rounding, layer by layer at valid pixels, and of the network
        everywhere. The decoder's phase weights are made once and kept, at the cost of a second set of weights. Until
        :meth:`unfuse` the model refuses to be trained, and to run once its parameters were changed: in place or by
        ``.data =``, and on a CPU also where ``.data`` itself was edited. ``.to()`` and copies fold again;
        ``state_dict()`` and :meth:`save_pretrained` still give the unfolded parameters. Returns the model.

        Raises:
            RuntimeError: in training mode, or of plain convolutions.
        """
        if self.training:
            raise RuntimeError("fuse: expected a model in eval mode, got one in training mode; call eval() first")
        if self.conv != "partial":
            raise RuntimeError(f"fuse: expected conv='partial', got {self.conv!r}")
        for stage in self._stages():
            stage.fold()
        self._folded = True
        return self

    def unfuse(self) -> PConvUNet:
        """Back to convolution, norm and activation apart. Returns the model."""
        for stage in self._stages():
            stage.folded = None
        self._folded = False
        return self

    def _check_folded(self) -> None:
        if torch.compiler.is_compiling():  # a graph holds the tensors that it was traced with
            return
        for name, module in self.named_modules():
            if isinstance(module, Stage) and module.is_stale():
                raise RuntimeError(
                    f"{name}: its parameters or statistics were changed after fuse(); call unfuse(), or fuse() again"
                )

    def _apply(self, fn: Any, recurse: bool = True) -> PConvUNet:
        super()._apply(fn, recurse)  # .to(), .half(), .cuda() ...
        return self.fuse() if self._folded else self

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # copies and pickles: what was folded has new tensors to be compared with
        if self._folded:
            self.fuse()

    def _stages(self) -> list[Stage]:
        return [cast(Stage, stage) for stage in (*self.encoder, *self.decoder)]

    def _encoder_norms(self) -> list[nn.modules.batchnorm._BatchNorm]:  # SyncBatchNorm is one, and no BatchNorm2d
        return [module for module in self.encoder.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]

    def extra_repr(self) -> str:
        return f"in_channels={self.in_channels}, levels={self.levels}, width={self.width}, conv={self.conv!r}"


def _refuse_loading(model: PConvUNet, *_: Any) -> None:
    if model._folded:
        raise RuntimeError("load_state_dict: the model is fused for inference; call unfuse() first, then fuse() again")


def _one_channel_if_equal(mask: Tensor) -> Tensor:
    """A full-channel mask whose channels agree, as most callers pass it, is worth one channel."""
    if mask.dim() != 4 or mask.shape[1] == 1:
        return mask
    first = mask[:, :1]
    # Values need the device's answer, which a graph under compilation cannot wait for, and which fake tensors lack;
    # an exported program must not rely on strides either.
    if not torch.compiler.is_exporting() and mask.stride(1) == 0:
        return first
    if torch.compiler.is_compiling() or mask.is_meta or type(mask) is not Tensor:
        return mask
    if torch._C._are_functorch_transforms_active():  # vmap has no values
        return mask
    return first if same_in_all_channels(mask) else mask
