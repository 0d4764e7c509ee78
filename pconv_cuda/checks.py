"""What the functional forms accept: each check names the argument, the expected and the actual value."""

from __future__ import annotations

import operator
import os
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = [
    "as_valid",
    "check_binary",
    "check_convolution",
    "check_fits",
    "check_tensor",
    "check_upcat",
    "checked_mask",
    "compact",
    "group_count",
    "named_padding",
    "padded_mask",
    "pair",
    "same_in_all_channels",
    "smooth_arguments",
    "upcat_mask",
]

DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
LIMIT = 2**31  # of stride, padding, dilation: the kernels compute sizes in 64 bits


def check_tensor(name: str, value: Any) -> None:
    if not isinstance(value, Tensor):
        raise TypeError(f"{name}: expected a torch.Tensor, got {type(value).__name__}")


def pair(name: str, value: Any, least: int) -> tuple[int, int]:
    """One integer, or a sequence of one or two, as rows and columns."""
    try:
        numbers = [operator.index(part) for part in (value if isinstance(value, Sequence) else (value,))]
    except TypeError:
        numbers = []
    if len(numbers) not in (1, 2) or min(numbers) < least:
        raise ValueError(f"{name}: expected one or two integers of at least {least}, got {value!r}")
    if max(numbers) >= LIMIT:
        raise ValueError(f"{name}: expected one or two integers below 2^31, got {value!r}")
    return numbers[0], numbers[-1]


def group_count(value: Any) -> int:
    """``groups`` as an int, of any integer type: numpy's numbers come from the arithmetic of shapes."""
    try:
        number: Any = value if isinstance(value, torch.SymInt) else operator.index(value)
    except TypeError:
        number = 0
    if number < 1:
        raise ValueError(f"groups: expected a positive integer, got {value!r}")
    return number


def check_convolution(
    input: Tensor, weight: Tensor, bias: Tensor | None, groups: int, channels: int | None = None
) -> None:
    """Dtypes, devices and channels (given, or the input's) of a batched input ``(N, C, H, W)`` and its parameters."""
    channels = input.shape[1] if channels is None else channels
    check_tensor("weight", weight)
    if input.dtype not in DTYPES:
        raise TypeError(f"input: expected float64, float32, bfloat16 or float16, got {input.dtype}")
    if 0 in input.shape[1:]:
        raise ValueError(f"input: expected at least one channel and one pixel, got shape {tuple(input.shape)}")
    if weight.dim() != 4 or 0 in weight.shape:
        raise ValueError(f"weight: expected (K, C / groups, R, S), none of them 0, got shape {tuple(weight.shape)}")
    if channels != weight.shape[1] * groups:
        raise ValueError(
            f"input: expected {weight.shape[1] * groups} channels (weight {tuple(weight.shape)}, groups {groups}), "
            f"got {channels}"
        )
    if weight.shape[0] % groups:
        raise ValueError(f"weight: expected output channels divisible by groups {groups}, got {weight.shape[0]}")
    check_parameters(input, "the input's", {"weight": weight, "bias": bias})


def check_parameters(input: Tensor, whose: str, others: dict[str, Tensor | None]) -> None:
    """That what is computed with ``input`` has its device and dtype, and a bias one value a filter."""
    bias, weight = others.get("bias"), others.get("weight")
    if bias is not None and weight is not None:
        check_tensor("bias", bias)
        if tuple(bias.shape) != (weight.shape[0],):
            raise ValueError(f"bias: expected shape ({weight.shape[0]},), got {tuple(bias.shape)}")
    for name, tensor in others.items():
        if tensor is None:
            continue
        if tensor.device != input.device:
            raise ValueError(f"{name}: expected {whose} device {input.device}, got {tensor.device}")
        # Under autocast the operator casts them.
        if tensor.dtype != input.dtype and not torch.is_autocast_enabled(input.device.type):
            raise TypeError(f"{name}: expected {whose} dtype {input.dtype}, got {tensor.dtype}")


def check_upcat(low: Tensor, skip: Tensor, weight: Tensor, bias: Tensor | None) -> None:
    """Shapes, dtypes and devices of a decoder's stage."""
    for name, tensor in (("low", low), ("skip", skip), ("weight", weight)):
        check_tensor(name, tensor)
        if tensor.dim() != 4 or 0 in tensor.shape[1:]:
            raise ValueError(f"{name}: expected four dimensions, none of them 0, got shape {tuple(tensor.shape)}")
    if low.dtype not in DTYPES:
        raise TypeError(f"low: expected float64, float32, bfloat16 or float16, got {low.dtype}")
    if skip.shape[2] % 2 or skip.shape[3] % 2:
        raise ValueError(
            f"skip: expected an even height and width, twice low's, got shape {tuple(skip.shape)}; pad the picture "
            "(with holes) until every level halves evenly"
        )
    doubled = (low.shape[0], 2 * low.shape[2], 2 * low.shape[3])
    if (skip.shape[0], *skip.shape[2:]) != doubled:
        raise ValueError(
            f"skip: expected ({doubled[0]}, Cs, {doubled[1]}, {doubled[2]}), twice the size of low "
            f"{tuple(low.shape)}, got {tuple(skip.shape)}"
        )
    channels = low.shape[1] + skip.shape[1]
    if tuple(weight.shape) != (weight.shape[0], channels, 3, 3) or weight.shape[0] == 0:
        raise ValueError(
            f"weight: expected (K, {channels}, 3, 3) for the channels [low | skip], got {tuple(weight.shape)}"
        )
    check_parameters(low, "low's", {"skip": skip, "weight": weight, "bias": bias})


