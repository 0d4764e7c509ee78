"""The paper's layers on a GPU: our kernels on mma.sync, on wgmma and as they are chosen by measurement, cuDNN's plain
convolution, the unfused layer.

    python -m benchmarks.gpu.layers OUT.json [--seconds N] [--size 512] [--batch 6] [--dtype bfloat16] [--compiled]

Rivals take turns, each call timed with CUDA events behind a flush of the L2 cache; a row is written when it is
measured. ``--compiled`` adds the unfused layer under torch.compile, which takes seconds a layer.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from cases import Case, blob_mask, paper_layers

import pconv_cuda
from benchmarks import floors, measure, rivals
from benchmarks.gpu import device
from benchmarks.gpu.session import write
from pconv_cuda import ops

__all__ = ["HOLE_SHARE", "blob_mask", "keep", "options", "timed"]

HOLE_SHARE = 0.25
# The layers bound by arithmetic first: they matter most.
ORDER = ["enc2", "dec4", "dec3", "dec2", "enc3", "dec5", "enc4", "enc1", "dec1", "enc5", "dec6"]
Call = Callable[[], Any]


def timed(calls: dict[str, Call], rounds: int) -> dict[str, dict[str, float]]:
    """Median, least and most microseconds of each call."""
    try:
        times = measure.alternate(calls, rounds, device=device.NAME, events=True)
    finally:
        pconv_cuda.backends.benchmark = False
    return {
        name: {"median_us": statistics.median(v) * 1e6, "min_us": min(v) * 1e6, "max_us": max(v) * 1e6}
        for name, v in times.items()
    }


def on(wgmma: bool, call: Call, *, measured: bool = False) -> Call:
    """``call``, and a backward pass after it, by the kernels on wgmma or by those on mma.sync; ``measured``: by those
    that the first calls time."""

    def chosen() -> Any:
        device.take_wgmma(wgmma)
        pconv_cuda.backends.benchmark = measured
        return call()

    return chosen


def every(name: str, call: Call) -> dict[str, Call]:
    """Our call as planned, where the device has wgmma as planned for that too, and with the kernels that were timed."""
    wgmma = device.has_wgmma()
    return {
        name: on(False, call), **({f"{name}_wgmma": on(True, call)} if wgmma else {}),
        f"{name}_chosen": on(wgmma, call, measured=True),
    }  # fmt: skip


def calls_of(case: Case, dtype: torch.dtype, backward: bool, compiled: bool = False) -> dict[str, Call]:
    generator = torch.Generator().manual_seed(0)

    def channels_last(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator).to(device.NAME, dtype, memory_format=torch.channels_last)

    x = channels_last(case.n, case.c, case.h, case.w).requires_grad_(backward and case.name != "enc1")
    weight = channels_last(case.k, case.c, *case.window).requires_grad_(backward)
    bias = torch.randn(case.k, generator=generator).to(device.NAME, dtype) if case.bias else None
    # One mask for all channels, also where a network has two sources: bench_stages.py measures those.
    mask = blob_mask(case.n, case.h, case.w, HOLE_SHARE, generator).to(device.NAME)
    window = [list(case.stride), list(case.padding), list(case.dilation), 1]
    leaves = [leaf for leaf in (x, weight) if leaf.requires_grad]
    given = (x, mask, weight, bias, case.stride, case.padding)
    layers: dict[str, Call] = {
        **every("ours", lambda: ops.partial_conv2d(x, mask, None, None, weight, bias, *window)[0]),
        "plain": lambda: rivals.plain(*given),
        "unfused": lambda: rivals.unfused_single(*given),
    }
    if compiled:
        # One function compiled for ever new shapes is left to eager mode after eight of them.
        torch._dynamo.reset()
        function = torch.compile(rivals.unfused_single, dynamic=False)
        layers["unfused_compiled"] = lambda: function(*given)
    if not backward:
        return layers
    grad = torch.randn_like(layers["plain"]().detach())
    return {name: (lambda call=call: torch.autograd.grad(call(), leaves, grad)) for name, call in layers.items()}


def options(about: str | None) -> argparse.ArgumentParser:
    """The options that all programs of this folder have."""
    made = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("out", type=Path)
    made.add_argument("--seconds", type=float, default=200)
    made.add_argument("--size", type=int, default=512)
    made.add_argument("--batch", type=int, default=6)
    made.add_argument("--levels", type=int, default=8)
    made.add_argument("--dtype", default="bfloat16", choices=["bfloat16", "float16", "float32"])
    made.add_argument("--rounds", type=int, default=20)
    made.add_argument("--compiled", action="store_true")
    return made


def conditions(args: argparse.Namespace) -> dict[str, Any]:
    """What a result was measured on, and how."""
    return {
        "device": torch.cuda.get_device_name(), "torch": torch.__version__,
        "cudnn": torch.backends.cudnn.version(), "dtype": args.dtype, "batch": args.batch, "size": args.size,
        "hole_share": HOLE_SHARE, "rounds": args.rounds,
    }  # fmt: skip


def keep(out: Path, result: dict[str, Any]) -> None:
    write(out, json.dumps(result, indent=1) + "\n")


def main() -> int:
    args = options(__doc__).parse_args()
    if not device.is_there():
        print("not measured: torch sees no GPU")
        return 0
    stop = time.monotonic() + args.seconds
    dtype = getattr(torch, args.dtype)
    ceiling = measure.ceilings(device.NAME, dtype, events=True)
    rows: list[dict[str, Any]] = []
    result = {**conditions(args), "ceilings": ceiling, "layers": rows}
    if args.compiled and args.out.is_file():  # beside what was measured eagerly
        result = {**json.loads(args.out.read_text()), "layers_compiled": rows}
    cases = {case.name: case for case in paper_layers(args.size, args.batch)}
    cases = {name: case for name, case in cases.items() if int(name[3:]) <= args.levels}
    for name in [*(name for name in ORDER if name in cases), *(name for name in cases if name not in ORDER)]:
        floor = floors.milliseconds(floors.layer(cases[name], dtype.itemsize, False), ceiling)
        row: dict[str, Any] = {"layer": name, "floor_us": {kind: 1e3 * floor[kind] for kind in ("arithmetic", "bytes")}}
        for what, backward in (("forward", False), ("forward_backward", True)):
            if time.monotonic() > stop:
                result["cut_short_before"] = f"{name}, {what}"
                keep(args.out, result)
                return 0
            row[what] = timed(calls_of(cases[name], dtype, backward, args.compiled), args.rounds)
            rows[:] = [other for other in rows if other["layer"] != name] + [row]
            keep(args.out, result)
    return 0


if __name__ == "__main__":
    sys.exit(main())
