"""Time PartialConv2d, forward, beside the same layer in torch's own operators and beside a plain convolution.

python examples/benchmark_layer.py [--channels 64] [--size 128] [--rounds 15] [--device cpu|cuda]
"""

import argparse
from statistics import median
from time import perf_counter

import torch
import torch.nn.functional as F
from torch import Tensor

from pconv_cuda import PartialConv2d


def unfused(x: Tensor, mask: Tensor, weight: Tensor) -> Tensor:
    """Equation 1 of Liu et al. 2018, without a bias; the mask has one channel, or as many as x (the usual way)."""
    ones = torch.ones_like(weight) if mask.shape[1] > 1 else weight.new_ones(1, 1, 3, 3)
    count = F.conv2d(mask, ones, padding=1)
    return F.conv2d(x * mask, weight, padding=1) * (ones[0].numel() / (count + 1e-8) * (count > 0))


@torch.inference_mode()
def main(arguments: list[str] | None = None) -> tuple[dict[str, float], float]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in {"channels": 64, "size": 128, "rounds": 15}.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    args = parser.parse_args(arguments)
    if min(args.channels, args.size, args.rounds) < 1 or (args.device == "cuda" and not torch.cuda.is_available()):
        parser.error("expected --channels, --size and --rounds from 1 on, and a GPU for --device cuda")
    layer = PartialConv2d(args.channels, args.channels, 3, padding=1, bias=False).to(args.device)
    x = torch.randn(2, args.channels, args.size, args.size, device=args.device)
    mask = torch.rand(2, 1, args.size, args.size, device=args.device) > 0.25  # True is valid, False is a hole
    one, every = mask.float(), mask.float().repeat(1, args.channels, 1, 1)
    rivals = {
        "plain": lambda: F.conv2d(x, layer.weight, padding=1),
        "PartialConv2d": lambda: layer(x, mask),
        "unfused, mask of one channel": lambda: unfused(x, one, layer.weight),
        "unfused, mask of every channel": lambda: unfused(x, every, layer.weight),
    }
    times: dict[str, list[float]] = {name: [] for name in rivals}  # milliseconds
    for turn in range(args.rounds + 2):  # rivals take turns, so that a slow moment of the machine hits all of them
        for name, call in rivals.items():
            start = perf_counter()
            call()
            torch.cuda.synchronize() if x.is_cuda else None
            times[name] += [1000 * (perf_counter() - start)] * (turn > 1)  # the first two warm up
    medians = {name: median(each) for name, each in times.items()}
    for name, ms in medians.items():
        print(f"{name:<32}{ms:8.2f} ms{ms / medians['plain']:7.2f} x plain")
    apart = max((call() - layer(x, mask)).abs().max().item() for name, call in rivals.items() if "unfused" in name)
    print(f"largest difference between the unfused layers and PartialConv2d: {apart:.0e}")
    return medians, apart


if __name__ == "__main__":
    main()