def upcat_mask(name: str, mask: Tensor | None, source: Tensor) -> Tensor | None:
    """A stage's mask, checked against its source and reduced to one channel."""
    if mask is None:
        return None
    mask = compact(checked_mask(mask, source, name))
    # Under torch.func's transforms the reference runs, which takes such masks, and vmap hides the values.
    if mask.shape[1] == 1 or (not torch.compiler.is_compiling() and torch._C._are_functorch_transforms_active()):
        return mask
    first = mask[:, :1]
    # Comparing channels reads values, which a graph under compilation cannot.
    if not torch.compiler.is_compiling() and not mask.is_meta and same_in_all_channels(mask):
        return first
    raise ValueError(
        f"{name}: expected one channel (or, outside of compiled graphs, equal ones), got {tuple(mask.shape)}; "
        "masks that differ by channel go through partial_conv2d_sources on the doubled tensor"
    )


def same_in_all_channels(mask: Tensor) -> bool:
    """Whether the same pixels are valid in each channel. It synchronises."""
    valid = as_valid(mask)
    return torch.equal(valid, valid[:, :1].expand_as(valid))


def smooth_arguments(
    input: Tensor, mask: Tensor, tension: float, tolerance: float, max_iterations: int
) -> tuple[Tensor, Tensor, float, float, int]:
    """The checked arguments of :func:`pconv_cuda.functional.smooth_fill`: a batch, a bool mask, three numbers."""
    check_tensor("input", input)
    check_tensor("mask", mask)
    if input.dtype not in DTYPES:
        raise TypeError(f"input: expected float64, float32, bfloat16 or float16, got {input.dtype}")
    if input.dim() not in (3, 4) or 0 in input.shape[-3:]:
        raise ValueError(
            "input: expected (N, C, H, W) or (C, H, W) with at least one channel and one pixel, "
            f"got shape {tuple(input.shape)}"
        )
    if input.dim() == 3:
        if mask.dim() != 3:
            raise ValueError(f"mask: expected (1|C, H, W) as the input is unbatched, got shape {tuple(mask.shape)}")
        input, mask = input.unsqueeze(0), mask.unsqueeze(0)
    mask = compact(checked_mask(mask, input))
    valid = as_valid(mask)
    if not 0 <= tension <= 1:
        raise ValueError(f"tension: expected 0 to 1, got {tension!r}")
    if not tolerance >= 0:
        raise ValueError(f"tolerance: expected at least 0, got {tolerance!r}")
    rounds = operator.index(max_iterations)
    if rounds < 1:
        raise ValueError(f"max_iterations: expected at least 1, got {max_iterations!r}")
    # This reads values, which a graph under compilation cannot; there the operator checks.
    if not torch.compiler.is_compiling() and not valid.is_meta and 0 not in input.shape:
        empty = ~valid.flatten(2).any(2)
        if bool(empty.any()):
            sample, channel = empty.nonzero()[0].tolist()
            raise ValueError(
                f"mask: expected at least one valid pixel in each sample and channel, got none in sample {sample}, "
                f"channel {channel}"
            )
    # A smaller tolerance is below the rounding error.
    least = 4 * torch.finfo(torch.float64 if input.dtype == torch.float64 else torch.float32).eps
    return input, valid, float(tension), max(float(tolerance), least), rounds


def check_fits(
    input: Tensor, weight: Tensor, stride: tuple[int, int], padding: tuple[int, int], dilation: tuple[int, int]
) -> None:
    """Checks that a window fits into the padded image and that the output's size is a valid number."""
    values = input.shape[0] * weight.shape[0]
    for axis, name in enumerate(("height", "width")):
        size, window = input.shape[2 + axis] + 2 * padding[axis], dilation[axis] * (weight.shape[2 + axis] - 1) + 1
        if size < window:
            raise ValueError(
                f"weight: a window of {name} {window} (with dilation {dilation[axis]}) does not fit into the input's "
                f"{size} (with padding {padding[axis]})"
            )
        values *= (size - window) // stride[axis] + 1
    if values >= 2**60:  # its bytes must be a 64-bit number
        raise ValueError(f"padding: expected an output that fits into memory, got one of {values} values ({padding=})")


