"""What a network keeps for its backward pass, and the peak of a process that trains or infers.

python -m benchmarks.memory > memory.json        the 7-level network at 256 x 256, batch 2, fp32, channels_last
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
from typing import Any

import torch
from torch import nn

from benchmarks import measure
from pconv_cuda import PConvUNet

VARIANTS: dict[str, dict[str, Any]] = {"plain": {"conv": "plain"}, "composed": {"composed": True}, "ours": {}}


def kept_bytes(model: nn.Module, *inputs: torch.Tensor) -> int:
    """Bytes of what autograd saves in one forward: every storage once, without parameters and buffers."""
    own = {tensor.untyped_storage().data_ptr() for tensor in (*model.parameters(), *model.buffers())}
    kept: dict[int, torch.Tensor] = {}  # holding on to the tensors: a freed storage's address may come again

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.untyped_storage().data_ptr() not in own:
            kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        output = model(*inputs)
    total = sum(tensor.untyped_storage().nbytes() for tensor in kept.values())
    del output
    return total


def one(variant: str, mode: str, size: int, batch: int, levels: int) -> dict[str, Any]:
    """Measured in a process of its own: its peak holds libraries and parameters too, alike for all variants."""
    torch.manual_seed(0)
    layout = torch.channels_last
    model = PConvUNet(levels=levels, **VARIANTS[variant.removesuffix("+fuse")]).to(memory_format=layout)
    image = torch.randn(batch, 3, size, size).contiguous(memory_format=layout)
    mask = torch.rand(batch, 1, size, size) > 0.25
    result: dict[str, Any] = {"variant": variant, "mode": mode}
    if mode == "training":
        model(image, mask)[0].sum().backward()
    else:
        model.eval()
        if variant.endswith("+fuse"):
            model = model.fuse()
        with torch.inference_mode():
            model(image, mask)
    result["process_peak_mb"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1)
    if mode == "training":  # afterwards, for it holds on to everything
        result["kept_for_backward_mb"] = round(kept_bytes(model, image, mask) / 2**20, 2)
    return result


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--levels", type=int, default=7)
    parser.add_argument("--one", nargs=2, metavar=("VARIANT", "MODE"), help="one measurement, in this process")
    options = parser.parse_args(arguments)
    sizes = {"size": options.size, "batch": options.batch, "levels": options.levels}
    if options.one:
        print(json.dumps(one(*options.one, **sizes)))
        return 0
    runs = [(variant, "training") for variant in VARIANTS]
    runs += [(variant, "inference") for variant in (*VARIANTS, "ours+fuse")]
    given = [word for name, value in sizes.items() for word in (f"--{name}", str(value))]
    rows = []
    for variant, mode in runs:
        command = [sys.executable, "-m", "benchmarks.memory", *given, "--one", variant, mode]
        rows.append(json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout))
    print(json.dumps({"machine": measure.machine(), **sizes, "results": rows}, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
