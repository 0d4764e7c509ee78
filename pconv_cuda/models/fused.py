"""The U-Net for inference: batch norms folded into the convolutions, activations inside the operators."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from pconv_cuda import ops
from pconv_cuda.checks import pair
from pconv_cuda.models.stage import down, up
from pconv_cuda.models.unet_base import UNetBase
from pconv_cuda.nn import PartialConvUpCat2d
from pconv_cuda.ops.layout import memory_format

if TYPE_CHECKING:
    from pconv_cuda.models.stage import Stage
    from pconv_cuda.models.unet import PConvUNet

__all__ = ["FusedStage", "FusedUNet"]


class FusedStage(nn.Module):
    """A :class:`~pconv_cuda.models.stage.Stage` of partial convolutions as one operator, on (features, mask) pairs.

    In a window without valid pixels it stores 0, the original stage act(shift). Readers of a stage mask those pixels,
    so this does not change their results.
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
        window = self.stride, self.padding, self.negative_slope
        return down(x, mask, self.weight, self.bias, *window, wraps=self.wraps)

    def decode(self, low: Tensor, low_mask: Tensor, skip: Tensor, skip_mask: Tensor) -> tuple[Tensor, Tensor]:
        """One level up: [doubled | skip], each block of channels with its own mask."""
        parameters = self.weight, self.bias, self.phases, self.negative_slope
        return up(low, low_mask, skip, skip_mask, *parameters, wraps=self.wraps)


class FusedUNet(UNetBase):
    """What :meth:`PConvUNet.fuse` returns: for inference, with weights of its own, which are buffers.

    The outputs are the model's but for rounding, and later changes of the model do not reach it. There are no batch
    norms and no parameters. It has a state_dict of its own, moves, and can be copied, pickled, compiled and exported.
    It is always in eval mode: :meth:`train`, its own or that of a module around it, changes nothing.

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
        """Stays in eval mode, as a part of a module that is trained should."""
        return super().train(False)

    def fuse(self) -> FusedUNet:
        """The network itself."""
        return self

    def save_pretrained(self, folder: str | Path) -> Path:
        """Not available: no class reads the weights of a fused network.

        Raises:
            RuntimeError: always.
        """
        raise RuntimeError("save_pretrained: a fused network cannot be saved; save the model that it was made of")


def _folded(conv: nn.Conv2d, norm: nn.Module) -> tuple[Tensor, Tensor | None]:
    """Weight and bias with the batch norm inside, formed in fp64 and rounded once.

    Raises:
        RuntimeError: a batch norm without running statistics.
    """
    weight, bias = conv.weight.detach(), None if conv.bias is None else conv.bias.detach()
    if not isinstance(norm, nn.modules.batchnorm._BatchNorm):  # SyncBatchNorm is one, and no BatchNorm2d
        return weight, bias
    mean, variance = norm.running_mean, norm.running_var
    if mean is None or variance is None:
        raise RuntimeError("fuse: expected batch norms with running statistics, got one with track_running_stats=False")
    scale = torch.rsqrt(variance.double() + norm.eps)
    shift = -mean.double() * scale
    if norm.affine:
        scale, shift = scale * norm.weight.detach().double(), shift * norm.weight.detach().double() + norm.bias.detach()
    if bias is not None:
        shift = shift + bias.double() * scale
    return (weight.double() * scale.view(-1, 1, 1, 1)).to(weight.dtype), shift.to(weight.dtype)


def _slope(activation: nn.Module) -> float:
    if isinstance(activation, nn.LeakyReLU):
        return activation.negative_slope
    return 0.0 if isinstance(activation, nn.ReLU) else 1.0