def checked_mask(mask: Tensor, input: Tensor, name: str = "mask") -> Tensor:
    """The mask, with a batch axis and without a gradient, when it fits the batched input. A mask without that axis is
    one for the whole batch."""
    check_tensor(name, mask)
    given, mask = mask, mask.unsqueeze(0) if mask.dim() == input.dim() - 1 else mask
    if not (mask.dtype in (torch.bool, torch.uint8) or mask.dtype in DTYPES):
        raise TypeError(
            f"{name}: expected bool, uint8 or a floating dtype (float64, float32, bfloat16, float16), got {mask.dtype}"
        )
    batch, channels, *size = input.shape
    fits = mask.dim() == input.dim() and mask.shape[0] in (1, batch) and mask.shape[1] in (1, channels)
    if not fits or list(mask.shape[2:]) != size:
        raise ValueError(misfit(name, given, input))
    if mask.device != input.device:
        raise ValueError(f"{name}: expected the input's device {input.device}, got {mask.device}")
    check_binary(mask, name)
    return mask.detach()


def misfit(name: str, mask: Tensor, input: Tensor) -> str:
    """What is wrong with the shape of a mask, which may have no axis for the batch."""
    batch, channels = input.shape[:2]
    size = ", ".join(map(str, input.shape[2:]))
    text = f"{name}: expected ({batch}|1, 1|{channels}, {size}) to fit the input, got {tuple(mask.shape)}"
    if mask.dim() == input.dim() - 1:
        text += f"; of {mask.dim()} dimensions it is (1|{channels}, {size}), one for the whole batch"
        if mask.shape[0] == batch:
            text += f", and {name}.unsqueeze(1) is one each"
    return text


def as_valid(mask: Tensor, name: str = "mask") -> Tensor:
    """The mask as bool: True where it is not 0. NaN is a hole."""
    if mask.dtype == torch.bool:
        return mask
    if mask.dtype.is_complex:
        raise TypeError(f"{name}: expected bool, uint8 or a floating dtype, got {mask.dtype}")
    return mask.abs() > 0 if mask.dtype.is_floating_point else mask != 0


def check_binary(mask: Tensor, name: str = "mask") -> None:
    """With ``PCONV_CHECK=1`` in the environment: RuntimeError for values other than 0 and 1. It synchronises.

    Everything that calls :func:`as_valid` calls this first. (In compiled code the operator itself checks.)
    """
    if torch.compiler.is_compiling() or os.environ.get("PCONV_CHECK") != "1" or mask.is_meta:
        return
    while torch._C._functorch.is_functorch_wrapped_tensor(mask):  # vmap hides the values of what it wraps
        mask = torch._C._functorch.get_unwrapped(mask)
    odd = int(((mask != 0) & (mask != 1)).sum())
    if odd:
        raise RuntimeError(f"{name}: expected zeros and ones (PCONV_CHECK=1), got {odd} other values")


def compact(mask: Tensor) -> Tensor:
    """Undo an expansion over batch or channels, without a copy."""
    if torch.compiler.is_exporting():  # an exported program is called with masks of any strides
        return mask
    if mask.shape[0] > 1 and mask.stride(0) == 0:
        mask = mask[:1]
    if mask.shape[1] > 1 and mask.stride(1) == 0:
        mask = mask[:, :1]
    return mask


def padded_mask(mask: Tensor, sides: Sequence[int], mode: str = "constant") -> Tensor:
    """``F.pad`` of a mask, with holes by default. By way of fp32: most modes, and torch.compile, know no bool."""
    padded = F.pad(as_valid(mask).to(torch.float32), list(sides), mode=mode)
    return padded != 0 if mask.dtype == torch.bool else padded.to(mask.dtype)


def named_padding(
    name: str,
    input: Tensor,
    mask: Tensor | None,
    weight: Tensor,
    stride: tuple[int, int],
    dilation: tuple[int, int],
) -> tuple[Tensor, Tensor | None, tuple[int, int]]:
    """'valid' and 'same' as numbers. An even window needs one more row or column of holes below or right."""
    if name == "valid":
        return input, mask, (0, 0)
    if name != "same":
        raise ValueError(f"padding: expected integers, 'same' or 'valid', got {name!r}")
    if stride != (1, 1):
        raise ValueError(f"padding: 'same' needs stride 1, got stride {stride}")
    rows, columns = (d * (size - 1) for d, size in zip(dilation, weight.shape[2:], strict=True))
    if rows % 2 or columns % 2:
        if mask is None:
            mask = input.new_ones((1, 1, *input.shape[2:]), dtype=torch.bool)
        below_right = (0, columns % 2, 0, rows % 2)
        input, mask = F.pad(input, below_right), padded_mask(mask, below_right)
    return input, mask, (rows // 2, columns // 2)
