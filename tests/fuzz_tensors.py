"""Random tensors for tests/fuzz_operators.py: masks of every dtype and form, and views of every kind of strides."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

__all__ = ["DTYPES", "Draw", "repeated", "values_of", "view_of"]

DTYPES = (torch.float64, torch.float32, torch.float32, torch.bfloat16, torch.float16)
MASK_DTYPES = (torch.bool, torch.bool, torch.uint8, *DTYPES)
T = TypeVar("T")


class Draw:
    """All choices of one case, from its number alone."""

    def __init__(self, seed: int, index: int) -> None:
        self._random = random.Random(f"{seed} {index}")
        self._generator = torch.Generator().manual_seed(self._random.getrandbits(62))

    def choice(self, options: Sequence[T]) -> T:
        return self._random.choice(options)

    def chance(self, share: float) -> bool:
        return self._random.random() < share

    def integer(self, least: int, most: int) -> int:
        return self._random.randint(least, most)

    def pair(self, options: Sequence[int]) -> tuple[int, int]:
        first = self.choice(options)
        return (first, first) if self.chance(0.6) else (first, self.choice(options))

    def size(self, most: int = 40) -> int:
        """Of one side: small, mostly."""
        return self.choice((1, 2, 3, 5, 8, 9, 13, 16)) if self.chance(0.85) else self.integer(1, most)

    def randn(self, *shape: int) -> Tensor:
        return torch.randn(shape, generator=self._generator, dtype=torch.float64)

    def rand(self, *shape: int) -> Tensor:
        return torch.rand(shape, generator=self._generator)

    def mask(self, n: int, c: int, h: int, w: int, *, equal: bool = False) -> Tensor | None:
        """None, or bool ``(n|1, 1|c, h, w)``: all valid, all holes, a band of holes and others at random.

        Args:
            equal: channels agree.
        """
        if self.chance(0.15):
            return None
        batch = 1 if n > 0 and self.chance(0.3) else n
        channels = c if self.chance(0.3) else 1
        kind = self.choice(("holes", "holes", "holes", "full", "empty"))
        if kind != "holes":
            return torch.full((batch, channels, h, w), kind == "full")
        mask = self.rand(batch, 1 if equal else channels, h, w) > self.choice((0.1, 0.4, 0.9))
        mask[:, :, : self.integer(0, max(h - 1, 0))] = False
        return mask.expand(batch, channels, h, w).contiguous()


def values_of(draw: Draw, mask: Tensor) -> Tensor:
    """A bool mask in some dtype, with any of the values that mean valid and hole there."""
    dtype = draw.choice(MASK_DTYPES)
    if dtype == torch.bool:
        return mask
    if dtype == torch.uint8:
        valid, hole = [1, 255] if draw.chance(0.5) else [1], [0]
    elif draw.chance(0.5):
        valid, hole = [1.0], [0.0]
    else:
        valid, hole = [1.0, -1.0, 0.25, float("inf")], [0.0, -0.0, float("nan")]
    picks = draw.rand(*mask.shape)

    def some(values: list[Any]) -> Tensor:
        return torch.tensor(values, dtype=torch.float64)[(picks * len(values)).long().clamp(max=len(values) - 1)]

    return torch.where(mask, some(valid), some(hole)).to(dtype)


def view_of(draw: Draw, tensor: Tensor) -> Tensor:
    """The same values behind other strides and offsets."""
    kind = draw.choice(("dense", "dense", "channels_last", "channels_last", "sliced", "turned", "stepped", "expanded"))
    if kind == "channels_last" and tensor.dim() == 4:
        # not contiguous(), which leaves a tensor of one channel as it is
        return torch.empty(tensor.shape, dtype=tensor.dtype, memory_format=torch.channels_last).copy_(tensor)
    if kind == "sliced":
        axis = draw.integer(0, tensor.dim() - 1)
        before, after = draw.integer(0, 2), draw.integer(0, 2)
        shape = list(tensor.shape)
        shape[axis] += before + after
        wide = torch.full(shape, 77, dtype=tensor.dtype)
        view = wide.narrow(axis, before, tensor.shape[axis])
        return view.copy_(tensor)
    if kind == "turned" and tensor.dim() == 4:
        first, second = draw.choice(((2, 3), (0, 1), (1, 3), (1, 2)))
        return tensor.transpose(first, second).contiguous().transpose(first, second)
    if kind == "stepped":
        axis = draw.integer(0, tensor.dim() - 1)
        shape = list(tensor.shape)
        shape[axis] *= 2
        wide = torch.full(shape, 77, dtype=tensor.dtype)
        view = wide[(slice(None),) * axis + (slice(None, None, 2),)]
        return view.copy_(tensor)
    if kind == "expanded":
        for axis in range(tensor.dim()):
            if tensor.shape[axis] > 1 and bool((tensor.narrow(axis, 0, 1) == tensor).all()):
                tensor = tensor.narrow(axis, 0, 1).expand(tensor.shape)
        return tensor
    return tensor.contiguous()


def repeated(draw: Draw, tensor: Tensor) -> Tensor:
    """The first of the values along one axis, again and again: what an expanded view can hold."""
    axis = draw.integer(0, tensor.dim() - 1)
    return tensor.narrow(axis, 0, 1).expand(tensor.shape).contiguous() if tensor.shape[axis] else tensor
