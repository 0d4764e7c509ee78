"""Partial convolution layers of one and three axes, and transposed ones: ``nn.Conv*`` with a mask; see docs/layers.md.

All of them are public in ``pconv_cuda`` and ``pconv_cuda.nn``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pconv_cuda.checks import compact, padded_mask
from pconv_cuda.checks_nd import batched_arguments, check_weight, checked_mask, numbers
from pconv_cuda.functional_nd import _ordinary, _transposed
from pconv_cuda.layer_parts import MODES, Mode, drop_mask_filters, given_mask, refuse_cache

# torch.fx keeps these calls whole, as in nn.py.
torch.fx.wrap("_ordinary")
torch.fx.wrap("_transposed")

__all__ = [
    "PartialConv1d",
    "PartialConv3d",
    "PartialConvTranspose1d",
    "PartialConvTranspose2d",
    "PartialConvTranspose3d",
]

Numbers = int | tuple[int, ...]
Modes = Mode | tuple[Mode, ...]


def _mode_of_each(padding_mode: Any, axes: int) -> tuple[str, ...]:
    modes = (padding_mode,) * axes if isinstance(padding_mode, str) else tuple(padding_mode)
    if len(modes) != axes or not set(modes) <= set(MODES):
        many = "a tuple of one" if axes == 1 else f"a tuple of {axes}, one for each axis"
        raise ValueError(f"padding_mode: expected one of {', '.join(MODES)}, or {many}, got {padding_mode!r}")
    return modes


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

    def _continued(
        self, input: Tensor, mask: Tensor | None, sides: Sequence[tuple[int, int]]
    ) -> tuple[Tensor, Tensor | None]:
        """Data and mask continued alike, by ``sides`` of each axis and the layer's modes; holes for zeros."""
        axes = len(sides)
        batch, mask, batched = batched_arguments(input, mask, axes)
        check_weight(batch, self.weight, self.bias, self.groups, self.transposed)
        if mask is not None:
            mask = checked_mask(mask, batch)
            by_group = self.groups > 1 and mask.shape[1] > 1  # there the channels decide the new mask's shape
            mask = mask if by_group else compact(mask)
        for axis, mode in reversed(list(enumerate(_mode_of_each(self.padding_mode, axes)))):
            if not any(sides[axis]):
                continue
            size = batch.shape[2 + axis]
            most = {"reflect": size - 1, "circular": size}.get(mode, max(sides[axis]))
            if max(sides[axis]) > most:
                raise ValueError(
                    f"padding: expected at most {most} for padding_mode {mode!r} and an axis of {size}, "
                    f"got {max(sides[axis])}"
                )
            if mask is None and mode == "zeros":
                mask = batch.new_ones((1, 1, *batch.shape[2:]), dtype=torch.bool)
            how = "constant" if mode == "zeros" else mode
            both = [0, 0] * (axes - 1 - axis) + list(sides[axis]) + [0, 0] * axis
            mask = None if mask is None else padded_mask(mask, both, how)
            batch = F.pad(batch, both, mode=how)
        if batched:
            return batch, mask
        return batch.squeeze(0), None if mask is None else mask.squeeze(0)

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
        self._set(_mode_of_each(padding_mode, len(self.kernel_size)), multi_channel, return_mask)

    def forward(  # type: ignore[override]
        self, input: Tensor, mask: Tensor | None = None, *, mask_in: Tensor | None = None
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Apply the layer; arguments and results as in :meth:`pconv_cuda.PartialConv2d.forward`."""
        mask = given_mask(mask, mask_in)
        axes = len(self.kernel_size)
        padding: Any = self.padding
        if self.padding_mode != "zeros":
            ends = self._reversed_padding_repeated_twice
            pairs = [(ends[2 * axis], ends[2 * axis + 1]) for axis in reversed(range(axes))]
            modes = _mode_of_each(self.padding_mode, axes)
            # What the convolution itself can pad by holes is left to it.
            left = [mode == "zeros" and before == after for mode, (before, after) in zip(modes, pairs, strict=True)]
            padding = tuple(before if own else 0 for own, (before, _) in zip(left, pairs, strict=True))
            sides = [(0, 0) if own else pair for own, pair in zip(left, pairs, strict=True)]
            input, mask = self._continued(input, mask, sides)
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
        self._set(_mode_of_each(padding_mode, len(self.kernel_size)), multi_channel, return_mask)

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
            modes = _mode_of_each(self.padding_mode, axes)
            # By how many positions the windows at the ends look past the input; its own padding then grows by as many
            # strides, so that the output stays what and where it is.
            reach = [gap * (size - 1) for gap, size in zip(self.dilation, self.kernel_size, strict=True)]
            beyond = [
                0 if mode == "zeros" else max(0, reach[i] - padding[i] + more[i]) // self.stride[i]
                for i, mode in enumerate(modes)
            ]
            padding = tuple(padding[i] + beyond[i] * self.stride[i] for i in range(axes))
            input, mask = self._continued(input, mask, [(each, each) for each in beyond])
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
