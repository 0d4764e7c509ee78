"""The paper's layers on a GPU: ours against cuDNN's plain convolution, the unfused layer, and that layer compiled.

    python -m benchmarks.gpu_layers OUT.json [--seconds N] [--size 512] [--batch 6] [--dtype bfloat16]

Rivals take turns, each call timed with CUDA events behind a flush of the L2 cache; the result is written after every
layer, so that a run cut short still tells.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from cases import Case, blob_mask, paper_layers

from benchmarks import floors, measure, rivals
from pconv_cuda import ops

HOLE_SHARE = 0.25
Call = Callable[[], Any]


def timed(calls: dict[str, Call], rounds: int) -> dict[str, list[float]]:
    return measure.alternate(calls, rounds, device="cuda")


def calls_of(case: Case, dtype: torch.dtype, backward: bool) -> dict[str, Call]:
    generator = torch.Generator().manual_seed(0)

    def channels_last(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator).to("cuda", dtype, memory_format=torch.channels_last)

    x = channels_last(case.n, case.c, case.h, case.w).requires_grad_(backward and case.name != "enc1")
    weight = channels_last(case.k, case.c, *case.window).requires_grad_(backward)
    bias = torch.randn(case.k, generator=generator).to("cuda", dtype) if case.bias else None
    channels = list(case.mask_channels)
    mask = torch.cat([blob_mask(case.n, case.h, case.w, HOLE_SHARE, generator) for _ in channels or [0]], 1).cuda()
    # The unfused layer knows no blocks; it gets what its users give it, one mask for all channels, which flatters it.
    single = mask[:, :1].contiguous()
    window = [list(case.stride), list(case.padding), list(case.dilation), 1]
    compiled = torch.compile(rivals.unfused_single, dynamic=False)
    leaves = [leaf for leaf in (x, weight) if leaf.requires_grad]
    layers: dict[str, Call] = {
        "ours": lambda: ops.partial_conv2d(x, mask, channels, weight, bias, *window)[0],
        "plain": lambda: rivals.plain(x, single, weight, bias, case.stride, case.padding),
        "unfused": lambda: rivals.unfused_single(x, single, weight, bias, case.stride, case.padding),
        "unfused_compiled": lambda: compiled(x, single, weight, bias, case.stride, case.padding),
    }
    if not backward:
        return layers
    grad = torch.randn_like(layers["plain"]().detach())
    return {name: (lambda call=call: torch.autograd.grad(call(), leaves, grad)) for name, call in layers.items()}


def summary(times: dict[str, list[float]]) -> dict[str, dict[str, float]]:
    return {
        name: {"median_us": statistics.median(v) * 1e6, "min_us": min(v) * 1e6, "max_us": max(v) * 1e6}
        for name, v in times.items()
    }


def measure_layer(case: Case, dtype: torch.dtype, ceiling: dict[str, float], rounds: int) -> dict[str, Any]:
    floor = floors.milliseconds(floors.layer(case, dtype.itemsize, False), ceiling)
    row: dict[str, Any] = {
        "layer": case.name,
        "floor_us": {kind: 1e3 * floor[kind] for kind in ("arithmetic", "bytes")},
    }
    for backward in (False, True):
        row["forward_backward" if backward else "forward"] = summary(timed(calls_of(case, dtype, backward), rounds))
    return row


def parser(about: str | None) -> argparse.ArgumentParser:
    """The options that :mod:`benchmarks.gpu_networks` has too."""
    made = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("out", type=Path)
    made.add_argument("--seconds", type=float, default=200)
    made.add_argument("--size", type=int, default=512)
    made.add_argument("--batch", type=int, default=6)
    made.add_argument("--dtype", default="bfloat16", choices=["bfloat16", "float16", "float32"])
    made.add_argument("--rounds", type=int, default=20)
    return made


def conditions(args: argparse.Namespace) -> dict[str, Any]:
    """What a result was measured on, and how."""
    return {
        "device": torch.cuda.get_device_name(), "torch": torch.__version__,
        "cudnn": torch.backends.cudnn.version(), "dtype": args.dtype, "batch": args.batch, "size": args.size,
        "hole_share": HOLE_SHARE, "wgmma": os.environ.get("PCONV_WGMMA") == "1",
    }  # fmt: skip


def keep(out: Path, result: dict[str, Any]) -> None:
    partial = out.with_suffix(".tmp")
    partial.write_text(json.dumps(result, indent=1) + "\n")
    os.replace(partial, out)


def main() -> int:
    args = parser(__doc__).parse_args()
    if not torch.cuda.is_available():
        print("not measured: torch sees no GPU")
        return 0
    stop = time.monotonic() + args.seconds
    dtype = getattr(torch, args.dtype)
    result = {**conditions(args), "ceilings": measure.ceilings("cuda", dtype), "layers": []}
    # The layers bound by arithmetic first: they are what the claims are about.
    order = ["enc2", "dec4", "dec3", "dec2", "enc3", "dec5", "enc4", "enc1", "dec1", "enc5", "dec6"]
    cases = {case.name: case for case in paper_layers(args.size, args.batch)}
    for name in [*order, *(name for name in cases if name not in order)]:
        if time.monotonic() > stop:
            result["cut_short_before"] = name
            break
        result["layers"].append(measure_layer(cases[name], dtype, result["ceilings"], args.rounds))
        keep(args.out, result)
    return 0


if __name__ == "__main__":
    sys.exit(main())
