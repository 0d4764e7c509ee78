"""What choosing kernels by measurement gains: the network by the static plan and with ``backends.benchmark``.

    python -m benchmarks.gpu.chosen OUT.json [--size 512] [--batch 6] [--dtype bfloat16] [--levels 8]

The same network in each pass, once captured as planned and once after a call that measured every layer; the two take
turns. ``choices`` counts, for each pass, the calls that went to each path: 0 the library's convolution, 1 our kernels
on mma.sync, 2 on wgmma as well; ``retiled`` those whose tile is not the plan's. Choices that other programs left on the
machine are read too.
"""

from __future__ import annotations

import sys
from collections import Counter
from typing import Any

import torch

import pconv_cuda
from benchmarks.gpu import device, layers, networks
from pconv_cuda.ops import extension


def choices() -> dict[str, int]:
    """What was measured so far."""
    module = extension.cuda_module()
    return {} if module is None else module.measured_choices()


def measure(runs: networks.Networks, rounds: int) -> dict[str, Any]:
    device.take_wgmma(True)
    model, forward = runs.forwards()["ours"]
    call, before = runs.call(model, forward), choices()
    calls = {}
    for name, measured in (("planned", False), ("measured", True)):
        pconv_cuda.backends.benchmark = measured
        calls[name] = device.captured(call)  # warmed up before: nothing is measured under capture
    pconv_cuda.backends.benchmark = False
    made = {key: path for key, path in choices().items() if key not in before}
    return {
        "times": layers.timed(calls, rounds),
        "choices": {str(path): count for path, count in sorted(Counter(each % 16 for each in made.values()).items())},
        "retiled": sum(each > 15 for each in made.values()),
        "measured": made,
    }


def main() -> int:
    args = layers.options(__doc__).parse_args()
    if not device.is_there():
        print("not measured: torch sees no GPU")
        return 0
    result: dict[str, Any] = {**layers.conditions(args), "levels": args.levels, "chosen": {}}
    for what, backward in (("forward", False), ("forward_backward", True)):
        result["chosen"][what] = measure(networks.Networks(args, backward), args.rounds)
        layers.keep(args.out, result)
        torch.cuda.empty_cache()
    return 0


if __name__ == "__main__":
    sys.exit(main())
