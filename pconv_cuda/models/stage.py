"""One level of the U-Net: convolution, batch norm and activation, apart for training or folded into one operator."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pconv_cuda import ops, reference
from pconv_cuda.checks import pair
from pconv_cuda.functional import STAGE_WINDOW, apply, partial_conv2d, partial_conv2d_sources, partial_conv2d_upcat
from pconv_cuda.nn import PartialConv2d, PartialConvUpCat2d
from pconv_cuda.ops.layout import memory_format

__all__ = ["Stage"]

_SAMPLE = 64  # values of each tensor that are looked at


@dataclass
class Folded:
    """A stage's convolution with its batch norm inside, as the operators take it."""

    weight: Tensor
    bias: Tensor | None
    phases: Tensor | None  # of a decoder's stage
    negative_slope: float  # of the activation
    made_of: list[tuple[Tensor, int, int, Tensor | None]]  # tensor, version, address, sample

    def is_stale(self) -> bool:
        """Whether what it was made of has changed: in place, by a new ``.data`` and, on a CPU, through ``.data``.

        Edits through ``.data`` leave no version behind, so on a CPU a sample of each tensor is compared; on a GPU that
        would make every call wait for the device.
        """
        return any(
            _version(tensor) != version
            or tensor.data_ptr() != address
            or (sample is not None and not torch.equal(_sample(tensor), sample))
            for tensor, version, address, sample in self.made_of
        )


def _version(tensor: Tensor) -> int:
    return -1 if tensor.is_inference() else tensor._version  # inference tensors have none


