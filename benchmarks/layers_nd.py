"""Layers of one to three axes and transposed ones on a CPU: ours, torch's plain layer, and the usual unfused layer.

python -m benchmarks.layers_nd [--threads 1,2] [--rounds 15] > result.json

"unfused" convolves a full-channel mask with ones beside the data, divides, and selects: what layers of other packages
do. Holes are 30 % of the positions, at random. Times of one round are compared with each other (measure.py): by the
clock, and by the seconds that the process had a core ("cpu"), which other work on the machine disturbs less.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

import pconv_cuda
from benchmarks import measure


@dataclass(frozen=True)
class Layer:
    """``kind`` of torch.nn, its arguments, and the input ``(N, C, ...)``."""

    kind: str
    channels: tuple[int, int]
    window: int
    input: tuple[int, ...]
    stride: int = 1
    padding: int = 0


LAYERS = {
    "Conv3d 32 -> 64, k 3, 16 x 64 x 64": Layer("Conv3d", (32, 64), 3, (1, 32, 16, 64, 64), padding=1),
    "Conv1d 64 -> 128, k 9, 4 x 16384": Layer("Conv1d", (64, 128), 9, (4, 64, 16384), padding=4),
    "ConvTranspose2d 128 -> 64, k 4, stride 2, 4 x 64 x 64": Layer(
        "ConvTranspose2d", (128, 64), 4, (4, 128, 64, 64), 2, 1
    ),
    "ConvTranspose3d 64 -> 32, k 4, stride 2, 8 x 32 x 32": Layer(
        "ConvTranspose3d", (64, 32), 4, (1, 64, 8, 32, 32), 2, 1
    ),
    "ConvTranspose1d 128 -> 64, k 4, stride 2, 4 x 8192": Layer("ConvTranspose1d", (128, 64), 4, (4, 128, 8192), 2, 1),
}


def unfused(plain: nn.Module, ones: nn.Module, x: Tensor, mask: Tensor, full: float) -> Tensor:
    """With a full-channel mask; ``ones`` is the plain layer with weights of 1 and no bias."""
    bias: Any = plain.bias
    raw = plain(x * mask) - bias.view(-1, *(1,) * (x.dim() - 2))
    with torch.no_grad():
        count = ones(mask)
        ratio = torch.where(count > 0, full / count.clamp(min=1), 0.0)
    return torch.where(count > 0, raw * ratio + bias.view(-1, *(1,) * (x.dim() - 2)), 0.0)


def rivals_of(layer: Layer, backward: bool) -> measure.Rivals:
    torch.manual_seed(0)
    options = {"stride": layer.stride, "padding": layer.padding}
    plain = getattr(nn, layer.kind)(*layer.channels, layer.window, **options)
    ours = getattr(pconv_cuda, f"Partial{layer.kind}")(*layer.channels, layer.window, **options)
    ours.load_state_dict(plain.state_dict())
    ones = getattr(nn, layer.kind)(*layer.channels, layer.window, bias=False, **options)
    nn.init.ones_(ones.weight)
    x = torch.randn(layer.input, requires_grad=True)
    mask = torch.rand(layer.input[0], 1, *layer.input[2:]) > 0.3
    whole, full = mask.float().expand_as(x).contiguous(), float(ours.weight[0].numel())
    grad = torch.randn_like(plain(x))

    def timed(model: nn.Module, call: Callable[[], Tensor]) -> Callable[[], Any]:
        def run() -> None:
            if not backward:
                with torch.no_grad():
                    call()
                return
            x.grad = None
            model.zero_grad()
            call().backward(grad)

        return run

    return {
        "plain": timed(plain, lambda: plain(x)),
        "ours": timed(ours, lambda: ours(x, mask)),
        "unfused": timed(plain, lambda: unfused(plain, ones, x, whole, full)),
    }


def alternate(rivals: measure.Rivals, rounds: int) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """Seconds by the clock, and of CPU time, of every call; each rival runs once a round."""
    clock: dict[str, list[float]] = {name: [] for name in rivals}
    cpu: dict[str, list[float]] = {name: [] for name in rivals}
    for turn in range(rounds + 1):
        for name, call in rivals.items():
            begin = time.perf_counter(), time.process_time()
            call()
            if turn:  # the first round warms up
                clock[name].append(time.perf_counter() - begin[0])
                cpu[name].append(time.process_time() - begin[1])
    return clock, cpu


def in_pairs(rivals: measure.Rivals, rounds: int) -> dict[str, Any]:
    """Each rival in turns with the plain layer alone: what a third one leaves of malloc's heap changes its time."""
    result: dict[str, Any] = {"clock": {}, "cpu": {}}
    for rival in ("unfused", "ours"):
        pair = {name: rivals[name] for name in ("plain", rival)}
        for kind, times in zip(("clock", "cpu"), alternate(pair, rounds), strict=True):
            result[kind].update(measure.summary(times, "plain"))  # the plain layer's own times: beside ours
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", default="1,2")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--only", default="", help="layers whose name has this in it")
    args = parser.parse_args()
    result: dict[str, Any] = {"machine": measure.machine(), "rounds": args.rounds, "layers": {}}
    for threads in map(int, args.threads.split(",")):
        torch.set_num_threads(threads)
        for name, layer in LAYERS.items():
            if args.only not in name:
                continue
            entry = result["layers"].setdefault(name, {})
            for what in ("forward", "forward + backward"):
                entry[f"{what}, threads {threads}"] = in_pairs(rivals_of(layer, what != "forward"), args.rounds)
    result["load after"] = measure.machine()["load"]
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
