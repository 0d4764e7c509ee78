"""The smooth fill and the packaged network on whole pictures.

    python -m benchmarks.gpu.pictures [--quick]

Prints one line of JSON: milliseconds of each call, medians; the check whether every plane has a valid pixel, for which
smooth_fill waits, is in them. And how far the device's picture is from the CPU's, in grey levels of 255.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from benchmarks.gpu import device
from pconv_cuda.functional import smooth_fill
from pconv_cuda.masks import draw_mask
from pconv_cuda.models import load_network

SIDES = (256, 1024, 4096)
SHARE = (0.19, 0.21)  # of the holes
ROUNDS = 9


def picture(side: int) -> Tensor:
    """(1, 3, side, side) in [0, 1]: waves of several lengths and noise, so that a fill has something to do."""
    generator = torch.Generator().manual_seed(0)
    at = torch.arange(side, dtype=torch.float32)
    waves = sum(torch.sin(at[:, None] / length + at / (3 * length)) for length in (5.0, 37.0, 301.0))
    return ((waves / 6 + 0.5) + 0.05 * torch.randn(1, 3, side, side, generator=generator)).clamp(0, 1)


def milliseconds(call: Callable[[], Any], rounds: int) -> float:
    """Median, by the clock: the calls wait for the device, or are waited for."""
    found = []
    for _ in range(rounds + 2):
        torch.cuda.synchronize()
        start = time.perf_counter()
        call()
        torch.cuda.synchronize()
        found.append((time.perf_counter() - start) * 1e3)
    return round(statistics.median(found[2:]), 3)


def grey_levels(ours: Tensor, truth: Tensor) -> float:
    return round(float((ours.cpu().float() - truth).abs().max()) * 255, 4)


@torch.no_grad()
def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small pictures, for a rehearsal")
    quick = parser.parse_args().quick
    if not device.is_there():
        print("not measured: torch sees no GPU")
        return 0
    device.set_tf32(False)
    network = load_network("photo").eval()
    wanted = {"nchw fp32": (torch.float32, torch.contiguous_format), "nhwc fp32": (torch.float32, torch.channels_last)}
    wanted["nhwc bf16"] = (torch.bfloat16, torch.channels_last)
    result: dict[str, Any] = {}
    for side in (32, 48) if quick else SIDES:
        x, valid = picture(side), torch.from_numpy(draw_mask(side, 0, "mixed", SHARE).copy())[None, None]
        here, mask = x.to(device.NAME), valid.to(device.NAME)
        found = result[f"{side}x{side}"] = {"smooth ms": milliseconds(lambda: smooth_fill(here, mask), ROUNDS)}  # noqa: B023
        if side <= 1024:
            found["smooth, from the CPU's"] = grey_levels(smooth_fill(here, mask), smooth_fill(x, valid))
            truth = network.cpu().float()(network.normalize(x), valid)[0]
        for name, (dtype, layout) in wanted.items():
            model = network.to(device.NAME, dtype, memory_format=layout)
            image = model.normalize(here).to(dtype, memory_format=layout)
            output = model(image, mask)[0]
            found[f"photo {name} ms"] = milliseconds(lambda: model(image, mask), ROUNDS)  # noqa: B023
            if side <= 1024:
                found[f"photo {name}, from the CPU's"] = grey_levels(output * 0.229, truth * 0.229)
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
