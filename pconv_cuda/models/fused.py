"""The U-Net for inference: batch norms folded into the convolutions, activations inside the operators."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pconv_cuda import ops, reference
from pconv_cuda.checks import pair
from pconv_cuda.functional import STAGE_WINDOW, apply, partial_conv2d_sources
from pconv_cuda.models.unet_base import UNetBase
from pconv_cuda.models.wrap import around, entering, within
from pconv_cuda.nn import PartialConvUpCat2d
from pconv_cuda.ops.layout import memory_format

if TYPE_CHECKING:
    from pconv_cuda.models.stage import Stage
    from pconv_cuda.models.unet import PConvUNet

__all__ = ["FusedStage", "FusedUNet"]


class FusedStage(nn.Module):
    """A :class:`~pconv_cuda.models.stage.Stage` of partial convolutions as one operator, on (features, mask) pairs.

    In a window without valid pixels it stores 0, the stage that it was made of act(shift). Every reader of a stage
    masks those pixels, so no difference reaches anyone.
    """

    weight: Tensor
    bias: Tensor | None
    phases: Tensor | None  # of a decoder's stage

    def __init__(self, stage: Stage) -> None:
        super().__init__()
        conv = stage.conv
        self.stride, self.padding = pair("stride", conv.stride, 1), pair("padding", conv.padding, 0)
        self.negative_slope, self.wraps = _slope(stage.activation), stage.wraps
        # As the kernels read it, so that no call copies it: ours on a GPU by channels last, a CPU's library as the
        # model is laid out. The layout of the results follows the features alone.
        layout = torch.channels_last if conv.weight.device.type == "cuda" else memory_format(conv.weight)
        weight, bias = _folded(conv, stage.norm)
        phases = ops.upcat_phases(weight, conv.low_channels) if isinstance(conv, PartialConvUpCat2d) else None
        self.register_buffer("weight", weight.clone(memory_format=layout))
        self.register_buffer("bias", None if bias is None else bias.clone())
        self.register_buffer("phases", None if phases is None else phases.contiguous(memory_format=layout))

    def encode(self, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """One level down."""
        x, mask, (rows, columns) = entering(x, mask, self.wraps, self.padding)
        window = self.stride, (rows, columns), (1, 1), 1
        x, new_mask = apply(x, mask, self.weight, self.bias, *window, negative_slope=self.negative_slope)
        return x, new_mask.expand(x.shape[0], -1, -1, -1)

    def decode(self, low: Tensor, low_mask: Tensor, skip: Tensor, skip_mask: Tensor) -> tuple[Tensor, Tensor]:
        """One level up: [doubled | skip], each block of channels with its own mask."""
        if not any(self.wraps):
            return self._convolved(low, low_mask, skip, skip_mask)
        once, twice = ([width * goes_round for goes_round in self.wraps] for width in (1, 2))
        small, large = (around(low, once), around(low_mask, once)), (around(skip, twice), around(skip_mask, twice))
        x, mask = self._convolved(*small, *large)
        return within(x, twice), within(mask, twice)

    def _convolved(self, low: Tensor, low_mask: Tensor, skip: Tensor, skip_mask: Tensor) -> tuple[Tensor, Tensor]:
        weight, bias, slope = self.weight, self.bias, self.negative_slope
        if skip_mask.shape[1] == 1:
            sources = skip, skip_mask, True, self.phases
            x, new_mask = apply(low, low_mask, weight, bias, *STAGE_WINDOW, *sources, negative_slope=slope)
            return x, new_mask.expand(x.shape[0], -1, -1, -1)
        up, masks = F.interpolate(low, scale_factor=2, mode="nearest"), (reference.doubled(low_mask), skip_mask)
        x, mask = partial_conv2d_sources((up, skip), masks, weight, bias, padding=1)
        return reference.activation(x, slope), mask


class FusedUNet(UNetBase):
    """What :meth:`PConvUNet.fuse` returns: for inference, with weights of its own, which are buffers.

    The answers are the model's but for rounding. It has no batch norms and nothing to train; what becomes of the model
    later does not change it. It has a state_dict of its own, moves, and can be copied, pickled, compiled and exported.

    Args:
        model: of partial convolutions, in eval mode, where it is to run: weights are laid out for that device.
    """

    def __init__(self, model: PConvUNet) -> None:
        names = ("out_channels", "padding_mode", "values", "tension")
        others: dict[str, Any] = {name: getattr(model, name) for name in names}
        super().__init__(model.in_channels, model.mean, model.std, **others)
        self._take_options(model)
        self.encoder = nn.ModuleList(FusedStage(stage) for stage in model.encoder)  # type: ignore[arg-type]
        self.decoder = nn.ModuleList(FusedStage(stage) for stage in model.decoder)  # type: ignore[arg-type]
        self.head_conv = copy.deepcopy(model.head_conv).requires_grad_(False)
        self.eval()

    def train(self, mode: bool = True) -> FusedUNet:
        """Eval mode alone.

        Raises:
            RuntimeError: for training mode.
        """
        if mode:
            raise RuntimeError("train: a fused network is for inference; train the model that it was made of")
        super().train(False)
        return self

    def fuse(self) -> FusedUNet:
        """The network itself."""
        return self

    def save_pretrained(self, folder: str | Path) -> Path:
        """Not for a fused network, whose weights no class reads.

        Raises:
            RuntimeError: always.
        """
        raise RuntimeError("save_pretrained: a fused network has no such file; save the model that it was made of")


def _folded(conv: nn.Conv2d, norm: nn.Module) -> tuple[Tensor, Tensor | None]:
    """Weight and bias with the batch norm inside, formed in fp64 and rounded once."""
    weight, bias = conv.weight.detach(), None if conv.bias is None else conv.bias.detach()
    if not isinstance(norm, nn.modules.batchnorm._BatchNorm):  # SyncBatchNorm is one, and no BatchNorm2d
        return weight, bias
    mean, variance = norm.running_mean, norm.running_var
    assert mean is not None and variance is not None
    scale = norm.weight.detach().double() / torch.sqrt(variance.double() + norm.eps)
    shift = norm.bias.detach().double() - mean.double() * scale
    if bias is not None:
        shift = shift + bias.double() * scale
    return (weight.double() * scale.view(-1, 1, 1, 1)).to(weight.dtype), shift.to(weight.dtype)


def _slope(activation: nn.Module) -> float:
    if isinstance(activation, nn.LeakyReLU):
        return activation.negative_slope
    return 0.0 if isinstance(activation, nn.ReLU) else 1.0
