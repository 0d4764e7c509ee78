"""Layers of one to three axes, ordinary and transposed, and their truth: loops in numpy from the definition."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

import pconv_cuda
from pconv_cuda import functional
from pconv_cuda.reference_nd import Window


@dataclass(frozen=True)
class CaseNd:
    """A layer; sizes have one integer an axis. mask: "one", "channels", "batch1", "full" or "none"."""

    name: str
    size: tuple[int, ...]
    taps: tuple[int, ...]
    n: int = 2
    c: int = 4
    k: int = 6
    stride: tuple[int, ...] = ()
    padding: tuple[int, ...] = ()
    dilation: tuple[int, ...] = ()
    more: tuple[int, ...] = ()
    groups: int = 1
    transposed: bool = False
    mask: str = "one"
    bias: bool = True

    @property
    def axes(self) -> int:
        return len(self.size)

    @property
    def window(self) -> Window:
        ones, zeros = (1,) * self.axes, (0,) * self.axes
        return Window(
            self.stride or ones,
            self.padding or zeros,
            self.dilation or ones,
            self.more or zeros,
            self.groups,
            self.transposed,
        )

    def call(self, input: Tensor, mask: Tensor | None, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor]:
        """By the public function."""
        stride, padding, dilation, more, groups, transposed = self.window
        name = f"partial_conv{'_transpose' if transposed else ''}{self.axes}d"
        function = getattr(functional, name)
        if transposed:
            return function(input, mask, weight, bias, stride, padding, more, groups, dilation)
        return function(input, mask, weight, bias, stride, padding, dilation, groups)


def _up(*cases: CaseNd) -> list[CaseNd]:
    return [replace(case, name=f"up_{case.name}", transposed=True) for case in cases]


CASES_ND = [
    CaseNd("row", (9,), (3,), padding=(1,)),
    CaseNd("row_strided", (11,), (4,), stride=(3,), padding=(2,), dilation=(2,)),
    CaseNd("row_groups", (7,), (3,), groups=2, mask="channels"),
    CaseNd("row_depthwise", (8,), (5,), k=4, groups=4, padding=(2,), mask="none"),
    CaseNd("row_one_channel", (6,), (3,), c=1, k=1, padding=(1,)),
    CaseNd("row_one_position", (1,), (1,), mask="batch1"),
    CaseNd("volume", (4, 5, 3), (3, 3, 3), padding=(1, 1, 1)),
    CaseNd("volume_strided", (5, 6, 7), (2, 3, 1), stride=(2, 1, 3), padding=(1, 0, 0), bias=False),
    CaseNd("volume_dilated", (5, 4, 6), (2, 2, 3), padding=(1, 2, 2), dilation=(2, 1, 2), mask="batch1"),
    CaseNd("volume_groups", (3, 4, 4), (3, 2, 2), groups=2, mask="channels"),
    CaseNd("volume_channels", (3, 4, 5), (3, 3, 2), padding=(1, 1, 0), mask="channels"),
    CaseNd("volume_one_channel", (1, 4, 1), (1, 3, 1), c=1, k=2, padding=(0, 1, 0)),
    CaseNd("volume_pointwise_strided", (4, 5, 6), (1, 1, 1), stride=(2, 2, 2)),
    CaseNd("volume_past_the_end", (3, 3, 2), (2, 1, 2), stride=(5, 4, 1)),
    CaseNd("volume_full_no_padding", (4, 4, 4), (2, 3, 2), mask="full"),
    CaseNd("volume_no_mask", (4, 3, 5), (3, 3, 3), padding=(1, 1, 1), mask="none"),
    CaseNd("volume_empty_batch", (3, 3, 3), (2, 2, 2), n=0),
    *_up(
        CaseNd("row", (9,), (3,), padding=(1,)),
        CaseNd("row_strided", (5,), (4,), stride=(2,), padding=(1,), mask="channels"),
        CaseNd("row_gaps", (4,), (2,), stride=(3,), more=(2,)),
        CaseNd("row_depthwise", (5,), (3,), k=4, groups=4, stride=(2,), mask="channels"),
        CaseNd("plane", (5, 6), (4, 4), stride=(2, 2), padding=(1, 1)),
        CaseNd("plane_odd", (4, 3), (3, 5), stride=(2, 3), padding=(1, 2), more=(1, 0)),
        CaseNd("plane_dilated", (4, 5), (3, 2), stride=(2, 1), padding=(1, 0), dilation=(2, 3), more=(1, 2)),
        CaseNd("plane_gaps", (3, 4), (2, 1), stride=(3, 2), bias=True, mask="full"),
        CaseNd("plane_groups", (4, 4), (3, 3), stride=(2, 2), padding=(1, 1), groups=2, mask="channels"),
        CaseNd("plane_groups_one_mask", (4, 4), (3, 3), stride=(2, 2), padding=(1, 1), groups=2),
        CaseNd("plane_channels", (4, 5), (2, 3), stride=(2, 2), mask="channels", bias=False),
        CaseNd("plane_no_mask", (3, 5), (4, 4), stride=(2, 2), padding=(1, 1), mask="none"),
        CaseNd("plane_far_padding", (5, 6), (3, 3), padding=(3, 2), mask="batch1"),
        CaseNd("plane_pointwise", (4, 3), (1, 1), stride=(2, 2)),
        CaseNd("plane_one_channel", (1, 5), (1, 3), c=1, k=1, stride=(1, 2)),
        CaseNd("plane_empty_batch", (3, 3), (2, 2), n=0),
        CaseNd("volume", (3, 4, 3), (3, 2, 4), stride=(2, 2, 2), padding=(1, 0, 1), more=(1, 0, 0)),
        CaseNd("volume_groups", (2, 3, 3), (2, 3, 2), stride=(1, 2, 1), groups=2, mask="channels"),
        CaseNd("volume_no_mask", (3, 3, 2), (2, 2, 2), stride=(2, 2, 2), mask="none"),
    ),
]
# Too long for loops in Python: more positions than the passes on a CPU take at once.
LONG_CASES = [
    CaseNd("row_long", (9001,), (5,), c=2, k=3, stride=(2,), padding=(2,)),
    CaseNd("volume_long", (5, 31, 33), (3, 3, 3), c=2, k=3, padding=(1, 1, 1)),
    CaseNd("up_plane_long", (41, 60), (4, 3), c=2, k=4, stride=(2, 2), padding=(1, 1), groups=2, transposed=True),
]
BY_NAME_ND = {case.name: case for case in CASES_ND}


def tensors_of(case: CaseNd, dtype: torch.dtype = torch.float64, seed: int = 0, poison: bool = True) -> list:
    """[input, mask, weight, bias, grad] of random values, rounded to ``dtype`` and held in float64; NaN in holes."""
    generator = torch.Generator().manual_seed(seed)

    def randn(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype).double()

    mask: Tensor | None = None
    if case.mask != "none":
        shape = (1 if case.mask == "batch1" else case.n, case.c if case.mask == "channels" else 1, *case.size)
        mask = torch.rand(shape, generator=generator) > 0.5
        mask[..., : max(1, case.size[-1] // 2)] &= torch.rand(shape, generator=generator)[..., :1] > 0.6  # dead windows
        if case.mask == "full":
            mask = torch.ones_like(mask)
    input = randn(case.n, case.c, *case.size)
    if poison and mask is not None:
        input = torch.where(mask, input, torch.nan)
    outer, inner = (case.c, case.k) if case.transposed else (case.k, case.c)
    weight = randn(outer, inner // case.groups, *case.taps)
    bias = randn(case.k) if case.bias else None
    grad = torch.randn(output_size(case), generator=generator, dtype=torch.float64).to(dtype).double()
    return [input, mask, weight, bias, grad]


def output_size(case: CaseNd) -> tuple[int, ...]:
    """(N, K, ...), from the definition: the positions that a window, or a tap, reaches."""
    stride, padding, dilation, more, *_ = case.window
    size = [case.n, case.k]
    for i, length in enumerate(case.size):
        reach = dilation[i] * (case.taps[i] - 1) + 1
        if case.transposed:
            size.append((length - 1) * stride[i] + reach - 2 * padding[i] + more[i])
        else:
            size.append(len(range(0, length + 2 * padding[i] - reach + 1, stride[i])))
    return tuple(size)


def loops(case: CaseNd, input: Tensor, mask: Tensor | None, weight: Tensor, bias: Tensor | None):
    """(output, new mask), both (N, K, ...) in numpy float64, by visiting each pair of an input position and a tap.

    full is counted the same way over an input that goes on for so long that no window sees its end.
    """
    stride, padding, dilation, _, groups, transposed = case.window
    x = input.numpy()
    valid = np.ones(x.shape, bool) if mask is None else np.broadcast_to(mask.numpy(), x.shape)
    w, shape = weight.numpy(), output_size(case)
    sums, counts, full = np.zeros(shape), np.zeros(shape, int), np.zeros(shape, int)
    inputs, outputs = case.c // groups, case.k // groups

    def meets(place: tuple[int, ...], tap: tuple[int, ...]) -> tuple[int, ...] | None:
        """The output position that sees the input position through the tap."""
        out = []
        for i, (at, t) in enumerate(zip(place, tap, strict=True)):
            if transposed:
                to = at * stride[i] + t * dilation[i] - padding[i]
            else:
                to, rest = divmod(at + padding[i] - t * dilation[i], stride[i])
                if rest:
                    return None
            if not 0 <= to < shape[2 + i]:
                return None
            out.append(to)
        return tuple(out)

    margin = [padding[i] + dilation[i] * case.taps[i] + 1 for i in range(case.axes)]
    places = itertools.product(*(range(-m, size + m) for m, size in zip(margin, case.size, strict=True)))
    for place, tap in itertools.product(places, itertools.product(*map(range, case.taps))):
        out = meets(place, tap)
        if out is None:
            continue
        full[(slice(None), slice(None), *out)] += inputs
        if not all(0 <= at < size for at, size in zip(place, case.size, strict=True)):
            continue
        for n, k, c in itertools.product(range(case.n), range(case.k), range(inputs)):
            group = k // outputs
            channel = group * inputs + c
            if valid[(n, channel, *place)]:
                factor = w[(channel, k % outputs, *tap)] if transposed else w[(k, c, *tap)]
                sums[(n, k, *out)] += factor * x[(n, channel, *place)]
                counts[(n, k, *out)] += 1
    live = counts > 0
    output = np.where(live, sums * full / np.maximum(counts, 1), 0.0)
    if bias is not None:
        output += np.where(live, bias.numpy().reshape(1, -1, *(1,) * case.axes), 0.0)
    return output, live


LAYERS = ["Conv1d", "Conv3d", "ConvTranspose1d", "ConvTranspose2d", "ConvTranspose3d"]


def partial(name: str, *arguments: Any, **options: Any) -> Any:
    return getattr(pconv_cuda, f"Partial{name}")(*arguments, **options)


def volume(axes: int, *shape: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    size = (6, 5, 7)[-axes:]
    return torch.randn(*shape, *size, generator=generator), torch.rand(shape[0], 1, *size, generator=generator) > 0.5
