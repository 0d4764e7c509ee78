"""Where a network's time goes: every kernel of a forward and a forward + backward pass, in order, with its time.

    python -m benchmarks.gpu.kernels OUT.json [--size 512] [--batch 6] [--dtype bfloat16] [--levels 8]

Measured by torch.profiler: absolute times are a little longer than without it, shares are right. Ours on mma.sync and
on wgmma, and the plain network for comparison.
"""

from __future__ import annotations

import sys
from typing import Any

import torch

from benchmarks.gpu import device, layers, networks


def kernels_of(call: layers.Call) -> list[tuple[str, float]]:
    """(name, microseconds) of each kernel of the second call, in the order in which they ran."""
    call()
    torch.cuda.synchronize()
    activities = [torch.profiler.ProfilerActivity.CPU if device.REHEARSED else torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities) as profiler:
        call()
        torch.cuda.synchronize()
    events = sorted(profiler.events(), key=lambda event: event.time_range.start)
    wanted = torch.autograd.DeviceType.CPU if device.REHEARSED else torch.autograd.DeviceType.CUDA
    return [(event.name[:160], round(event.time_range.elapsed_us(), 1)) for event in events
            if event.device_type == wanted]  # fmt: skip


def main() -> int:
    args = layers.options(__doc__).parse_args()
    if not device.is_there():
        print("not measured: torch sees no GPU")
        return 0
    result: dict[str, Any] = {**layers.conditions(args), "levels": args.levels, "kernels": {}}
    for what, backward in (("forward", False), ("forward_backward", True)):
        runs = networks.Networks(args, backward)
        for name, (model, forward) in runs.forwards().items():
            for wgmma in [False, True] if name == "ours" and device.has_wgmma() else [False]:
                if name == "published":
                    continue
                device.take_wgmma(wgmma)
                key = f"{name}{'_wgmma' if wgmma else ''}, {what}"
                result["kernels"][key] = kernels_of(runs.call(model, forward))
                layers.keep(args.out, result)
    return 0


if __name__ == "__main__":
    sys.exit(main())
