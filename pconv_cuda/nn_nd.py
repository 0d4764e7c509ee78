"""Partial convolution layers of one and three axes, and transposed ones: ``nn.Conv*`` with a mask; see docs/layers.md.

All of them are public in ``pconv_cuda`` and ``pconv_cuda.nn``.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from pconv_cuda.borders import continued, mode_of_each, split_padding
from pconv_cuda.checks_nd import numbers
from pconv_cuda.functional_nd import _ordinary, _transposed
from pconv_cuda.layer_parts import Mode, drop_mask_filters, given_mask, refuse_cache

# torch.fx keeps these calls whole, as in nn.py.
torch.fx.wrap("_ordinary")
torch.fx.wrap("_transposed")
torch.fx.wrap("continued")

__all__ = [
    "PartialConv1d",
    "PartialConv3d",
    "PartialConvTranspose1d",
    "PartialConvTranspose2d",
    "PartialConvTranspose3d",
]

Numbers = int | tuple[int, ...]
Modes = Mode | tuple[Mode, ...]


class _PartialConv(nn.modules.conv._ConvNd):
    """What ordinary and transposed layers share."""

    multi_channel: bool
    return_mask: bool

    def _set(self, modes: tuple[str, ...], multi_channel: bool, return_mask: bool) -> None:
        # One mode for all axes is kept as a word, as torch's layers keep it.
        self.padding_mode = modes[0] if len(set(modes)) == 1 else modes  # type: ignore[assignment]
        self.multi_channel, self.return_mask = multi_channel, return_mask

    def _result(self, output: Tensor, new_mask: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        if not self.return_mask:
            return output
        return output, new_mask.expand_as(output) if self.multi_channel else new_mask

    def __getattr__(self, name: str) -> Any:
        refuse_cache(name)
        return super().__getattr__(name)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        drop_mask_filters(state_dict, prefix, rest[-1])
        super()._load_from_state_dict(state_dict, prefix, *rest)

    def extra_repr(self) -> str:
        flags = [name for name in ("multi_channel", "return_mask") if getattr(self, name)]
        return ", ".join([super().extra_repr(), *(f"{name}=True" for name in flags)])


class _Ordinary(_PartialConv):
    """nn.ConvNd with a mask."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Numbers,
        stride: Numbers = 1,
        padding: Numbers | str = 0,
        dilation: Numbers = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: Modes = "zeros",
        device: Any = None,
        dtype: torch.dtype | None = None,
        *,
        multi_channel: bool = False,
        return_mask: bool = False,
    ) -> None:
        start: Any = super().__init__
        start(
            in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, "zeros", device, dtype
        )  # fmt: skip
        self._set(mode_of_each(padding_mode, len(self.kernel_size)), multi_channel, return_mask)

    def forward(  # type: ignore[override]
        self, input: Tensor, mask: Tensor | None = None, *, mask_in: Tensor | None = None
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Apply the layer; arguments and results as in :meth:`pconv_cuda.PartialConv2d.forward`."""
        mask = given_mask(mask, mask_in)
        axes = len(self.kernel_size)
        padding: Any = self.padding
        if self.padding_mode != "zeros":
            modes = mode_of_each(self.padding_mode, axes)
            padding, sides = split_padding(padding, self._reversed_padding_repeated_twice, modes)
            input, mask = continued(input, mask, self.weight, self.bias, self.groups, False, modes, sides)
        output, new_mask = _ordinary(
            axes, input, mask, self.weight, self.bias, self.stride, padding, self.dilation, self.groups
        )
        return self._result(output, new_mask)


class _Transposed(_PartialConv):
    """nn.ConvTransposeNd with a mask."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Numbers,
        stride: Numbers = 1,
        padding: Numbers = 0,
        output_padding: Numbers = 0,
        groups: int = 1,
        bias: bool = True,
        dilation: Numbers = 1,
        padding_mode: Modes = "zeros",
        device: Any = None,
        dtype: torch.dtype | None = None,
        *,
        multi_channel: bool = False,
        return_mask: bool = False,
    ) -> None:
        if isinstance(padding, str):
            raise ValueError(f"padding: expected an integer of at least 0, or one for each axis, got {padding!r}")
        start: Any = super().__init__
        start(
            in_channels,
            out_channels,
            kernel_size,
            stride,
            padding,
            output_padding,
            groups,
            bias,
            dilation,
            "zeros",
            device,
            dtype,
        )
        self._set(mode_of_each(padding_mode, len(self.kernel_size)), multi_channel, return_mask)

    def forward(  # type: ignore[override]
        self,
        input: Tensor,
        mask: Tensor | None = None,
        output_size: list[int] | None = None,
        *,
        mask_in: Tensor | None = None,
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Apply the layer.

        Args:
            input, mask, mask_in: as in :meth:`pconv_cuda.PartialConv2d.forward`.
            output_size: instead of ``output_padding``, as in :class:`torch.nn.ConvTranspose2d`.

        Returns:
            The output; with ``return_mask`` also the new mask, as there.
        """
        mask = given_mask(mask, mask_in)
        axes = len(self.kernel_size)
        more = self._output_padding(  # type: ignore[operator]
            input, output_size, self.stride, self.padding, self.kernel_size, axes, self.dilation
        )
        padding: tuple[int, ...] = numbers("padding", self.padding, axes, 0)
        if self.padding_mode != "zeros":
            modes = mode_of_each(self.padding_mode, axes)
            # By how many positions the windows at the ends look past the input; its own padding then grows by as many
            # strides, so that the output stays what and where it is.
            reach = [gap * (size - 1) for gap, size in zip(self.dilation, self.kernel_size, strict=True)]
            beyond = [
                0 if mode == "zeros" else max(0, reach[i] - padding[i] + more[i]) // self.stride[i]
                for i, mode in enumerate(modes)
            ]
            padding = tuple(padding[i] + beyond[i] * self.stride[i] for i in range(axes))
            sides = [(each, each) for each in beyond]
            input, mask = continued(input, mask, self.weight, self.bias, self.groups, True, modes, sides)
        output, new_mask = _transposed(
            axes, input, mask, self.weight, self.bias, self.stride, padding, tuple(more), self.groups, self.dilation
        )
        return self._result(output, new_mask)


class PartialConv1d(_Ordinary, nn.Conv1d):  # type: ignore[misc]
    """nn.Conv1d over the valid positions of a masked series: :class:`pconv_cuda.PartialConv2d` with one axis.

    Input ``(N, C, L)`` or ``(C, L)``, mask ``(N|1, 1|C, L)`` or ``(1|C, L)``.

    Args:
        in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, device, dtype: as in
            :class:`torch.nn.Conv1d`.
        padding_mode: as there; series and mask are continued alike.
        multi_channel: return the new mask as ``(N, K, Q)``, expanded.
        return_mask: return ``(output, new_mask)`` instead of the output alone.

    Example:
        >>> layer = PartialConv1d(1, 4, 5, padding=2, return_mask=True)
        >>> series = torch.tensor([[[20.1, float("nan"), float("nan"), 19.8, 19.9, 20.4]]])
        >>> output, new_mask = layer(series, ~series.isnan())
        >>> output.shape, bool(output.isfinite().all()), bool(new_mask.all())
        (torch.Size([1, 4, 6]), True, True)
    """


class PartialConv3d(_Ordinary, nn.Conv3d):  # type: ignore[misc]
    """nn.Conv3d over the valid positions of a masked volume: :class:`pconv_cuda.PartialConv2d` with three axes.

    Input ``(N, C, D, H, W)`` or ``(C, D, H, W)``, mask ``(N|1, 1|C, D, H, W)`` or ``(1|C, D, H, W)``.

    Args:
        in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, device, dtype: as in
            :class:`torch.nn.Conv3d`.
        padding_mode: as there, or one for each axis: ``("zeros", "zeros", "circular")`` for depths, latitudes and
            longitudes.
        multi_channel: return the new mask as ``(N, K, O, P, Q)``, expanded.
        return_mask: return ``(output, new_mask)`` instead of the output alone.

    Example:
        >>> layer = PartialConv3d(1, 2, 3, padding=1, padding_mode=("zeros", "zeros", "circular"), return_mask=True)
        >>> ocean = torch.zeros(1, 1, 4, 6, 8)
        >>> output, new_mask = layer(ocean, torch.ones(1, 4, 6, 8))
        >>> output.shape, new_mask.shape
        (torch.Size([1, 2, 4, 6, 8]), torch.Size([1, 1, 4, 6, 8]))
    """


class PartialConvTranspose1d(_Transposed, nn.ConvTranspose1d):  # type: ignore[misc]
    """:class:`PartialConvTranspose2d` with one axis: nn.ConvTranspose1d of ``(N, C, L)`` with a mask.

    Example:
        >>> PartialConvTranspose1d(2, 3, 4, stride=2, padding=1)(torch.zeros(1, 2, 5), torch.ones(1, 5)).shape
        torch.Size([1, 3, 10])
    """


class PartialConvTranspose2d(_Transposed, nn.ConvTranspose2d):  # type: ignore[misc]
    """nn.ConvTranspose2d of the valid pixels of a masked picture, rescaled by their share of those that an output sees.

    The arithmetic is that of :func:`pconv_cuda.functional.partial_conv_transpose2d`; parameters and ``state_dict`` keys
    are nn.ConvTranspose2d's.

    Args:
        in_channels, out_channels, kernel_size, stride, padding, output_padding, groups, bias, dilation, device, dtype:
            as in :class:`torch.nn.ConvTranspose2d`.
        padding_mode: how the *input* goes on beyond its border, for data and mask alike: ``"zeros"`` (holes),
            ``"reflect"``, ``"replicate"``, ``"circular"``, or one for each axis. (torch's layer has zeros alone.)
        multi_channel: return the new mask as ``(N, K, P, Q)``, expanded.
        return_mask: return ``(output, new_mask)`` instead of the output alone.

    Example:
        >>> layer = PartialConvTranspose2d(8, 4, 4, stride=2, padding=1, return_mask=True)
        >>> output, new_mask = layer(torch.zeros(1, 8, 5, 6), torch.ones(1, 5, 6))
        >>> output.shape, new_mask.shape
        (torch.Size([1, 4, 10, 12]), torch.Size([1, 1, 10, 12]))
    """


class PartialConvTranspose3d(_Transposed, nn.ConvTranspose3d):  # type: ignore[misc]
    """:class:`PartialConvTranspose2d` with three axes: nn.ConvTranspose3d of ``(N, C, D, H, W)`` with a mask.

    Example:
        >>> layer = PartialConvTranspose3d(2, 1, 2, stride=2, padding_mode=("zeros", "zeros", "circular"))
        >>> layer(torch.zeros(1, 2, 3, 4, 5), torch.ones(1, 3, 4, 5)).shape
        torch.Size([1, 1, 6, 8, 10])
    """
