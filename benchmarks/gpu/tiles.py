"""Every tile of every product of the network on a GPU: which is the fastest, and which one the plan takes.

    python -m benchmarks.gpu.tiles OUT.json [--seconds N] [--size 512] [--batch 6] [--dtype bfloat16] [--levels 8]

The products are the encoder's layers and the decoder's stages, forward and each gradient by itself, with all that
their operators launch; the first layer's forward and the last stage's have kernels of their own. Tiles take turns
behind a flush of the L2 cache. A row is written when it is measured: it is what the rules of csrc/cuda/plan/tiles.h
can be checked against.
"""

from __future__ import annotations

import functools
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from cases import Case, paper_layers
from cases_upcat import Stage, paper_stages

from benchmarks.gpu import device, layers
from benchmarks.gpu.layers import HOLE_SHARE, Call, blob_mask
from pconv_cuda import ops
from pconv_cuda.ops import extension

FPROP, DGRAD, WGRAD, UPCAT = range(4)  # as csrc/cuda/plan/tiles.h numbers the passes
FUSED = 2  # the path of a forced choice (csrc/torch/choice.h)


@dataclass(frozen=True)
class Product:
    """``planned``: its name in plan_numbers(); ``number``: of its pass."""

    name: str
    planned: str
    number: int
    call: Call


class Drawn:
    """Tensors of one layer or stage, and its operators: called as they are, for a forced choice holds for one thread,
    and autograd has threads of its own."""

    def __init__(self, dtype: torch.dtype, window: tuple[Any, ...], is_nhwc: bool) -> None:
        self.dtype, self.window, self.generator = dtype, window, torch.Generator().manual_seed(0)
        self.layout = torch.channels_last if is_nhwc else torch.contiguous_format
        self.numbers = torch.Generator(device.NAME).manual_seed(0)
        self.sources: list[torch.Tensor | None] = []

    def tensor(self, *shape: int) -> torch.Tensor:
        drawn = torch.randn(shape, generator=self.numbers, device=device.NAME, dtype=self.dtype)
        return drawn.contiguous(memory_format=self.layout)

    def source(self, n: int, c: int, h: int, w: int) -> None:
        mask = blob_mask(n, h, w, HOLE_SHARE, self.generator).to(device.NAME)
        self.sources += [self.tensor(n, c, h, w), mask]

    def weight(self, *shape: int) -> None:
        self.filters = self.tensor(*shape)
        self.sources += [None] * (4 - len(self.sources))
        output, _, self.ratio = self.forward()
        self.upstream = torch.randn_like(output)

    def forward(self) -> Any:
        return ops.partial_conv2d(*self.sources, self.filters, None, *self.window)

    def backward(self, wanted: int) -> Any:
        """wanted: 0 the input's gradient, 1 the skip's, 2 the weight's."""
        needed = [number == wanted for number in range(4)]
        return ops.partial_conv2d_backward(
            self.upstream, *self.sources, self.filters, self.ratio, *self.window, *needed
        )  # fmt: skip

    def products(self, names: dict[str, tuple[str, int, int]]) -> list[Product]:
        """names: of a product its name in plan_numbers(), its pass, and what backward() takes, -1: forward."""
        return [
            Product(name, planned, number, self.forward if wanted < 0 else functools.partial(self.backward, wanted))
            for name, (planned, number, wanted) in names.items()
        ]


def of_layer(case: Case, dtype: torch.dtype, is_nhwc: bool = True) -> list[Product]:
    drawn = Drawn(dtype, (list(case.stride), list(case.padding), list(case.dilation), 1, False), is_nhwc)
    drawn.source(case.n, case.c, case.h, case.w)
    drawn.weight(case.k, case.c, *case.window)
    names = {
        "forward": ("forward", FPROP, -1), "input gradient": ("input gradient", DGRAD, 0),
        "weight gradient": ("weight gradient", WGRAD, 2),
    }  # fmt: skip
    if case.c <= 4:  # the picture has no gradient
        names = {"weight gradient": names["weight gradient"]}
    return drawn.products(names)