def _sample(tensor: Tensor) -> Tensor:
    """Some of the values, in the order in which they lie in memory: flattening a channels_last tensor would copy it."""
    step = max(1, tensor.numel() // _SAMPLE)
    return tensor.detach().as_strided((tensor.numel() // step,), (step,)).clone()


class Stage(nn.Module):
    """On (features, mask) pairs.

    Args:
        conv: the level's convolution, partial or plain.
        norm: whether batch norm follows.
        activation: nn.ReLU, nn.LeakyReLU or None.
        fused: whether a decoder's stage runs as one operator; else it doubles and joins, then convolves.
    """

    def __init__(self, conv: nn.Conv2d, *, norm: bool, activation: nn.Module | None, fused: bool = True) -> None:
        super().__init__()
        self.conv = conv
        self.norm = nn.BatchNorm2d(conv.out_channels) if norm else nn.Identity()
        self.activation = activation if activation is not None else nn.Identity()
        self.fused = fused
        self.folded: Folded | None = None

    def encode(self, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """One level down. A plain convolution passes the mask on as it is: nobody reads it."""
        conv = self.conv
        if self.folded is not None:
            return self._encode_folded(x, mask, self.folded)
        if isinstance(conv, PartialConv2d):
            x, mask = partial_conv2d(x, mask, conv.weight, conv.bias, conv.stride, conv.padding)
        else:
            x = conv(x)
        return self.activation(self.norm(x)), mask

    def decode(self, low: Tensor, low_mask: Tensor, skip: Tensor, skip_mask: Tensor) -> tuple[Tensor, Tensor]:
        """One level up: [doubled | skip], each block of channels with its own mask."""
        conv = self.conv
        if not isinstance(conv, PartialConvUpCat2d):
            up = F.interpolate(low, scale_factor=2, mode="nearest")
            return self.activation(self.norm(conv(torch.cat((up, skip), dim=1)))), skip_mask
        if self.folded is not None:
            return self._decode_folded(low, low_mask, skip, skip_mask, self.folded)
        # A picture may have a mask for each of its channels: the stage's operator has not.
        if self.fused and skip_mask.shape[1] == 1:
            x, mask = partial_conv2d_upcat(low, low_mask, skip, skip_mask, conv.weight, conv.bias)
        else:
            up, masks = F.interpolate(low, scale_factor=2, mode="nearest"), (reference.doubled(low_mask), skip_mask)
            x, mask = partial_conv2d_sources((up, skip), masks, conv.weight, conv.bias, padding=1)
        return self.activation(self.norm(x)), mask

    # Folded ------------------------------------------------------------------------------------------------

    def fold(self) -> None:
        """Batch norm into weight and bias (in fp64, rounded once), the activation into the operator.

        In a window without valid pixels the folded stage stores 0 and the unfolded one act(shift). Every reader of a
        stage masks those pixels, so nobody sees the difference.
        """
        conv, norm, sources = self.conv, self.norm, self._sources()
        weight, bias = conv.weight.detach(), None if conv.bias is None else conv.bias.detach()
        if isinstance(norm, nn.BatchNorm2d):
            mean, variance = norm.running_mean, norm.running_var
            assert mean is not None and variance is not None
            scale = norm.weight.detach().double() / torch.sqrt(variance.double() + norm.eps)
            shift = norm.bias.detach().double() - mean.double() * scale
            if bias is not None:
                shift = shift + bias.double() * scale
            weight = (weight.double() * scale.view(-1, 1, 1, 1)).to(weight.dtype)
            bias = shift.to(weight.dtype)
        # As the kernels read it, so that no call copies it: ours on a GPU by channels last, a CPU's library as the
        # model is laid out. The layout of the results follows the features alone.
        layout = torch.channels_last if weight.device.type == "cuda" else memory_format(conv.weight)
        weight = weight.contiguous(memory_format=layout)
        phases = None
        if isinstance(conv, PartialConvUpCat2d):
            phases = ops.upcat_phases(weight, conv.low_channels).contiguous(memory_format=layout)
        made_of = [
            (source, _version(source), source.data_ptr(), _sample(source) if source.device.type == "cpu" else None)
            for source in sources
        ]
        self.folded = Folded(weight, bias, phases, _slope(self.activation), made_of)

    def _sources(self) -> list[Tensor]:
        """What a fold is made of."""
        norm = self.norm
        given = [self.conv.weight, self.conv.bias]
        if isinstance(norm, nn.BatchNorm2d):
            given += [norm.weight, norm.bias, norm.running_mean, norm.running_var]
        return [tensor for tensor in given if tensor is not None]

    def is_stale(self) -> bool:
        """Whether it was folded, of tensors that have changed or been replaced (by torch.func.functional_call too)."""
        folded = self.folded
        if folded is None:
            return False
        current = self._sources()
        replaced = len(current) != len(folded.made_of) or any(
            tensor is not source for tensor, (source, *_) in zip(current, folded.made_of, strict=True)
        )
        return replaced or folded.is_stale()

    def _encode_folded(self, x: Tensor, mask: Tensor, folded: Folded) -> tuple[Tensor, Tensor]:
        window = pair("stride", self.conv.stride, 1), pair("padding", self.conv.padding, 0), (1, 1), 1
        x, new_mask = apply(x, mask, folded.weight, folded.bias, *window, negative_slope=folded.negative_slope)
        return x, new_mask.expand(x.shape[0], -1, -1, -1)

    def _decode_folded(
        self, low: Tensor, low_mask: Tensor, skip: Tensor, skip_mask: Tensor, folded: Folded
    ) -> tuple[Tensor, Tensor]:
        weight, bias, slope = folded.weight, folded.bias, folded.negative_slope
        if skip_mask.shape[1] == 1:
            sources = skip, skip_mask, True, folded.phases
            x, new_mask = apply(low, low_mask, weight, bias, *STAGE_WINDOW, *sources, negative_slope=slope)
            return x, new_mask.expand(x.shape[0], -1, -1, -1)
        up, masks = F.interpolate(low, scale_factor=2, mode="nearest"), (reference.doubled(low_mask), skip_mask)
        x, mask = partial_conv2d_sources((up, skip), masks, weight, bias, padding=1)
        return reference.activation(x, slope), mask


def _slope(activation: nn.Module) -> float:
    if isinstance(activation, nn.LeakyReLU):
        return activation.negative_slope
    return 0.0 if isinstance(activation, nn.ReLU) else 1.0
