"""Partial convolution as a module, and border renormalisation for any existing model."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from pconv_cuda.borders import continued, mode_of_each, split_padding
from pconv_cuda.checks import check_tensor
from pconv_cuda.functional import partial_conv2d, partial_conv2d_upcat
from pconv_cuda.layer_parts import Mode, drop_mask_filters, given_mask, refuse_cache
from pconv_cuda.nn_nd import (
    PartialConv1d,
    PartialConv3d,
    PartialConvTranspose1d,
    PartialConvTranspose2d,
    PartialConvTranspose3d,
)

# torch.fx keeps these calls whole: their checks read shapes, which a traced tensor has not.
torch.fx.wrap("partial_conv2d")
torch.fx.wrap("partial_conv2d_upcat")
torch.fx.wrap("continued")
torch.fx.wrap("_checked_low")

__all__ = [
    "PartialConv1d",
    "PartialConv2d",
    "PartialConv3d",
    "PartialConvTranspose1d",
    "PartialConvTranspose2d",
    "PartialConvTranspose3d",
    "PartialConvUpCat2d",
    "use_partial_padding",
]


class PartialConv2d(nn.Conv2d):
    """nn.Conv2d over the valid pixels of a masked image (Liu et al. 2018, arXiv 1804.07723).

    Parameters and ``state_dict`` keys (``weight``, ``bias``) are nn.Conv2d's; NVIDIA's key ``weight_maskUpdater``,
    a constant, is dropped when a state dict is loaded. Outside the image counts as a
    hole; a ``padding_mode`` other than ``'zeros'`` pads image and mask alike, since the padded pixels are data.

    Args:
        in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, device, dtype: as in
            :class:`torch.nn.Conv2d`.
        padding_mode: as there, or one for rows and one for columns: ``("zeros", "circular")`` for a globe, whose
            longitudes go round and whose latitudes end.
        multi_channel: return the new mask as ``(N, K, P, Q)``, expanded; the arithmetic is the same.
        return_mask: return ``(output, new_mask)`` instead of the output alone.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        stride: int | tuple[int, int] = 1,
        padding: int | tuple[int, int] | str = 0,
        dilation: int | tuple[int, int] = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: Mode | tuple[Mode, Mode] = "zeros",
        device: Any = None,
        dtype: torch.dtype | None = None,
        *,
        multi_channel: bool = False,
        return_mask: bool = False,
    ) -> None:
        modes = mode_of_each(padding_mode, 2)
        whole = padding_mode if isinstance(padding_mode, str) else "zeros"
        super().__init__(
            in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, whole, device, dtype
        )
        # One mode for both axes is kept as a word, as torch's layer keeps it.
        self.padding_mode = modes[0] if modes[0] == modes[1] else modes  # type: ignore[assignment]
        self.multi_channel = multi_channel
        self.return_mask = return_mask

    def forward(  # type: ignore[override]
        self, input: Tensor, mask: Tensor | None = None, *, mask_in: Tensor | None = None
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Apply the layer.

        Args:
            input: ``(N, C, H, W)`` or ``(C, H, W)``, of the weight's dtype.
            mask: ``(N|1, 1|C, H, W)``, or ``(1|C, H, W)``, one for all pictures of a batch; bool, uint8 or floating: 1
                is valid, 0 is a hole. None: all valid.
            mask_in: the same under the name that NVIDIA's layer has for it.

        Returns:
            The output ``(N, K, P, Q)``; with ``return_mask`` also the new mask ``(N, 1, P, Q)`` of the mask's
            dtype (bool for None), or ``(N, K, P, Q)`` with ``multi_channel`` or a grouped per-channel mask.
        """
        mask = given_mask(mask, mask_in)
        padding: Any = self.padding
        if self.padding_mode != "zeros":
            modes = mode_of_each(self.padding_mode, 2)
            padding, sides = split_padding(padding, self._reversed_padding_repeated_twice, modes)
            input, mask = continued(input, mask, self.weight, self.bias, self.groups, False, modes, sides)
        output, new_mask = partial_conv2d(
            input, mask, self.weight, self.bias, self.stride, padding, self.dilation, self.groups
        )
        if not self.return_mask:
            return output
        if self.multi_channel:
            new_mask = new_mask.expand_as(output)
        return output, new_mask

    def __getattr__(self, name: str) -> Any:
        refuse_cache(name)
        return super().__getattr__(name)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        drop_mask_filters(state_dict, prefix, rest[-1])
        super()._load_from_state_dict(state_dict, prefix, *rest)

    def extra_repr(self) -> str:
        flags = [name for name in ("multi_channel", "return_mask") if getattr(self, name)]
        return ", ".join([super().extra_repr(), *(f"{name}=True" for name in flags)])


class PartialConvUpCat2d(nn.Conv2d):
    """A decoder's stage as one layer: double, join the skip, and convolve the valid pixels by 3x3.

    Takes the place of upsampling by nearest neighbours, ``torch.cat`` and ``PartialConv2d(low_channels + skip_channels,
    out_channels, 3, padding=1)``, whose ``weight`` and ``bias`` (and ``state_dict`` keys) it has; see
    :func:`pconv_cuda.functional.partial_conv2d_upcat`.

    Args:
        low_channels, skip_channels: of the two tensors, in the order of the weight's input channels.
        out_channels, bias, device, dtype: as in :class:`torch.nn.Conv2d`.
        return_mask: return ``(output, new_mask)`` instead of the output alone.
    """

    def __init__(
        self,
        low_channels: int,
        skip_channels: int,
        out_channels: int,
        bias: bool = True,
        device: Any = None,
        dtype: torch.dtype | None = None,
        *,
        return_mask: bool = False,
    ) -> None:
        super().__init__(
            low_channels + skip_channels, out_channels, 3, padding=1, bias=bias, device=device, dtype=dtype
        )
        self.low_channels, self.skip_channels, self.return_mask = low_channels, skip_channels, return_mask

    def forward(  # type: ignore[override]
        self, low: Tensor, low_mask: Tensor | None, skip: Tensor, skip_mask: Tensor | None
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Apply the layer.

        Args:
            low: ``(N, low_channels, H / 2, W / 2)``, of the weight's dtype.
            skip: ``(N, skip_channels, H, W)``.
            low_mask, skip_mask: ``(N|1, 1, ...)`` of their tensors' sizes, 1 is valid, 0 is a hole; None: all valid.

        Returns:
            The output ``(N, out_channels, H, W)``; with ``return_mask`` also the new mask, a bool ``(N, 1, H, W)``.
        """
        low = _checked_low(low, self.low_channels)
        output, new_mask = partial_conv2d_upcat(low, low_mask, skip, skip_mask, self.weight, self.bias)
        return (output, new_mask) if self.return_mask else output

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        drop_mask_filters(state_dict, prefix, rest[-1])
        super()._load_from_state_dict(state_dict, prefix, *rest)

    def extra_repr(self) -> str:
        flags = ["bias=False"] * (self.bias is None) + ["return_mask=True"] * self.return_mask
        return ", ".join([f"{self.low_channels} + {self.skip_channels}, {self.out_channels}", *flags])


def _partial_kind(kind: type) -> type[PartialConv2d] | None:
    """The class of partial convolutions that replaces a class of plain ones, None where it is left alone."""
    if kind is nn.Conv2d:
        return PartialConv2d
    if kind.__bases__ != (nn.Conv2d,) or kind.__name__ != "ParametrizedConv2d":
        return None
    # torch's parametrisations give a layer a class of its own, with properties for its weights.
    own = {name: value for name, value in vars(kind).items() if name not in ("__dict__", "__weakref__")}
    return type("ParametrizedPartialConv2d", (PartialConv2d,), own)


def _checked_low(low: Tensor, channels: int) -> Tensor:
    check_tensor("low", low)
    if low.dim() == 4 and low.shape[1] != channels:
        raise ValueError(f"low: expected {channels} channels, got shape {tuple(low.shape)}")
    return low


def use_partial_padding(model: nn.Module) -> nn.Module:
    """Renormalise every zero-padded convolution of ``model`` at the image border.

    Partial convolution based padding (Liu et al., arXiv 1811.11718): each plain ``nn.Conv2d`` that pads with
    zeros is swapped, in place, for a :class:`PartialConv2d` that shares its parameters and hooks and is called
    without a mask. Parametrised ones (weight_norm, spectral_norm) are too. Other subclasses of nn.Conv2d are left
    alone: their arithmetic is their own.

    Args:
        model: any module; a convolution itself too.

    Returns:
        The model, or the new layer where the model is a convolution itself.

    Raises:
        TypeError: ``model`` is no module.
        ValueError: it has a lazy convolution, of which nothing is known before the first call; nothing is swapped.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model: expected a torch.nn.Module, got {type(model).__name__}")
    if any(isinstance(layer, nn.LazyConv2d) for layer in model.modules()):
        raise ValueError("model: expected layers that know their sizes, got a LazyConv2d; call the model once")
    swapped: dict[nn.Module, PartialConv2d] = {}  # a layer that is used twice stays one layer

    def swap(layer: nn.Module) -> nn.Module:
        if layer in swapped:
            return swapped[layer]
        kind = _partial_kind(type(layer))
        if kind is None or layer.padding_mode != "zeros" or layer.padding in ((0, 0), "valid"):
            return layer
        partial = kind.__new__(kind)
        partial.__dict__.update(layer.__dict__)
        partial.multi_channel = partial.return_mask = False
        swapped[layer] = partial
        return partial

    for parent in list(model.modules()):
        for name, child in list(parent._modules.items()):  # named_children() hides second names
            if child is not None and (replacement := swap(child)) is not child:
                setattr(parent, name, replacement)
    return swap(model)
