"""The paper's network and its decoder stages on a GPU, against plain convolutions and the published partial network.

    python -m benchmarks.gpu.networks OUT.json [--seconds N] [--size 512] [--batch 6] [--dtype bfloat16] [--compiled]

Networks, forward and forward + backward, under CUDA graphs: ``ours`` on mma.sync and on wgmma, folded for inference
too; ``plain``, the same network of ordinary convolutions; ``published``, the unfused partial network with masks of
every channel. Then the decoder's stages. ``--compiled`` measures plain, published and ours under torch.compile alone.
Rivals take turns behind a flush of the L2 cache; a result is written when it is measured, with each call's peak memory.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from cases_upcat import Stage, paper_stages

from benchmarks import bench_stages, rivals
from benchmarks.gpu import device, layers
from benchmarks.gpu.layers import HOLE_SHARE, Call, blob_mask, every
from pconv_cuda import PConvUNet


def stage_calls(stage: Stage, dtype: torch.dtype, backward: bool) -> dict[str, Call]:
    generator = torch.Generator().manual_seed(0)

    def channels_last(*shape: int) -> torch.Tensor:
        drawn = torch.randn(shape, generator=generator).to(device.NAME, dtype, memory_format=torch.channels_last)
        return drawn.requires_grad_(backward)

    n, h, w = stage.n, stage.h, stage.w
    low, skip = channels_last(n, stage.low, h, w), channels_last(n, stage.skip, 2 * h, 2 * w)
    weight = channels_last(stage.k, stage.low + stage.skip, 3, 3)
    bias = torch.zeros(stage.k, dtype=dtype, device=device.NAME) if stage.bias else None
    low_mask, skip_mask = (
        blob_mask(n, scale * h, scale * w, HOLE_SHARE, generator).to(device.NAME) for scale in (1, 2)
    )
    grad = torch.randn(n, stage.k, 2 * h, 2 * w).to(device.NAME, dtype, memory_format=torch.channels_last)

    def call(rival: Callable[..., torch.Tensor]) -> Any:
        with torch.set_grad_enabled(backward):
            output = rival(low, low_mask, skip, skip_mask, weight, bias)
            return torch.autograd.grad(output, (low, skip, weight), grad) if backward else output

    ours = every("ours", lambda: call(bench_stages.RIVALS["ours"]))
    chosen = {name: bench_stages.RIVALS[name] for name in ("plain", "composed", "unfused_full")}
    return {**ours, **{name: (lambda rival=rival: call(rival)) for name, rival in chosen.items()}}


class Networks:
    """All with the same parameters, on the same pictures."""

    def __init__(self, args: argparse.Namespace, backward: bool) -> None:
        self.args, self.backward = args, backward
        self.dtype = getattr(torch, args.dtype)
        generator = torch.Generator().manual_seed(0)
        shape = (args.batch, 3, args.size, args.size)
        image, self.grad = (torch.randn(shape, generator=generator).to(device.NAME, self.dtype) for _ in range(2))
        self.image = image.contiguous(memory_format=torch.channels_last)
        self.mask = blob_mask(args.batch, args.size, args.size, HOLE_SHARE, generator).to(device.NAME)

    def network(self, **options: Any) -> PConvUNet:
        torch.manual_seed(0)
        model = PConvUNet(levels=self.args.levels, **options)
        return model.to(device.NAME, self.dtype, memory_format=torch.channels_last).train(self.backward)

    def call(self, model: PConvUNet, forward: Callable[[], torch.Tensor]) -> Call:
        def run() -> torch.Tensor:
            with torch.set_grad_enabled(self.backward):
                output = forward()
                if self.backward:
                    model.zero_grad(set_to_none=True)
                    output.backward(self.grad)
            return output

        return run

    def forwards(self) -> dict[str, tuple[PConvUNet, Callable[[], torch.Tensor]]]:
        ours, plain, published = self.network(), self.network(conv="plain"), self.network()
        return {
            "ours": (ours, lambda: ours(self.image, self.mask)[0]),
            "plain": (plain, lambda: plain(self.image, self.mask)[0]),
            "published": (published, lambda: rivals.published_network(published, self.image, self.mask)),
        }

    def eager(self) -> Iterator[tuple[str, Callable[[], Call]]]:
        """(name, what makes the call): a graph is captured with the kernels that are chosen at that moment."""
        forwards = self.forwards()
        if not self.backward:
            folded = self.network().fuse()
            forwards["ours_fused"] = (folded, lambda: folded(self.image, self.mask)[0])
        for name, (model, forward) in forwards.items():
            call = self.call(model, forward)
            families = [False, True] if name.startswith("ours") and device.has_wgmma() else [False]
            for wgmma in families:

                def graph(call: Call = call, wgmma: bool = wgmma) -> Call:
                    device.take_wgmma(wgmma)
                    return device.captured(call)

                device.take_wgmma(wgmma)
                call()  # kernels are checked at their first use, and the check's memory is not the network's
                model.zero_grad(set_to_none=True)
                yield f"{name}_wgmma" if wgmma else name, graph

    def compiled(self) -> Iterator[tuple[str, Callable[[], Call]]]:
        device.take_wgmma(False)
        for name, (model, forward) in self.forwards().items():

            def graph(model: PConvUNet = model, forward: Callable[[], torch.Tensor] = forward) -> Call:
                torch._dynamo.reset()
                return device.captured(self.call(model, torch.compile(forward, dynamic=False)))

            yield f"{name}_compiled", graph


def peak(make: Callable[[], Call]) -> tuple[Call, float]:
    """The call, and the MiB at most in use while it is captured, beside what lay there before."""
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    call = make()
    torch.cuda.synchronize()
    return call, round((torch.cuda.max_memory_allocated() - before) / 2**20, 1)


def measure_networks(
    args: argparse.Namespace, result: dict[str, Any], found: dict[str, Any], what: str, backward: bool, stop: float
) -> None:
    """Each rival is captured, then timed together with those before it, and written: a cut loses the last alone."""
    networks = Networks(args, backward)
    calls: dict[str, Call] = {}
    for name, make in networks.compiled() if args.compiled else networks.eager():
        if time.monotonic() > stop:
            result["cut_short_before"] = f"{name}, {what}"
            break
        try:
            calls[name], found["peak_mib"][name] = peak(make)
            found["times"] = layers.timed(calls, args.rounds)
        except Exception as error:
            calls.pop(name, None)
            found["errors"][name] = f"{type(error).__name__}: {error}"[:600]
        layers.keep(args.out, result)


def main() -> int:
    args = layers.options(__doc__).parse_args()
    if not device.is_there():
        print("not measured: torch sees no GPU")
        return 0
    stop = time.monotonic() + args.seconds
    dtype = getattr(torch, args.dtype)
    result: dict[str, Any] = {**layers.conditions(args), "levels": args.levels, "networks": {}, "stages": []}
    if args.compiled and args.out.is_file():  # beside what was measured eagerly
        result = {**json.loads(args.out.read_text()), "networks_compiled": {}}
    found = result["networks_compiled" if args.compiled and "networks_compiled" in result else "networks"]
    for what, backward in (("forward", False), ("forward_backward", True)):
        found[what] = {"times": {}, "peak_mib": {}, "errors": {}}
        measure_networks(args, result, found[what], what, backward, stop)
        torch.cuda.empty_cache()
    if args.compiled:
        return 0
    for stage in paper_stages(args.size, args.batch, args.levels):
        row: dict[str, Any] = {"layer": stage.name}
        for what, backward in (("forward", False), ("forward_backward", True)):
            if time.monotonic() > stop:
                result["cut_short_before"] = f"{stage.name}, {what}"
                layers.keep(args.out, result)
                return 0
            row[what] = layers.timed(stage_calls(stage, dtype, backward), args.rounds)
            result["stages"] = [other for other in result["stages"] if other["layer"] != stage.name] + [row]
            layers.keep(args.out, result)
    return 0


if __name__ == "__main__":
    sys.exit(main())
