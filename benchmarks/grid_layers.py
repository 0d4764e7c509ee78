"""The layers that gridded data are filled with today, beside ours: seconds of layer and decoder stage on a CPU.

OMP_NUM_THREADS=1 python -m benchmarks.grid_layers > result.json

The rival is climatereconstructionAI's layer, written down from its arithmetic: a mask in every channel, convolved with
a full filter of ones, output = conv(x * m) / sum + b; its decoder doubles and joins features and masks before. With the
weights times the size of the window that is our layer's output, which is checked before anything is timed. Calls take
turns; medians.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks import measure
from pconv_cuda.functional import partial_conv2d, partial_conv2d_upcat

# name: batch, channels (of a stage: low and skip), height, width, filters, window, stride; its sizes at 72 x 72, where
# its published weights are, and of a globe of one degree
LAYERS = {
    "72 px, encoder 2": (16, (18,), 36, 36, 36, 5, 2),
    "72 px, decoder 2": (16, (36, 18), 36, 36, 18, 3, 1),
    "globe, encoder 2": (2, (64,), 92, 180, 128, 5, 2),
    "globe, decoder 2": (2, (128, 64), 92, 180, 64, 3, 1),
}
HOLES = 0.5


def unfused(x: Tensor, mask: Tensor, weight: Tensor, bias: Tensor, stride: int) -> tuple[Tensor, Tensor]:
    """Its layer; ``mask`` floating and of every channel."""
    where: dict[str, Any] = {"stride": stride, "padding": weight.shape[-1] // 2}
    output = F.conv2d(x * mask, weight, bias, **where)
    with torch.no_grad():
        count = F.conv2d(mask, torch.ones_like(weight), **where)
        empty = count == 0
        count = count.masked_fill(empty, 1.0)
    column = bias.view(1, -1, 1, 1).expand_as(output)
    output = ((output - column) / count + column).masked_fill(empty, 0.0)
    return output, torch.ones_like(output).masked_fill(empty, 0.0)


def calls(shape: tuple[Any, ...]) -> tuple[dict[str, Callable[[], Tensor]], list[Tensor]]:
    """Theirs, ours and the plain convolution, each a function to its output; and what has gradients."""
    batch, channels, height, width, filters, window, stride = shape
    torch.manual_seed(0)
    low = len(channels) == 2
    sizes = [(height // 2, width // 2), (height, width)] if low else [(height, width)]
    tensors = [torch.randn(batch, c, *size) for c, size in zip(channels, sizes, strict=True)]
    masks = [torch.rand(batch, 1, *size) > HOLES for size in sizes]
    full = [mask.float().expand_as(x).contiguous() for mask, x in zip(masks, tensors, strict=True)]
    weight, bias = torch.randn(filters, sum(channels), window, window) * 0.05, torch.randn(filters)
    scaled = weight * weight[0].numel()
    leaves = [*tensors, weight, scaled, bias]
    for each in leaves:
        each.requires_grad_()

    def doubled(x: Tensor) -> Tensor:
        return F.interpolate(x, scale_factor=2, mode="nearest")

    def joined(parts: list[Tensor]) -> Tensor:
        return torch.cat((doubled(parts[0]), parts[1]), 1) if low else parts[0]

    def ours() -> Tensor:
        if low:
            return partial_conv2d_upcat(tensors[0], masks[0], tensors[1], masks[1], weight, bias)[0]
        return partial_conv2d(tensors[0], masks[0], weight, bias, stride, window // 2)[0]

    return {
        "plain": lambda: F.conv2d(joined(tensors), weight, bias, stride, window // 2),
        "unfused": lambda: unfused(joined(tensors), joined(full), scaled, bias, stride)[0],
        "pconv_cuda": ours,
    }, leaves


def backward(call: Callable[[], Tensor], leaves: list[Tensor]) -> None:
    for each in leaves:
        each.grad = None
    call().sum().backward()


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 25
    found: dict[str, Any] = {"machine": measure.machine(), "holes": HOLES, "layers": {}}
    for name, shape in LAYERS.items():
        rivals, leaves = calls(shape)
        with torch.no_grad():
            theirs, own = rivals["unfused"](), rivals["pconv_cuda"]()
            apart = float((theirs - own).abs().max() / own.abs().max())
            if not apart < 1e-5:
                raise SystemExit(f"{name}: the outputs differ by {apart:.2g} of the largest value")
            forward = measure.alternate(dict(rivals), rounds)
        steps = {each: partial(backward, call, leaves) for each, call in rivals.items()}
        both = measure.alternate(steps, rounds)
        found["layers"][name] = {
            "shape": shape,
            "apart": apart,
            "forward": measure.summary(forward, "plain"),
            "forward + backward": measure.summary(both, "plain"),
        }
        print(name, {key: value["ratio"] for key, value in found["layers"][name]["forward"].items()}, file=sys.stderr)
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
