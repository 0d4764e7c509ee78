"""What a layer launches, from the plan that the operators make (``pconv_cuda._C.plan_numbers``), and how its blocks
fill a device: waves, and how full the last one is."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from cases import Case, paper_layers
from cases_upcat import Stage, paper_stages

from benchmarks.static_model.devices import Gpu
from pconv_cuda.ops import extension

DTYPES = {"bfloat16": 2, "float16": 2, "float32": 4}
PASSES = {"fprop": 0, "dgrad": 1, "upcat": 3}  # csrc/cuda/plan/tiles.h
MATHS = {"bf16": "Bf16", "fp16": "Half", "tf32": "Tf32", "fp32": "Ieee"}


@dataclass(frozen=True)
class Sweep:
    """A pass over memory beside the product: partial sums, packing, the scaled gradient."""

    name: str
    bytes: float


@dataclass(frozen=True)
class Launch:
    """One product. ``steps``: of a block's main loop, on average; ``taps`` of each of the mask's ``mask_blocks``."""

    layer: str
    name: str
    kernel: str
    pass_name: str
    special: str
    tile: str
    rows: int
    columns: int
    grid: tuple[int, int, int]
    splits: int
    patch: tuple[int, int]
    taps_per_step: int
    shared: int
    math: str
    transposed: bool
    taps: int
    mask_blocks: int
    steps: float
    flops: float
    outputs: int  # elements
    bytes: float
    sweeps: tuple[Sweep, ...]

    @property
    def blocks(self) -> int:
        return math.prod(self.grid)

    def symbol(self) -> str:
        """A pattern for its kernel's readable name; of several that it fits the one with most stages is meant."""
        kind = MATHS[self.math]
        if self.special == "first":
            return rf"^first_layer_kernel<{kind}, (true|1)"
        if self.special == "last":
            return rf"^upcat_last_kernel<{kind}" if self.pass_name == "upcat" else rf"^last_layer_kernel<{kind}"
        wide = rf"Tile<{self.rows}, {self.columns},"
        family = "wgmma_" if "wgmma" in self.tile else ""
        stages = re.search(r"\((\d+) stages\)", self.tile)
        more = rf" \d+, \d+, {stages.group(1)}," if stages else ""
        if self.pass_name == "wgrad":
            return rf"^{family}wgrad_kernel<{kind}, (Wgmma)?{wide}{more}"
        order = int(self.pass_name == "dgrad" and not self.transposed)
        return rf"^{family}gemm_kernel<{PASSES[self.pass_name]}, {kind}, (Wgmma)?{wide}{more}.*>, {order}>"


def stages_of(name: str) -> int:
    found = re.search(r"Tile<([^>]*)>", name)
    parts = found.group(1).split(",") if found else []
    return int(parts[4]) if len(parts) > 4 else 0


def plan(sizes: Sequence[int], dtype: str, gpu: Gpu, wgmma: bool, **options: Any) -> list[dict[str, Any]]:
    return extension.load().plan_numbers(
        *sizes, dtype, arch=gpu.arch, multiprocessors=gpu.multiprocessors, shared_bytes=gpu.block_shared, wgmma=wgmma,
        **options,
    )  # fmt: skip


def steps_of(row: dict[str, Any], channels: Sequence[int], taps: Sequence[float], depth: int) -> float:
    """Of a whole tile: for each block of channels its taps times its pieces of ``depth``."""
    pairs = zip(channels, taps, strict=True)
    return sum(math.ceil(t / row["taps_per_step"]) * math.ceil(c / depth) for c, t in pairs)


def wgrad_shared(row: dict[str, Any]) -> int:
    """Bytes of a block of wgrad_kernel: its stages, and the places of two steps' pixels."""
    if "wgmma" in row["tile"]:
        return row["shared_bytes"]
    return (2 if "2 stages" in row["tile"] else 3) * (row["rows"] + row["columns"]) * 128 + 1536


def launch_of(layer: str, row: dict[str, Any], element: int, low: int, mask_channels: Sequence[int]) -> Launch:
    """``low``: channels of a stage's lower source; of the mask's blocks: ``mask_channels``."""
    g, kind, depth = row["geometry"], row["pass"], 128 // element
    taps, pixels = g["r"] * g["s"], g["n"] * g["p"] * g["q"]
    x, y = g["n"] * g["c"] * g["h"] * g["w"], pixels * g["k"]
    weight = g["k"] * g["c"] * taps
    flops, masks = 2.0 * y * g["c"] * taps, g["n"] * (g["h"] * g["w"] + g["p"] * g["q"])
    moved = element * (x + y + weight) + masks
    sweeps: list[Sweep] = []
    mask_blocks, per_block, shared = row["mask_blocks"], taps, row["shared_bytes"]
    if kind == "upcat":
        low_taps, skip = (9 if row["direct"] else 4), g["c"] - low
        per_block, mask_blocks = low_taps + 9, 1  # a row has all of its bytes in one piece of code
        steps = steps_of(row, (low, skip), (low_taps, 9), depth)
        flops = 2.0 * y * (4 * low + 9 * skip)
        moved = element * (x * (low / 4 + skip) / g["c"] + y + weight) + masks
        if not row["direct"] and row["name"] == "forward" and not row["special"]:
            sweeps.append(Sweep("weight in phases", element * g["k"] * low * 25))
    elif kind == "wgrad":
        shared = wgrad_shared(row)
        steps = math.ceil(pixels / depth)
        sums = 4 * g["k"] * taps * row["source_channels"]
        sweeps.append(Sweep("sums of splits", sums * row["splits"] + element * weight))
        moved = element * (x + y) + masks
    elif kind == "dgrad":
        steps = steps_of(row, (row["k_padded"],), (taps / g["stride"] ** 2,), depth)
        steps *= taps / g["stride"] ** 2 / max(1, math.ceil(taps / g["stride"] ** 2))
    else:
        channels = list(mask_channels) if row["mask_blocks"] > 1 else [row["source_channels"]]
        steps = steps_of(row, channels, [taps] * len(channels), depth)
    if kind != "wgrad" and row["splits"] > 1 and not row["special"]:
        out = x if kind == "dgrad" else y
        sweeps.append(Sweep("sums of splits", out * (4 * row["splits"] + element)))
    if row["pack_input"] and kind != "dgrad":
        sweeps.append(Sweep("input packed", 2 * element * x))
    outputs = weight if kind == "wgrad" else x if kind == "dgrad" else y
    return Launch(
        layer=layer, name=row["name"], kernel=row["kernel"], pass_name=kind, special=row["special"], tile=row["tile"],
        rows=row["rows"], columns=row["columns"], grid=tuple(row["grid"]), splits=row["splits"],
        patch=(row["patch_h"], row["patch_w"]), taps_per_step=row["taps_per_step"], shared=shared,
        math=row["math"], transposed=row["transposed_filters"], taps=per_block, mask_blocks=mask_blocks,
        steps=steps / row["splits"], flops=flops, outputs=outputs, bytes=moved, sweeps=tuple(sweeps),
    )  # fmt: skip


