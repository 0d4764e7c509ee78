"""The operation in plain torch, unfused: the tests' truth, and what devices without a kernel run.

    count    = sum of the mask over the window and the group's input channels
    ratio    = (C / groups) R S / count        where count > 0, else 0
    output   = ratio * conv(m ? x : 0, W) + b  where count > 0, else 0
    new_mask = count > 0

Liu et al., "Image Inpainting for Irregular Holes Using Partial Convolutions", ECCV 2018 (arXiv 1804.07723).
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from pconv_cuda.checks import as_valid, check_binary

__all__ = [
    "activation",
    "doubled",
    "fails_in_half",
    "join",
    "needs_plain_strides",
    "partial_conv2d",
    "partial_conv2d_upcat",
    "upcat_phases",
    "valid_mask",
    "window_ratio",
    "without_autocast",
]


def window_ratio(mask: Tensor, weight: Tensor, groups: int, precise: torch.dtype, **where: Any) -> Tensor:
    """sum(1) / sum(mask) of every window, 0 where the sum is 0: ``(N, 1, P, Q)``.

    ``(N, groups, P, Q)`` where both the mask's channels and the groups are more than one.
    """
    channels, (rows, columns) = weight.shape[1], weight.shape[2:]
    # Sums of zeros and ones are exact in fp32 up to 2^24.
    valid = as_valid(mask).to(precise).clone(memory_format=torch.contiguous_format)  # see needs_plain_strides()
    with without_autocast(mask):
        if mask.shape[-3] == 1:  # every channel alike: one window sum serves all of them
            box = torch.ones(1, 1, rows, columns, dtype=precise, device=mask.device)
            count = channels * F.conv2d(valid, box, **where)
        else:
            box = torch.ones(groups, channels, rows, columns, dtype=precise, device=mask.device)
            count = F.conv2d(valid, box, groups=groups, **where)
    count = count.round()  # some algorithms of a GPU's library leave 1e-7 in an empty window
    # A select instead of an epsilon: 1 / 1e-8 overflows fp16.
    return torch.where(count > 0, channels * rows * columns / count.clamp(min=1), 0.0)


def partial_conv2d(
    input: Tensor,
    mask: Tensor | None,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | tuple[int, int] = 1,
    padding: int | tuple[int, int] | str = 0,
    dilation: int | tuple[int, int] = 1,
    groups: int = 1,
) -> tuple[Tensor, Tensor]:
    """As :func:`pconv_cuda.functional.partial_conv2d`, from stock operators, differentiable by torch itself."""
    where: dict[str, Any] = {"stride": stride, "padding": padding, "dilation": dilation}
    if mask is not None:
        check_binary(mask)
    # Ratios are formed in fp32 (fp64 for doubles): bf16 cannot hold large counts exactly.
    precise = torch.float64 if input.dtype == torch.float64 else torch.float32
    if mask is None:
        mask = torch.ones_like(input[..., :1, :, :], dtype=torch.bool)
    ratio = window_ratio(mask, weight, groups, precise, **where)
    if ratio.shape[-3] > 1:
        ratio = ratio.repeat_interleave(weight.shape[0] // groups, dim=-3)
    # A select instead of a product, which would pass NaN.
    masked = torch.where(as_valid(mask), input, 0.0)
    if needs_plain_strides(input, weight, **where):
        masked, weight = (t.clone(memory_format=torch.contiguous_format) for t in (masked, weight))
    if fails_in_half(masked, weight, stride, padding, dilation):
        with without_autocast(masked):
            output = F.conv2d(masked.to(precise), weight.to(precise), groups=groups, **where) * ratio
    else:
        output = F.conv2d(masked, weight, groups=groups, **where).to(precise) * ratio
    if bias is not None:
        output = output + bias.to(precise).view(-1, 1, 1)
    output = torch.where(ratio > 0, output, 0.0).to(input.dtype)
    new_mask = (ratio > 0).to(mask.dtype)
    if input.dim() == 4:  # a mask of batch 1 serves every picture
        new_mask = new_mask.expand(input.shape[0], -1, -1, -1)
    return output, new_mask


def needs_plain_strides(
    input: Tensor,
    weight: Tensor,
    stride: int | Sequence[int],
    padding: int | Sequence[int] | str,
    dilation: int | Sequence[int],
) -> bool:
    """Whether a CPU's convolution has to get clones with the strides of contiguous tensors.

    For a strided 1x1 window with channels that are no multiple of oneDNN's block, the weight's gradient writes past its
    workspace where tensors are channels_last (uxlfoundation/oneDNN#6035). For one channel, and one row or column of
    input or output, torch may take different layouts for the tensors and sum wrongly, or read values from outside of
    them. contiguous() would not do: it leaves strides of dimensions of size 1 as they are.
    """
    if weight.device.type != "cpu":
        return False
    strided = stride != 1 if isinstance(stride, int) else tuple(stride) != (1, 1)
    overruns = strided and tuple(weight.shape[2:]) == (1, 1) and weight.shape[1] % 16 != 0
    if overruns or input.shape[-3] != 1:
        return overruns
    # 'same' has as many rows and columns as the input; 'valid' has no padding.
    steps, gaps = (_each(value) for value in (stride, dilation))
    around = _each(0 if isinstance(padding, str) else padding)
    single = 1 in input.shape[-2:]
    for axis, size in enumerate(input.shape[-2:]):
        reach = gaps[axis] * (weight.shape[2 + axis] - 1) + 1
        single = single or (padding != "same" and size + 2 * around[axis] - reach < steps[axis])
    return single


def _each(value: int | Sequence[int]) -> tuple[int, ...]:
    """One number for rows and one for columns."""
    numbers = (value,) * 2 if isinstance(value, int) else tuple(value)
    return numbers * 2 if len(numbers) == 1 else numbers


def without_autocast(tensor: Tensor) -> contextlib.AbstractContextManager[Any]:
    """Counts of more than 256 are no bf16 numbers."""
    kind = tensor.device.type
    if kind not in ("cpu", "cuda", "mps", "xpu") or not torch.is_autocast_enabled(kind):
        return contextlib.nullcontext()
    return torch.autocast(kind, enabled=False)


def fails_in_half(input: Tensor, weight: Tensor, stride: Any, padding: Any, dilation: Any) -> bool:
    """Whether windows miss the picture, or strides step over it, in 16 bits on a CPU.

    There oneDNN crashes (forward, dilated) or leaves values of the weight's gradient unwritten.
    """
    half = input.dtype in (torch.bfloat16, torch.float16) or torch.is_autocast_enabled("cpu")
    if input.device.type != "cpu" or input.dtype == torch.float64 or not half:
        return False
    stride, padding, dilation = (
        (0, 0) if isinstance(value, str) else (value, value) if isinstance(value, int) else tuple(value)
        for value in (stride, padding, dilation)
    )
    return any(
        stride[axis] > input.shape[axis - 2] or padding[axis] > dilation[axis] * (weight.shape[2 + axis] - 1)
        for axis in range(2)
    )


def valid_mask(mask: Tensor | None, input: Tensor) -> Tensor:
    """A bool mask that broadcasts against ``input`` (N, C, H, W); None: all valid."""
    return input.new_ones((1, 1, *input.shape[2:]), dtype=torch.bool) if mask is None else as_valid(mask)


def activation(output: Tensor, negative_slope: float) -> Tensor:
    """``v < 0 ? negative_slope * v : v``: ReLU for negative_slope 0, nothing for negative_slope 1."""
    return (
        output
        if negative_slope == 1.0
        else F.relu(output)
        if negative_slope == 0.0
        else F.leaky_relu(output, negative_slope)
    )


# Two sources ---------------------------------------------------------------------------------------------------


def doubled(tensor: Tensor) -> Tensor:
    """``(N, C, H, W)`` twice as high and wide, by nearest neighbours; of any dtype (interpolate() knows no bool)."""
    n, c, h, w = tensor.shape
    return tensor[:, :, :, None, :, None].expand(n, c, h, 2, w, 2).reshape(n, c, 2 * h, 2 * w)


def join(
    input: Tensor, mask: Tensor | None, skip: Tensor, skip_mask: Tensor | None, upsample: bool
) -> tuple[Tensor, Tensor]:
    """What an operator with a skip convolves: ``[input | skip]``, for ``upsample`` with ``input`` doubled, and a bool
    mask of all its channels."""
    valid = valid_mask(mask, input), valid_mask(skip_mask, skip)
    if upsample:
        input, valid = doubled(input), (doubled(valid[0]), valid[1])
    batch = 1 if all(each.shape[0] == 1 for each in valid) else input.shape[0]
    spread = [each.expand(batch, source.shape[1], -1, -1) for each, source in zip(valid, (input, skip), strict=True)]
    return torch.cat((input, skip), dim=1), torch.cat(spread, dim=1)


def part(joined: Tensor, input: Tensor, skip: Tensor | None, upsample: bool) -> tuple[Tensor, Tensor | None]:
    """The gradient of what :func:`join` makes, taken apart."""
    if skip is None:
        return joined, None
    n, c, h, w = input.shape
    first, second = joined[:, :c], joined[:, c:]
    if upsample:
        precise = torch.float64 if joined.dtype == torch.float64 else torch.float32
        first = first.reshape(n, c, h, 2, w, 2).sum(dim=(3, 5), dtype=precise)
    return first, second


def upcat_phases(weight: Tensor, low_channels: int) -> Tensor:
    """The filters of the low half, ``weight[:, :low_channels]`` (K, C, 3, 3), as four 2x2 filters each.

    Of the rows w0 w1 w2 an even output row takes ``(w0, w1 + w2)``, an odd one ``(w0 + w1, w2)``; columns alike.
    ``(4 K, low_channels, 2, 2)``, row ``(2 a + b) K + k`` for the output pixels ``(2 p + a, 2 q + b)``; summed in fp32.
    """
    precise = torch.float64 if weight.dtype == torch.float64 else torch.float32
    # taps[a, r]: which of phase a's two taps the filter's row r is a part of
    parts = torch.tensor([[[1, 0, 0], [0, 1, 1]], [[1, 1, 0], [0, 0, 1]]], dtype=precise, device=weight.device)
    phases = torch.einsum("atr,bus,kcrs->abkctu", parts, parts, weight[:, :low_channels].to(precise))
    return phases.reshape(-1, low_channels, 2, 2).to(weight.dtype)


def partial_conv2d_upcat(
    low: Tensor,
    low_mask: Tensor | None,
    skip: Tensor,
    skip_mask: Tensor | None,
    weight: Tensor,
    bias: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """As :func:`pconv_cuda.functional.partial_conv2d_upcat`, by way of both tensors that it never makes."""
    joined, valid = join(low, low_mask, skip, skip_mask, upsample=True)
    return partial_conv2d(joined, valid, weight, bias, padding=1)
