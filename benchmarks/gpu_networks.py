"""The paper's network and its decoder stages on a GPU, against plain convolutions and the published partial network.

    python -m benchmarks.gpu_networks OUT.json [--seconds N] [--size 512] [--batch 6] [--dtype bfloat16]

Networks: ``ours``; ``plain``, the same network of ordinary convolutions; ``published``, the unfused partial network
with masks of every channel; each eager and under torch.compile, forward and forward + backward, peak memory beside it.
Timed as in benchmarks.gpu_layers; the result is written after every measurement.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from cases_upcat import Stage, paper_stages

from benchmarks import bench_stages, gpu_layers, rivals
from benchmarks.gpu_layers import Call, blob_mask
from pconv_cuda import PConvUNet

HOLE_SHARE = gpu_layers.HOLE_SHARE


def stage_calls(stage: Stage, dtype: torch.dtype, backward: bool) -> dict[str, Call]:
    generator = torch.Generator().manual_seed(0)

    def channels_last(*shape: int) -> torch.Tensor:
        drawn = torch.randn(shape, generator=generator).to("cuda", dtype, memory_format=torch.channels_last)
        return drawn.requires_grad_(backward)

    n, h, w = stage.n, stage.h, stage.w
    low, skip = channels_last(n, stage.low, h, w), channels_last(n, stage.skip, 2 * h, 2 * w)
    weight = channels_last(stage.k, stage.low + stage.skip, 3, 3)
    bias = torch.zeros(stage.k, dtype=dtype, device="cuda") if stage.bias else None
    masks = [blob_mask(n, h, w, HOLE_SHARE, generator).cuda(), blob_mask(n, 2 * h, 2 * w, HOLE_SHARE, generator).cuda()]
    grad = torch.randn(n, stage.k, 2 * h, 2 * w, device="cuda").to(dtype, memory_format=torch.channels_last)
    compiled = torch.compile(bench_stages.plain, dynamic=False)

    def call(rival: Callable[..., torch.Tensor]) -> Any:
        with torch.set_grad_enabled(backward):
            output = rival(low, masks[0], skip, masks[1], weight, bias)
            return torch.autograd.grad(output, (low, skip, weight), grad) if backward else output

    chosen = {name: bench_stages.RIVALS[name] for name in ("ours", "plain", "composed", "unfused_full")}
    return {name: (lambda rival=rival: call(rival)) for name, rival in {**chosen, "plain_compiled": compiled}.items()}


def network_calls(args: argparse.Namespace, backward: bool) -> dict[str, Call]:
    """All with the same parameters; ``ours_fused`` (after fuse()) infers only."""
    dtype, device = getattr(torch, args.dtype), "cuda"
    generator = torch.Generator().manual_seed(0)
    shape = (args.batch, 3, args.size, args.size)
    image = torch.randn(shape, generator=generator).to(device, dtype, memory_format=torch.channels_last)
    mask = blob_mask(args.batch, args.size, args.size, HOLE_SHARE, generator).to(device)
    grad = torch.randn(shape, generator=generator).to(device, dtype)

    def network(**options: Any) -> PConvUNet:
        torch.manual_seed(0)
        model = PConvUNet(levels=args.levels, **options).to(device, dtype, memory_format=torch.channels_last)
        return model.train(backward)

    models = {"ours": network(), "plain": network(conv="plain"), "published": network()}

    def forward_of(name: str) -> Callable[[], torch.Tensor]:
        model = models[name]
        if name == "published":
            return lambda: rivals.published_network(model, image, mask)
        return lambda: model(image, mask)[0]

    forwards = {name: forward_of(name) for name in models}
    forwards |= {f"{name}_compiled": torch.compile(forwards[name], dynamic=False) for name in list(models)}
    if not backward:
        folded = network().fuse()
        forwards["ours_fused"] = lambda: folded(image, mask)[0]
        models["ours_fused"] = folded

    def call(name: str) -> torch.Tensor:
        with torch.set_grad_enabled(backward):
            output = forwards[name]()
            if backward:
                models[name.removesuffix("_compiled")].zero_grad(set_to_none=True)
                output.backward(grad)
        return output

    return {name: (lambda name=name: call(name)) for name in forwards}


def peaks(calls: dict[str, Call]) -> dict[str, float]:
    """MiB at most in use during a call, beside what lay there before it."""
    found = {}
    for name, call in calls.items():
        call()
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        call()
        torch.cuda.synchronize()
        found[name] = round((torch.cuda.max_memory_allocated() - before) / 2**20, 1)
    return found


def main() -> int:
    parser = gpu_layers.parser(__doc__)
    parser.add_argument("--levels", type=int, default=8)
    args = parser.parse_args()
    if not torch.cuda.is_available():
        print("not measured: torch sees no GPU")
        return 0
    stop = time.monotonic() + args.seconds
    dtype = getattr(torch, args.dtype)
    result: dict[str, Any] = {**gpu_layers.conditions(args), "levels": args.levels, "networks": {}, "stages": []}

    for what, backward in (("forward", False), ("forward_backward", True)):
        calls = network_calls(args, backward)
        memory = peaks(calls)  # it also compiles and warms up
        result["networks"][what] = {
            "times": gpu_layers.summary(gpu_layers.timed(calls, args.rounds)),
            "peak_mib": memory,
        }
        gpu_layers.keep(args.out, result)
        del calls
        torch.cuda.empty_cache()
    for stage in paper_stages(args.size, args.batch, args.levels):
        if time.monotonic() > stop:
            result["cut_short_before"] = stage.name
            break
        row: dict[str, Any] = {"layer": stage.name}
        for what, backward in (("forward", False), ("forward_backward", True)):
            row[what] = gpu_layers.summary(gpu_layers.timed(stage_calls(stage, dtype, backward), args.rounds))
        result["stages"].append(row)
        gpu_layers.keep(args.out, result)
    return 0


if __name__ == "__main__":
    sys.exit(main())