def of_stage(stage: Stage, dtype: torch.dtype, is_nhwc: bool = True) -> list[Product]:
    drawn, n, h, w = Drawn(dtype, ([1, 1], [1, 1], [1, 1], 1, True), is_nhwc), stage.n, stage.h, stage.w
    drawn.source(n, stage.low, h, w)
    drawn.source(n, stage.skip, 2 * h, 2 * w)
    drawn.weight(stage.k, stage.low + stage.skip, 3, 3)
    names = {
        "forward": ("forward", UPCAT, -1), "low gradient": ("low gradient", FPROP, 0),
        "skip gradient": ("skip gradient", DGRAD, 1), "weight gradients": ("weight of low", WGRAD, 2),
    }  # fmt: skip
    if stage.skip <= 4:
        names = {name: names[name] for name in ("low gradient", "weight gradients")}
    return drawn.products(names)


def plans(sizes: list[int], dtype: str, low: int, tile: int) -> dict[str, str]:
    """The tile of each product; where ``tile`` cannot be taken the plan's own. Deep stages join their sources: their
    skip's gradient is low's."""
    properties = torch.cuda.get_device_properties(0) if not device.REHEARSED else None
    rows = extension.load().plan_numbers(
        *sizes, dtype, low_channels=low, multiprocessors=properties.multi_processor_count if properties else 132,
        wgmma=device.has_wgmma(), tile=tile,
    )  # fmt: skip
    named = {row["name"]: row["tile"] if row["fast"] and not row["special"] else "" for row in rows}
    joined, weight = named.get("input gradients", ""), named.get("weight gradient", "")
    return {"low gradient": joined, "skip gradient": joined, "weight of low": weight, **named}


def choices(product: Product, sizes: list[int], dtype: str, low: int) -> dict[str, int]:
    """Tile -> the forced choice that takes it, the plan's own tile first."""
    number = DGRAD if low and product.number == FPROP and not has_low_product(sizes, dtype, low) else product.number
    found = {plans(sizes, dtype, low, -1)[product.planned]: FUSED}
    for tile in range(extension.load().tile_count):
        found.setdefault(plans(sizes, dtype, low, tile)[product.planned], FUSED | (tile + 1) << (4 + 4 * number))
    return {name: choice for name, choice in found.items() if name}


def has_low_product(sizes: list[int], dtype: str, low: int) -> bool:
    rows = extension.load().plan_numbers(*sizes, dtype, low_channels=low)
    return any(row["name"] == "low gradient" for row in rows)


def forced(choice: int, call: Call) -> Call:
    module = extension.cuda_module()

    def run() -> Any:
        if module is not None:
            module.force_path(choice)
        try:
            return call()
        finally:
            if module is not None:
                module.force_path(-1)

    return run


# name, sizes as plan_numbers() takes them, channels of low (0: a layer), and what draws its products
Drawing = tuple[str, list[int], int, Callable[..., list[Product]]]


def every_product(size: int, batch: int, levels: int, dtype: torch.dtype) -> list[Drawing]:
    """Of the encoder's layers and the decoder's stages; drawn with ``is_nhwc=False`` they are NCHW."""
    found: list[Drawing] = []
    for case in paper_layers(size, batch):
        if case.name.startswith("enc") and int(case.name[3:]) <= levels:
            sizes = [case.n, case.c, case.h, case.w, case.k, *case.window, case.stride[0]]
            found.append((case.name, sizes, 0, functools.partial(of_layer, case, dtype)))
    for stage in paper_stages(size, batch, levels):
        sizes = [stage.n, stage.low + stage.skip, 2 * stage.h, 2 * stage.w, stage.k, 3, 3, 1]
        found.append((stage.name, sizes, stage.low, functools.partial(of_stage, stage, dtype)))
    return found


def main() -> int:
    args = layers.options(__doc__).parse_args()
    if not device.is_there():
        print("not measured: torch sees no GPU")
        return 0
    stop, dtype = time.monotonic() + args.seconds, getattr(torch, args.dtype)
    rows: list[dict[str, Any]] = []
    result = {**layers.conditions(args), "tiles": rows}
    device.take_wgmma(True)
    for name, sizes, low, made in every_product(args.size, args.batch, args.levels, dtype):
        for product in made():
            if time.monotonic() > stop:
                result["cut_short_before"] = f"{name}, {product.name}"
                layers.keep(args.out, result)
                return 0
            found = choices(product, sizes, args.dtype, low)
            times = layers.timed({tile: forced(choice, product.call) for tile, choice in found.items()}, args.rounds)
            rows.append({"layer": name, "pass": product.name, "planned": next(iter(found)), "times": times})
            layers.keep(args.out, result)
    return 0


if __name__ == "__main__":
    sys.exit(main())