def with_scaled(launches: list[Launch], grad_elements: float, element: int) -> list[Launch]:
    """The first of the backward pass is preceded by ratio * gradient, which the others read too."""
    sweep, first = Sweep("scaled gradient", 2 * element * grad_elements), True
    found = []
    for one in launches:
        if first and not one.name.startswith("forward"):
            one, first = replace(one, sweeps=(sweep, *one.sweeps)), False
        found.append(one)
    return found


def of_layer(case: Case, dtype: str, gpu: Gpu, wgmma: bool, tile: int = -1) -> list[Launch]:
    """Forward, input gradient (the first layer's picture has none), weight gradient. ``tile``: the number of one in
    csrc/cuda/plan/tiles.h that is taken where it can be."""
    sizes = (case.n, case.c, case.h, case.w, case.k, *case.window, case.stride[0])
    rows = plan(sizes, dtype, gpu, wgmma, mask_channels=list(case.mask_channels), tile=tile)
    element = DTYPES[dtype]
    made = [launch_of(case.name, row, element, 0, case.mask_channels) for row in rows]
    made = [one for one in made if case.name != "enc1" or one.name != "input gradient"]
    g = rows[0]["geometry"]
    return with_scaled(made, g["n"] * g["k"] * g["p"] * g["q"], element)


def of_stage(stage: Stage, dtype: str, gpu: Gpu, wgmma: bool, tile: int = -1) -> list[Launch]:
    """Forward without prepared phases, and the products of the backward pass."""
    h, w, channels = 2 * stage.h, 2 * stage.w, stage.low + stage.skip
    sizes = (stage.n, channels, h, w, stage.k, 3, 3, 1)
    rows = plan(sizes, dtype, gpu, wgmma, low_channels=stage.low, tile=tile)
    element, blocks = DTYPES[dtype], (stage.low, stage.skip)
    made = [launch_of(stage.name, row, element, stage.low, blocks) for row in rows if row["name"] != "forward, fused"]
    made = with_scaled(made, stage.n * h * w * stage.k, element)
    pairs, small = stage.k * stage.low, stage.n * stage.h * stage.w * stage.low
    more = {
        "low gradient": Sweep("low's filters", element * pairs * (9 + 16)),
        "weight of low": Sweep("low masked, sums folded", 2 * element * small + pairs * (4 * 16 + 9 * element)),
    }
    return [replace(one, sweeps=(*one.sweeps, more[one.name])) if one.name in more else one for one in made]


def of_network(size: int, batch: int, dtype: str, gpu: Gpu, wgmma: bool, tile: int = -1) -> list[Launch]:
    """Encoder layers and decoder stages of the paper's network, in the order of a forward pass. The picture, which is
    the last stage's skip too, has no gradient."""
    levels = max(1, min(8, size.bit_length() - 2))
    encoder = [case for case in paper_layers(size, batch) if case.name.startswith("enc")][:levels]
    made = [one for case in encoder for one in of_layer(case, dtype, gpu, wgmma, tile)]
    stages = paper_stages(size, batch, levels)[::-1]
    made += [one for stage in stages for one in of_stage(stage, dtype, gpu, wgmma, tile)]
    return [one for one in made if (one.layer, one.name) != ("dec1", "skip gradient")]


@dataclass(frozen=True)
class Waves:
    """How blocks of equal length fill the ``slots`` of a device, as many as run at once."""

    blocks: int
    slots: int

    @property
    def rounds(self) -> int:
        return math.ceil(self.blocks / self.slots)

    @property
    def exact(self) -> float:
        return self.blocks / self.slots

    @property
    def efficiency(self) -> float:
        """Of the slots' time."""
        return self.exact / self.rounds if self.blocks else 0.0

    @property
    def last(self) -> float:
        """Share of the slots that the last round fills."""
        return (self.blocks - (self.rounds - 1) * self.slots) / self.slots if self.blocks else 0.0


def resident(gpu: Gpu, shared: int, threads: int, registers: int) -> int:
    """Blocks on a multiprocessor at once. Registers are given out in units of 8 a thread."""
    by_registers = gpu.registers // (threads * math.ceil(max(registers, 1) / 8) * 8)
    by_shared = gpu.shared // (shared + gpu.reserved)
    return max(1, min(by_shared, by_registers, gpu.threads // threads, gpu.blocks))
